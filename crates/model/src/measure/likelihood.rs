//! Nats by voice: how well a model predicts each voice's notes in pieces that it has not seen.

use std::ops::AddAssign;

use kapell_music::encode::Token;
use serde::Serialize;

use super::Reference;
use crate::data::DataError;
use crate::decode::Vocabulary;
use crate::evaluate::token_nats;
use crate::weights::Weights;

/// What a token is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 0 to 3, S A T B: the highest voice that sings the note (see [`Reference::new`]).
    Voice(usize),
    /// `|||`, and END, which closes the last frame.
    FrameEnd,
    Fermata,
}

/// The classes by name, in the order of [`Class::place`].
pub const CLASSES: [&str; 6] = ["soprano", "alto", "tenor", "bass", "frame_end", "fermata"];

impl Class {
    fn place(self) -> usize {
        match self {
            Self::Voice(voice) => voice,
            Self::FrameEnd => 4,
            Self::Fermata => 5,
        }
    }
}

/// Some tokens and their nats.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Share {
    /// Predicted tokens: all but START.
    pub tokens: u64,
    /// Summed over them.
    pub nats: f64,
}

impl Share {
    /// Nats a token; 0 where there is none.
    #[must_use]
    pub fn per_token(&self) -> f64 {
        self.nats / (self.tokens.max(1) as f64)
    }
}

impl AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.nats += other.nats;
    }
}

/// A piece's nats. Those of pieces add up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Likelihood {
    pub frames: u64,
    pub all: Share,
    /// By class: what the tokens of each cost, so that they sum to `all`.
    pub by_class: [Share; CLASSES.len()],
}

impl AddAssign for Likelihood {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.all += other.all;
        for (mine, theirs) in self.by_class.iter_mut().zip(other.by_class) {
            *mine += theirs;
        }
    }
}

/// The nats of whole pieces, each from START, every token but START predicted from those before it (teacher forcing).
///
/// # Errors
/// A piece with a token that the model does not know.
pub fn likelihoods(
    weights: &Weights,
    vocabulary: &Vocabulary,
    pieces: &[Reference],
    threads: usize,
) -> Result<Vec<Likelihood>, DataError> {
    let ids = |piece: &Reference| -> Result<Vec<u16>, DataError> {
        let unknown =
            |token: &Token| DataError::UnknownWord { piece: piece.name.clone(), token: token.to_string() };
        piece.tokens.iter().map(|token| vocabulary.id(*token).ok_or_else(|| unknown(token))).collect()
    };
    let streams = pieces.iter().map(ids).collect::<Result<Vec<_>, _>>()?;
    let nats = token_nats(weights, &streams, threads);
    Ok(pieces.iter().zip(nats).map(|(piece, nats)| classified(piece, &nats)).collect())
}

fn classified(piece: &Reference, nats: &[f64]) -> Likelihood {
    let mut sum = Likelihood { frames: piece.frames.len() as u64, ..Likelihood::default() };
    for (class, &nats) in piece.classes().into_iter().zip(nats) {
        let one = Share { tokens: 1, nats };
        sum.all += one;
        sum.by_class[class.place()] += one;
    }
    sum
}

impl Reference {
    /// The class of every token after START.
    #[must_use]
    pub fn classes(&self) -> Vec<Class> {
        let (mut frame, mut place) = (0, 0);
        let class = |token: &Token| match token {
            Token::Fermata => Class::Fermata,
            Token::FrameEnd | Token::End | Token::Start => {
                (frame, place) = (frame + 1, 0);
                Class::FrameEnd
            }
            Token::Note { .. } => {
                let owner = self.owners.get(frame).and_then(|owners| owners.get(place)).copied();
                place += 1;
                Class::Voice(owner.unwrap_or(super::VOICES - 1))
            }
        };
        self.tokens.iter().skip(1).map(class).collect()
    }
}
