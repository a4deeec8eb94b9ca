//! The choice of tokens: searches that offer rows to a model, step by step, so that many can share its products.
//!
//! A [`Run`] is one search under way. It says which tokens to feed to which rows; [`step`] feeds the rows of any number
//! of runs to a model at once, and hands each its scores back. Nothing is computed twice: a row's state goes on from
//! token to token and is cloned where a search branches.

mod beam;
mod choice;

use std::sync::Arc;

use kapell_music::encode::Token;

use super::grammar::{Allowed, Cursor};
use super::task::Task;
use super::vocabulary::Vocabulary;
use crate::infer::{Row, Stepper};
use beam::Lines;
pub use choice::Sampling;
use choice::Scores;

/// What scores the next token: a model, or a table in a test.
pub trait NextToken {
    /// Where a row of tokens stands; cloning it branches off.
    type State: Clone;

    /// Before any token.
    fn start(&self) -> Self::State;

    /// Feeds one token to every row; `logits [rows, V]` become the scores of the token after it.
    fn step(&mut self, rows: &mut [&mut Self::State], tokens: &[u16], logits: &mut [f32]);
}

impl NextToken for Stepper {
    type State = Row;

    fn start(&self) -> Row {
        self.model().start()
    }

    fn step(&mut self, rows: &mut [&mut Row], tokens: &[u16], logits: &mut [f32]) {
        Stepper::step(self, rows, tokens, logits);
    }
}

/// How tokens are chosen where the choice is free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Search {
    /// The most likely one of those that are allowed; of equals, the one with the lowest id.
    Greedy,
    Beam(Beam),
    Sample(Sampling),
}

/// Several lines at once, frame by frame, and greedy's beside them: the likeliest in all wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beam {
    /// Lines that go on from frame to frame; 1 at least.
    pub width: usize,
    /// So many times as many lines hear the next frame's given notes before they are cut to the width; 1 is none.
    pub look_ahead: usize,
}

impl Default for Beam {
    fn default() -> Self {
        Self { width: 5, look_ahead: 1 }
    }
}

/// A decoded piece, as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// START to END.
    pub tokens: Vec<Token>,
    /// Natural logarithm of the probability that the model gives to all tokens after START, the forced ones included,
    /// among its whole vocabulary.
    pub log_likelihood: f64,
}

/// A search that found no way to the end, which a vocabulary that lacks notes can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model's vocabulary leaves no way on in frame {frame}; use a model that was trained on scores")]
pub struct Stuck {
    pub frame: usize,
}

/// A line of tokens under way. Its last token is not fed yet.
#[derive(Debug, Clone)]
struct Line<S> {
    state: S,
    cursor: Cursor,
    /// The last token: its id, and its place in the run's history.
    id: u16,
    place: usize,
    log_likelihood: f64,
}

/// One search under way.
#[derive(Debug)]
pub struct Run<S> {
    task: Arc<Task>,
    vocabulary: Arc<Vocabulary>,
    /// One line that always takes its own choice: greedy's, or a draw.
    single: Option<(Line<S>, Option<Sampling>)>,
    /// The beam's.
    lines: Option<Lines<S>>,
    history: History,
    best: Option<(f64, usize)>,
    stuck: Option<Stuck>,
    /// Tokens fed so far, over all rows.
    fed: u64,
}

/// All tokens that were chosen, each with the place of the one before it.
#[derive(Debug, Default)]
struct History(Vec<(Option<usize>, Token)>);

impl History {
    fn push(&mut self, before: Option<usize>, token: Token) -> usize {
        self.0.push((before, token));
        self.0.len() - 1
    }

    /// The line that ends at a place.
    fn line(&self, place: usize) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut at = Some(place);
        while let Some((before, token)) = at.and_then(|at| self.0.get(at)) {
            tokens.push(*token);
            at = *before;
        }
        tokens.reverse();
        tokens
    }
}

impl<S: Clone> Run<S> {
    /// Before START, with a model's first state.
    #[must_use]
    pub fn new(start: S, task: Arc<Task>, vocabulary: Arc<Vocabulary>, search: Search) -> Self {
        let mut history = History::default();
        let place = history.push(None, Token::Start);
        let id = vocabulary.id(Token::Start).unwrap_or(0);
        let line = Line { state: start, cursor: Cursor::new(&task), id, place, log_likelihood: 0.0 };
        let (single, lines) = match search {
            Search::Greedy => (Some((line, None)), None),
            Search::Sample(sampling) => (Some((line, Some(sampling))), None),
            Search::Beam(beam) => (Some((line.clone(), None)), Some(Lines::new(line, beam))),
        };
        Self { task, vocabulary, single, lines, history, best: None, stuck: None, fed: 0 }
    }

    /// Whether there is nothing left to feed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.single.is_none() && self.lines.is_none()
    }

    /// Tokens fed so far, over all rows: what the search has cost.
    #[must_use]
    pub fn fed(&self) -> u64 {
        self.fed
    }

    /// The rows that want a token, and the tokens.
    fn rows(&mut self) -> impl Iterator<Item = (&mut S, u16)> {
        let single = self.single.iter_mut().map(|(line, _)| line);
        let lines = self.lines.iter_mut().flat_map(|lines| lines.open.iter_mut());
        single.chain(lines).map(|line| (&mut line.state, line.id))
    }

    /// Takes the scores of the rows, in their order.
    fn advance(&mut self, logits: &[f32]) {
        let mut rows = logits.chunks_exact(self.vocabulary.len());
        if let Some((line, sampling)) = self.single.take()
            && let Some(row) = rows.next()
        {
            self.fed += 1;
            self.advance_single(line, sampling, row);
        }
        if let Some(lines) = self.lines.take() {
            self.fed += lines.open.len() as u64;
            self.lines = self.advance_lines(lines, rows);
        }
    }

    fn advance_single(&mut self, line: Line<S>, sampling: Option<Sampling>, row: &[f32]) {
        let allowed = line.cursor.allowed(&self.task);
        let scores = Scores::new(row);
        let choices = self.choices(&allowed);
        let chosen = match sampling {
            None => scores.likeliest(&choices),
            Some(sampling) => scores.draw(&choices, sampling, self.history.0.len()),
        };
        let Some((token, id)) = chosen else {
            self.stuck = Some(Stuck { frame: line.cursor.frame() });
            return;
        };
        let score = line.log_likelihood + scores.log_probability(id);
        if let Some(line) = self.extend(line, token, id, score) {
            self.single = Some((line, sampling));
        }
    }

    /// The ids of what is allowed, in their order.
    fn choices(&self, allowed: &Allowed) -> Vec<(Token, u16)> {
        self.vocabulary
            .iter()
            .filter(|(_, token)| allowed.has(*token))
            .map(|(id, token)| (token, id))
            .collect()
    }

    /// A line with one more token; none where that ends it, which is noted.
    fn extend(&mut self, mut line: Line<S>, token: Token, id: u16, score: f64) -> Option<Line<S>> {
        line.place = self.history.push(Some(line.place), token);
        line.cursor.push(&self.task, token);
        line.id = id;
        line.log_likelihood = score;
        if !line.cursor.has_ended() {
            return Some(line);
        }
        if self.best.is_none_or(|(best, _)| score > best) {
            self.best = Some((score, line.place));
        }
        None
    }

    /// What came of it.
    ///
    /// # Errors
    /// If no line came to its end.
    pub fn decoded(&self) -> Result<Decoded, Stuck> {
        match self.best {
            Some((log_likelihood, place)) => Ok(Decoded { tokens: self.history.line(place), log_likelihood }),
            None => Err(self.stuck.unwrap_or(Stuck { frame: 0 })),
        }
    }
}

/// Feeds one token to every row of all runs at once. Returns the number of rows; 0 when all are done. `logits` is
/// scratch, kept between steps.
pub fn step<M: NextToken>(model: &mut M, runs: &mut [&mut Run<M::State>], logits: &mut Vec<f32>) -> usize {
    let mut counts = Vec::with_capacity(runs.len());
    let (mut rows, mut tokens, mut width) = (Vec::new(), Vec::new(), 0);
    for run in runs.iter_mut() {
        width = run.vocabulary.len();
        let before = rows.len();
        for (row, token) in run.rows() {
            rows.push(row);
            tokens.push(token);
        }
        counts.push(rows.len() - before);
    }
    let total = rows.len();
    if total == 0 {
        return 0;
    }
    logits.resize(total * width, 0.0);
    model.step(&mut rows, &tokens, logits);
    let mut left = logits.as_slice();
    for (run, count) in runs.iter_mut().zip(counts) {
        let (own, others) = left.split_at(count * width);
        if count > 0 {
            run.advance(own);
        }
        left = others;
    }
    total
}

/// Runs all to their ends.
pub fn drive<M: NextToken>(model: &mut M, runs: &mut [Run<M::State>]) {
    let mut logits = Vec::new();
    let mut open: Vec<&mut Run<M::State>> = runs.iter_mut().collect();
    while step(model, &mut open, &mut logits) > 0 {
        open.retain(|run| !run.is_done());
    }
}

#[cfg(test)]
mod tests;
