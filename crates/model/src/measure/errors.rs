//! Wrong notes: voices that were found beside the composer's.

use std::ops::AddAssign;

use kapell_music::counterpoint::{self, VOICES};
use kapell_music::decode::FrameNote;
use serde::Serialize;

/// How often voices that were found differ from the composer's. Those of pieces add up.
///
/// Compared are, frame by frame and voice by voice, what the reference's voice does and what the found one does: a note
/// is right if pitch and tie are the same, a rest if both rest. Where both rest nothing is compared. How many notes a
/// frame has is not told to the model, so that a voice can be wrong by resting, or by singing where it should rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Errors {
    /// Frames of asked voices in which one of the two sings.
    pub notes: u64,
    pub wrong_notes: u64,
    /// Those that differ in pitch, not in their tie alone.
    pub wrong_pitches: u64,
    pub frames: u64,
    /// Frames with a wrong note in any of the asked voices.
    pub wrong_frames: u64,
}

impl Errors {
    /// Compares the asked voices of two settings of one piece.
    #[must_use]
    pub fn between(
        reference: &[counterpoint::Frame],
        found: &[counterpoint::Frame],
        asked: [bool; VOICES],
    ) -> Self {
        let mut errors = Self { frames: reference.len() as u64, ..Self::default() };
        let silence = counterpoint::Frame::default();
        for (at, theirs) in reference.iter().enumerate() {
            let ours = found.get(at).unwrap_or(&silence);
            let mut is_wrong = false;
            for voice in (0..VOICES).filter(|&voice| asked[voice]) {
                let (theirs, ours) = (theirs.voices[voice], ours.voices[voice]);
                let pitch = |note: Option<FrameNote>| note.map(|note| note.midi);
                errors.notes += u64::from(theirs.is_some() || ours.is_some());
                errors.wrong_notes += u64::from(theirs != ours);
                errors.wrong_pitches += u64::from(pitch(theirs) != pitch(ours));
                is_wrong |= theirs != ours;
            }
            errors.wrong_frames += u64::from(is_wrong);
        }
        errors
    }

    /// The share of wrong notes: the thesis's token error rate.
    #[must_use]
    pub fn token_error_rate(&self) -> f64 {
        share(self.wrong_notes, self.notes)
    }

    /// The same by pitch alone.
    #[must_use]
    pub fn pitch_error_rate(&self) -> f64 {
        share(self.wrong_pitches, self.notes)
    }

    /// The share of frames with a wrong note: the thesis's frame error rate.
    #[must_use]
    pub fn frame_error_rate(&self) -> f64 {
        share(self.wrong_frames, self.frames)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl AddAssign for Errors {
    fn add_assign(&mut self, other: Self) {
        self.notes += other.notes;
        self.wrong_notes += other.wrong_notes;
        self.wrong_pitches += other.wrong_pitches;
        self.frames += other.frames;
        self.wrong_frames += other.wrong_frames;
    }
}
