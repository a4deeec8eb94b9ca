//! The choice of tokens: the most likely one, or a draw from the model's distribution.

use kapell_music::encode::Token;

use super::grammar::{Cursor, Next, Task};
use super::vocabulary::Vocabulary;
use crate::infer::{Model, State};
use crate::philox::{Purpose, Stream, unit};

/// What scores the next token: a model, or a table in a test.
pub trait NextToken {
    /// Where rows of tokens stand; cloning it branches off.
    type State: Clone;

    /// Before any token, for so many rows.
    fn state(&self, rows: usize) -> Self::State;

    /// Feeds one token to every row; `logits [rows, V]` become the scores of the token after it.
    fn step(&self, state: &mut Self::State, tokens: &[u16], logits: &mut [f32]);
}

impl NextToken for Model {
    type State = State;

    fn state(&self, rows: usize) -> State {
        Model::state(self, rows)
    }

    fn step(&self, state: &mut State, tokens: &[u16], logits: &mut [f32]) {
        Model::step(self, state, tokens, logits);
    }
}

/// How tokens are chosen where the choice is free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Search {
    /// The most likely one of those that are allowed; of equals, the one with the lowest id.
    Greedy,
    Sample(Sampling),
}

/// A draw among the allowed tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f64,
    /// Only the most likely tokens that together have this probability; in (0, 1].
    pub top_p: f64,
    /// The same seed, model and melody give the same piece.
    pub seed: u64,
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

/// A given note that the model has no token for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model has no token {0}")]
pub struct Unknown(pub Token);

/// Decodes one piece.
///
/// # Errors
/// If the task forces a token that the vocabulary lacks.
///
/// # Panics
/// If the model's vocabulary is not `vocabulary`.
pub fn decode<M: NextToken>(
    model: &M,
    vocabulary: &Vocabulary,
    task: Task<'_>,
    search: Search,
) -> Result<Decoded, Unknown> {
    let mut cursor = Cursor::new(task);
    let mut state = model.state(1);
    let mut logits = vec![0.0_f32; vocabulary.len()];
    let mut decoded = Decoded { tokens: Vec::new(), log_likelihood: 0.0 };
    loop {
        let token = match cursor.next() {
            Next::Done => return Ok(decoded),
            Next::Forced(token) => token,
            Next::Free => choose(&cursor, vocabulary, &logits, search, decoded.tokens.len()),
        };
        let id = vocabulary.id(token).ok_or(Unknown(token))?;
        if token != Token::Start {
            decoded.log_likelihood += log_probability(&logits, id);
        }
        decoded.tokens.push(token);
        cursor.push(token);
        model.step(&mut state, &[id], &mut logits);
    }
}

fn choose(
    cursor: &Cursor<'_>,
    vocabulary: &Vocabulary,
    logits: &[f32],
    search: Search,
    place: usize,
) -> Token {
    let allowed: Vec<(Token, f64)> = vocabulary
        .iter()
        .filter(|(_, token)| cursor.allows(*token))
        .map(|(id, token)| (token, f64::from(logits[usize::from(id)])))
        .collect();
    match search {
        Search::Greedy => most_likely(&allowed),
        Search::Sample(sampling) => sampled(allowed, sampling, place),
    }
}

/// The first of the highest. There is one: the grammar always allows a way to close the frame.
fn most_likely(allowed: &[(Token, f64)]) -> Token {
    let better = |best: (Token, f64), next: &(Token, f64)| if next.1 > best.1 { *next } else { best };
    allowed.iter().fold(allowed[0], better).0
}

fn sampled(mut allowed: Vec<(Token, f64)>, sampling: Sampling, place: usize) -> Token {
    let likeliest = most_likely(&allowed);
    let highest = allowed.iter().map(|(_, logit)| *logit).fold(f64::NEG_INFINITY, f64::max);
    for (_, weight) in &mut allowed {
        *weight = libm::exp((*weight - highest) / sampling.temperature);
    }
    // A stable sort: equals stay in order of id, so that the draw is the same everywhere.
    allowed.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = allowed.iter().map(|(_, weight)| weight).sum();
    let mut kept = 0.0;
    let nucleus = allowed.iter().take_while(|(_, weight)| {
        let before = kept;
        kept += weight;
        before < sampling.top_p * total
    });
    let nucleus: Vec<(Token, f64)> = nucleus.copied().collect();
    let stream = Stream::new(sampling.seed, 0, Purpose::Sample, place as u64, 0);
    let mut left = unit(stream.block(0)[0]) * nucleus.iter().map(|(_, weight)| weight).sum::<f64>();
    for (token, weight) in nucleus {
        left -= weight;
        if left < 0.0 {
            return token;
        }
    }
    likeliest
}

/// ln softmax(logits)[id].
fn log_probability(logits: &[f32], id: u16) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - f64::from(highest))).sum();
    f64::from(logits[usize::from(id)]) - f64::from(highest) - libm::log(sum)
}

#[cfg(test)]
mod tests;
