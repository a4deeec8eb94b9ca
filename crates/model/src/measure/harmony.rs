//! Held-out pieces set anew: some of their voices are given, the model finds the others.

use std::sync::Arc;

use kapell_music::counterpoint::{self, VOICES};
use kapell_music::decode::FrameNote;
use kapell_music::score::{Mode, Score};

use super::{Reference, frames_of};
use crate::decode::task::{Cadence, Frame};
use crate::decode::{
    DecodeError, Decoded, NextToken, Phrases, Prepared, Request, Rules, Run, Search, Task, Vocabulary,
    parse_key, search, voices,
};

/// How voices are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Method {
    pub search: Search,
    pub rules: Rules,
}

/// A piece set anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// As many as the reference has. Given voices are as they were.
    pub frames: Vec<counterpoint::Frame>,
    /// Predicted tokens.
    pub tokens: u64,
    /// In nats, of all of them, those of given voices included.
    pub log_likelihood: f64,
}

/// Sets pieces anew, all in one batch. `given[voice]` says which voices the model is given: with their ties and with the
/// phrases' ends, but not with the number of notes in a frame. A given voice that never sings is not given.
///
/// # Errors
/// Of each piece, why it cannot be set.
pub fn set<M: NextToken>(
    model: &mut M,
    vocabulary: &Arc<Vocabulary>,
    pieces: &[&Reference],
    given: [bool; VOICES],
    method: Method,
) -> Vec<Result<Outcome, DecodeError>> {
    let mut jobs: Vec<Result<Job<'_>, DecodeError>> =
        pieces.iter().map(|piece| Job::new(piece, given, method.rules, vocabulary)).collect();
    let start = |job: &Job<'_>, model: &M| {
        Run::new(model.start(), Arc::clone(job.task()), Arc::clone(vocabulary), method.search)
    };
    let mut runs: Vec<Run<M::State>> = jobs.iter().flatten().map(|job| start(job, model)).collect();
    search::drive(model, &mut runs);
    let mut runs = runs.iter();
    let finish = |job: Result<Job<'_>, DecodeError>| {
        let job = job?;
        let decoded = runs.next().map(Run::decoded).transpose()?;
        Ok(decoded.map(|decoded| job.outcome(decoded)).unwrap_or_else(|| job.nothing()))
    };
    jobs.drain(..).map(finish).collect()
}

/// A piece to set.
struct Job<'a> {
    piece: &'a Reference,
    score: Score,
    /// With given voices; none where nothing is given but the length and the ends of phrases.
    prepared: Option<Prepared>,
    task: Arc<Task>,
}

impl<'a> Job<'a> {
    fn new(
        piece: &'a Reference,
        given: [bool; VOICES],
        rules: Rules,
        vocabulary: &Arc<Vocabulary>,
    ) -> Result<Self, DecodeError> {
        let score = piece.score();
        let part = |voice: usize| (given[voice] && !score.parts[voice].notes.is_empty()).then_some(voice);
        let given: [Option<usize>; VOICES] = std::array::from_fn(part);
        if given == [None; VOICES] {
            let task = Task::harmonize(free_frames(piece), &rules, 0, vocabulary)?;
            return Ok(Self { piece, score, prepared: None, task });
        }
        let tonality = parse_key(if piece.key.mode == Mode::Minor { "a minor" } else { "C major" }).ok();
        let request = Request { score: &score, given, tonality, phrases: Phrases::Fermatas, rules };
        let prepared = Prepared::new(request, vocabulary)?;
        let task = Arc::clone(prepared.task());
        Ok(Self { piece, score, prepared: Some(prepared), task })
    }

    fn task(&self) -> &Arc<Task> {
        &self.task
    }

    fn outcome(&self, decoded: Decoded) -> Outcome {
        let (tokens, log_likelihood) = (decoded.tokens.len() as u64 - 1, decoded.log_likelihood);
        let fermatas: Vec<bool> = self.piece.frames.iter().map(|frame| frame.fermata).collect();
        let frames = match &self.prepared {
            Some(prepared) => frames_of(&prepared.piece(&self.score, decoded).score, &fermatas),
            None => {
                let sung = voices::assign(&self.task, &voices::frames_of(&decoded.tokens));
                let frame = |(sung, &fermata): (&[Option<voices::Sung>; VOICES], &bool)| {
                    let note = |sung: voices::Sung| FrameNote { midi: sung.midi, tied: sung.tied };
                    counterpoint::Frame { voices: sung.map(|sung| sung.map(note)), fermata }
                };
                sung.iter().zip(&fermatas).map(frame).collect()
            }
        };
        Outcome { frames, tokens, log_likelihood }
    }

    fn nothing(&self) -> Outcome {
        Outcome { frames: Vec::new(), tokens: 0, log_likelihood: 0.0 }
    }
}

/// Nothing is given but how long the piece is and where its phrases end.
fn free_frames(piece: &Reference) -> Vec<Frame> {
    let count = piece.frames.len();
    let minor = piece.key.mode == Mode::Minor;
    let frame = |(at, frame): (usize, &counterpoint::Frame)| {
        let ends = frame.fermata && piece.frames.get(at + 1).is_none_or(|next| !next.fermata);
        let cadence = match (at + 1 == count, ends) {
            (true, _) => Some(Cadence::Piece { minor }),
            (false, true) => Some(Cadence::Phrase),
            _ => None,
        };
        Frame { fermata: Some(frame.fermata), cadence, ..Frame::default() }
    };
    piece.frames.iter().enumerate().map(frame).collect()
}
