//! Decoding: from a model and given voices, or from a model alone, to a score in four parts.
//!
//! [`melody`] turns parts into frames, [`phrases`] finds where phrases end, [`task`] says what is given and what rules
//! hold, [`grammar`] what may come next, [`search`] chooses, [`voices`] and `assemble` turn what was chosen into a score.
//! Nothing here knows files.

mod assemble;
pub mod grammar;
mod line;
pub mod melody;
pub mod phrases;
pub mod search;
pub mod task;
pub mod tonality;
pub mod vocabulary;
pub mod voices;

use std::sync::Arc;

use kapell_music::encode::Token;
use kapell_music::score::Score;

pub use assemble::PART_NAMES;
pub use melody::{Melody, MelodyError};
pub use phrases::Phrases;
pub use search::{Beam, Decoded, NextToken, Run, Sampling, Search, Stuck};
pub use task::{RANGES, Ranges, Rules, Task, Unknown, VOICES, parse_ranges};
pub use tonality::{Tonality, parse_key};
pub use vocabulary::{Vocabulary, VocabularyError};
pub use voices::Sung;

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
    /// What each voice sings by frame, in the model's key: given voices as the model saw them.
    pub voices: Vec<[Option<Sung>; VOICES]>,
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
    #[error(transparent)]
    Stuck(#[from] Stuck),
}

/// What is to be set in four voices, and how it is heard.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub score: &'a Score,
    /// By voice the index of the part that is given; see [`melody::choose_parts`].
    pub given: [Option<usize>; VOICES],
    /// In place of the key that the score declares or its notes tell.
    pub tonality: Option<Tonality>,
    pub phrases: Phrases,
    pub rules: Rules,
}

impl<'a> Request<'a> {
    /// A melody for the soprano, with the usual rules.
    #[must_use]
    pub fn of_melody(score: &'a Score, part: usize) -> Self {
        let given = [Some(part), None, None, None];
        Self { score, given, tonality: None, phrases: Phrases::default(), rules: Rules::default() }
    }
}

/// A request that a model can be put to: any number of times, with other searches.
#[derive(Debug, Clone)]
pub struct Prepared {
    given: [Option<usize>; VOICES],
    melody: Melody,
    task: Arc<Task>,
    vocabulary: Arc<Vocabulary>,
    shift: i16,
}

impl Prepared {
    /// Reads the given parts as the model sees them.
    ///
    /// # Errors
    /// If a part has no melody that can be decoded.
    pub fn new(request: Request<'_>, vocabulary: &Arc<Vocabulary>) -> Result<Self, DecodeError> {
        let Request { score, given, tonality, phrases, rules } = request;
        let mut melody = Melody::new(score, &given, tonality, phrases, vocabulary)?;
        let shift = -i16::from(melody.transposition);
        let frames = std::mem::take(&mut melody.frames);
        let task = Task::harmonize(frames, &rules, shift, vocabulary)?;
        if task.freed() > 0 {
            melody.remarks.push(format!(
                "{} sixteenths could not keep all rules under what is given there",
                task.freed()
            ));
        }
        Ok(Self { given, melody, task, vocabulary: Arc::clone(vocabulary), shift })
    }

    /// What is to be decoded.
    #[must_use]
    pub fn task(&self) -> &Arc<Task> {
        &self.task
    }

    /// A search for it, at its start.
    #[must_use]
    pub fn run<M: NextToken>(&self, model: &M, search: Search) -> Run<M::State> {
        Run::new(model.start(), Arc::clone(&self.task), Arc::clone(&self.vocabulary), search)
    }

    /// The score of what was decoded: the given parts as they are in the request's score, the other voices in their key.
    #[must_use]
    pub fn piece(&self, score: &Score, decoded: Decoded) -> Piece {
        let frames = voices::frames_of(&decoded.tokens);
        let voices = voices::assign(&self.task, &frames);
        let setting = Setting {
            voices: &voices,
            fermatas: &self.melody.fermatas,
            first_frame: self.melody.first_frame,
            shift: self.shift,
            fifths: self.melody.tonality.fifths,
        };
        Piece {
            score: assemble::harmonized(score, &self.given, setting),
            frames: frames.len(),
            tokens: decoded.tokens,
            voices,
            log_likelihood: decoded.log_likelihood,
            transposition: self.shift,
            remarks: self.melody.remarks.clone(),
        }
    }
}

/// Sets a request in four voices. The given parts themselves are taken over as they are.
///
/// # Errors
/// If a part has no melody that can be decoded.
pub fn harmonize<M: NextToken>(
    model: &mut M,
    vocabulary: &Arc<Vocabulary>,
    request: Request<'_>,
    search: Search,
) -> Result<Piece, DecodeError> {
    let prepared = Prepared::new(request, vocabulary)?;
    let mut run = [prepared.run(model, search)];
    search::drive(model, &mut run);
    Ok(prepared.piece(request.score, run[0].decoded()?))
}

/// A composition to come: from START until the model ends it, or until it has `frames_max` frames.
#[derive(Debug, Clone)]
pub struct Composition {
    task: Arc<Task>,
    vocabulary: Arc<Vocabulary>,
    title: String,
}

impl Composition {
    /// In C major or a minor, in 4/4.
    #[must_use]
    pub fn new(vocabulary: &Arc<Vocabulary>, frames_max: usize, rules: &Rules, title: String) -> Self {
        let task = Task::compose(frames_max, rules, vocabulary);
        Self { task, vocabulary: Arc::clone(vocabulary), title }
    }

    /// A draw, at its start.
    #[must_use]
    pub fn run<M: NextToken>(&self, model: &M, sampling: Sampling) -> Run<M::State> {
        let search = Search::Sample(sampling);
        Run::new(model.start(), Arc::clone(&self.task), Arc::clone(&self.vocabulary), search)
    }

    /// The score of what was decoded.
    #[must_use]
    pub fn piece(&self, decoded: Decoded) -> Piece {
        let frames = voices::frames_of(&decoded.tokens);
        let voices = voices::assign(&self.task, &frames);
        let fermatas: Vec<bool> = frames.iter().map(|frame| frame.fermata).collect();
        let setting = Setting { voices: &voices, fermatas: &fermatas, first_frame: 0, shift: 0, fifths: 0 };
        let limit = self.task.frames_max();
        let cut = frames.len() >= limit;
        let remark = cut.then(|| format!("the model did not end the piece: cut at {limit} sixteenths"));
        Piece {
            score: assemble::composed(setting, self.title.clone()),
            frames: frames.len(),
            tokens: decoded.tokens,
            voices,
            log_likelihood: decoded.log_likelihood,
            transposition: 0,
            remarks: remark.into_iter().collect(),
        }
    }
}

/// Composes a piece.
///
/// # Errors
/// None that a vocabulary of music can cause.
pub fn compose<M: NextToken>(
    model: &mut M,
    composition: &Composition,
    sampling: Sampling,
) -> Result<Piece, DecodeError> {
    let mut run = [composition.run(model, sampling)];
    search::drive(model, &mut run);
    Ok(composition.piece(run[0].decoded()?))
}

#[cfg(test)]
mod tests;
