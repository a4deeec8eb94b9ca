//! Decoding: from a model and a melody, or from a model alone, to a score in four parts.
//!
//! [`melody`] turns a part into frames, [`grammar`] says what may come next, [`search`] chooses, [`voices`] and
//! `assemble` turn what was chosen into a score. Nothing here knows files.

mod assemble;
pub mod grammar;
pub mod melody;
pub mod search;
pub mod tonality;
pub mod vocabulary;
pub mod voices;

use kapell_music::encode::Token;
use kapell_music::score::Score;

pub use assemble::PART_NAMES;
pub use grammar::Task;
pub use melody::{Melody, MelodyError};
pub use search::{Decoded, NextToken, Sampling, Search, Unknown};
pub use tonality::{Tonality, parse_key};
pub use vocabulary::{Vocabulary, VocabularyError};

use assemble::Setting;

/// Frames of a composition, at most: 64 bars of 4/4.
pub const COMPOSITION_FRAMES_MAX: usize = 1024;

/// A finished piece.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Four parts: Soprano, Alto, Tenor, Bass.
    pub score: Score,
    /// START to END, in the model's key.
    pub tokens: Vec<Token>,
    pub frames: usize,
    /// In nats, of all tokens after START, given ones included.
    pub log_likelihood: f64,
    /// Semitones that the model's pitches were moved by to those of the score.
    pub transposition: i16,
    /// What a reader of the score should know, in sentences.
    pub remarks: Vec<String>,
}

impl Piece {
    /// The mean negative log-likelihood of the tokens after START.
    #[must_use]
    pub fn nats_per_token(&self) -> f64 {
        let scored = u32::try_from(self.tokens.len().saturating_sub(1).max(1)).unwrap_or(u32::MAX);
        -self.log_likelihood / f64::from(scored)
    }
}

/// Why there is no piece.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error(transparent)]
    Melody(#[from] MelodyError),
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

/// Sets a part of a score in four voices. The part itself is taken over as it is; the three voices under it are in
/// its key. `tonality` overrides the key that the score declares or its notes tell.
///
/// # Errors
/// If the part has no melody that can be decoded.
pub fn harmonize<M: NextToken>(
    model: &M,
    vocabulary: &Vocabulary,
    score: &Score,
    part: usize,
    tonality: Option<Tonality>,
    search: Search,
) -> Result<Piece, DecodeError> {
    let melody = Melody::new(score, &score.parts[part], tonality, vocabulary)?;
    let decoded = search::decode(model, vocabulary, Task::Harmonize(&melody.frames), search)?;
    let frames = voices::frames_of(&decoded.tokens);
    let sounds: Vec<bool> = melody.frames.iter().map(|frame| frame.soprano.is_some()).collect();
    let shift = -i16::from(melody.transposition);
    let setting = Setting {
        frames: &frames,
        voices: &voices::assign(&frames, Some(&sounds)),
        first_frame: melody.first_frame,
        shift,
        fifths: melody.tonality.fifths,
    };
    Ok(Piece {
        score: assemble::harmonized(score, part, setting),
        frames: frames.len(),
        tokens: decoded.tokens,
        log_likelihood: decoded.log_likelihood,
        transposition: shift,
        remarks: melody.remarks,
    })
}

/// Composes a piece from START until the model ends it, or until it has `frames_max` frames.
///
/// # Errors
/// None that a vocabulary of music can cause.
pub fn compose<M: NextToken>(
    model: &M,
    vocabulary: &Vocabulary,
    frames_max: usize,
    search: Search,
    title: String,
) -> Result<Piece, DecodeError> {
    let decoded = search::decode(model, vocabulary, Task::Compose { frames_max }, search)?;
    let frames = voices::frames_of(&decoded.tokens);
    let setting = Setting {
        frames: &frames,
        voices: &voices::assign(&frames, None),
        first_frame: 0,
        shift: 0,
        fifths: 0,
    };
    let cut = frames.len() >= frames_max;
    let remark = cut.then(|| format!("the model did not end the piece: cut at {frames_max} sixteenths"));
    Ok(Piece {
        score: assemble::composed(setting, title),
        frames: frames.len(),
        tokens: decoded.tokens,
        log_likelihood: decoded.log_likelihood,
        transposition: 0,
        remarks: remark.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests;
