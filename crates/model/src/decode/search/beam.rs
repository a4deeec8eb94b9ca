//! Beam search, frame by frame.
//!
//! Lines of tokens are compared where they have come equally far: at the end of a frame. Within one, each line goes on
//! by single tokens, and those that close the frame early wait for the others. A line is given up within a frame as
//! soon as it is less likely than `width` that have closed it, since more tokens never make it likelier.

use std::cmp::Ordering;
use std::slice::ChunksExact;

use kapell_music::encode::Token;

use super::choice::Scores;
use super::{Beam, Line, Run, Stuck};

/// The lines of a beam within one frame.
#[derive(Debug)]
pub(super) struct Lines<S> {
    /// Under way.
    pub(super) open: Vec<Line<S>>,
    /// At the frame's end: lines, and the tokens that close them, which are not pushed yet.
    closed: Vec<Closed<S>>,
    beam: Beam,
}

#[derive(Debug)]
struct Closed<S> {
    line: Line<S>,
    token: Token,
    id: u16,
    score: f64,
}

/// A line and a token that may come next.
struct Candidate {
    line: usize,
    token: Token,
    id: u16,
    score: f64,
}

impl<S> Lines<S> {
    pub(super) fn new(line: Line<S>, beam: Beam) -> Self {
        Self { open: vec![line], closed: Vec::new(), beam }
    }

    /// The score that a line must beat to be among those that close the frame.
    fn bar(&self, width: usize) -> f64 {
        match self.closed.get(width - 1) {
            Some(last) => last.score,
            None => f64::NEG_INFINITY,
        }
    }
}

impl<S: Clone> Run<S> {
    /// Takes the scores of the open lines; none when all have come to their ends.
    pub(super) fn advance_lines(
        &mut self,
        mut lines: Lines<S>,
        rows: ChunksExact<'_, f32>,
    ) -> Option<Lines<S>> {
        let width = lines.beam.width.max(1);
        let held = width * lines.beam.look_ahead.max(1);
        let fed = std::mem::take(&mut lines.open);
        let (mut closing, mut going) = (Vec::new(), Vec::new());
        for (at, (line, row)) in fed.iter().zip(rows).enumerate() {
            let scores = Scores::new(row);
            for (token, id) in self.choices(&line.cursor.allowed(&self.task)) {
                let score = line.log_likelihood + scores.log_probability(id);
                let candidate = Candidate { line: at, token, id, score };
                let closes = matches!(token, Token::FrameEnd | Token::End);
                if closes { &mut closing } else { &mut going }.push(candidate);
            }
        }
        if closing.is_empty() && going.is_empty() && lines.closed.is_empty() {
            self.stuck = Some(Stuck { frame: fed.first().map_or(0, |line| line.cursor.frame()) });
            return None;
        }
        closing.sort_by(by_score);
        closing.truncate(held);
        let close = |candidate: Candidate| {
            let Candidate { line, token, id, score } = candidate;
            Closed { line: fed[line].clone(), token, id, score }
        };
        lines.closed.extend(closing.into_iter().map(close));
        lines.closed.sort_by(|a, b| b.score.total_cmp(&a.score));
        lines.closed.truncate(held);
        let bar = lines.bar(held);
        going.retain(|candidate| candidate.score > bar || lines.closed.len() < held);
        going.sort_by(by_score);
        // Lines whose next token is given have nothing to choose: they are cut behind it.
        let forced = going.len() <= fed.len() && lines.closed.is_empty();
        going.truncate(if forced { held } else { width });
        for Candidate { line, token, id, score } in going {
            let line = fed[line].clone();
            lines.open.extend(self.extend(line, token, id, score));
        }
        if lines.open.is_empty() {
            for Closed { line, token, id, score } in std::mem::take(&mut lines.closed) {
                lines.open.extend(self.extend(line, token, id, score));
            }
        }
        (!lines.open.is_empty()).then_some(lines)
    }
}

/// The likeliest first; of equals, the one of the better line, then the lower id.
fn by_score(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then_with(|| (a.line, a.id).cmp(&(b.line, b.id)))
}
