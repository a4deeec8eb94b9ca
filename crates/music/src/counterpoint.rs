//! Counterpoint by numbers: what a teacher of harmony marks in four voices, counted.
//!
//! The music is frames, sixteenths, of soprano, alto, tenor and bass. A **chord** is a frame in which a voice strikes.
//! Voices are compared from chord to chord. A **phrase** ends with the last frame under a fermata, and with the piece.
//!
//! | fault | what is counted |
//! |---|---|
//! | parallel fifths, octaves, unisons | each pair of voices that both move, in the same direction, from one perfect fifth (octave, unison; compound ones too) to another, between consecutive chords of a phrase, and do not change places |
//! | crossings | each pair of neighbours with the lower voice above, in a chord where one of the two strikes |
//! | range faults | each struck note outside its voice's range |
//! | spacing faults | soprano and alto, or alto and tenor, more than an octave apart, in a chord where one of the two strikes |
//! | unresolved leading notes | the leading note of the key in a dominant chord (V, V7, vii, vii7) before a chord on the tonic or the submediant, whose voice's next other note is not the tonic above it: in soprano and bass always, in alto and tenor where the phrase ends with that chord |
//! | dissonant chords | chords on a beat whose pitch classes form no triad or seventh chord, complete or not (see [`identify`]) |
//!
//! The parallels are the rule of the textbooks (Kostka and Payne, *Tonal Harmony*, "Objectionable parallels"; Aldwell
//! and Schachter, *Harmony and Voice Leading*): two parts a perfect fifth or octave apart that move to new pitches the
//! same interval apart. Fifths by contrary motion, hidden fifths and a diminished fifth beside a perfect one are not
//! counted, and neither are parallels over the end of a phrase.

mod cadence;
mod chord;
mod voice_leading;

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::decode::FrameNote;
use crate::key::Key;
use crate::score::{Score, TICKS_PER_FRAME};
use crate::voices::find_voices;

pub use cadence::{Cadences, KINDS};
pub use chord::{Harmony, Kind, identify};

/// Soprano, alto, tenor, bass.
pub const VOICES: usize = 4;

/// One sixteenth of four voices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frame {
    /// S A T B; none rests. A unison is sung by both of its voices.
    pub voices: [Option<FrameNote>; VOICES],
    pub fermata: bool,
}

/// Sixteenths of a score that are looked at, at most.
const FRAMES_MAX: usize = 1 << 18;

/// The four voices of a score on the grid, each a line of notes: the parts that [`find_voices`] tells, or else its first
/// four. Onsets and ends go to the nearest sixteenth, and a
/// note that would vanish gets one. A frame is under a fermata where a note with one sounds.
#[must_use]
pub fn frames_of(score: &Score) -> Vec<Frame> {
    let nearest = |tick: i64| tick.saturating_add(TICKS_PER_FRAME / 2).div_euclid(TICKS_PER_FRAME);
    let index = |frame: i64| usize::try_from(frame).unwrap_or(0).min(FRAMES_MAX);
    let mut frames = vec![Frame::default(); index(nearest(score.duration()))];
    for (voice, part) in find_voices(score).unwrap_or([0, 1, 2, 3]).into_iter().enumerate() {
        for note in score.parts.get(part).map_or(&[][..], |part| &part.notes) {
            let start = index(nearest(note.onset));
            let end = index(nearest(note.end())).max(start + 1);
            for (at, frame) in frames.iter_mut().enumerate().take(end).skip(start) {
                let tied = note.tie_from || at > start;
                frame.voices[voice] = Some(FrameNote { midi: note.pitch.midi, tied });
                frame.fermata |= note.fermata;
            }
        }
    }
    frames
}

/// What is a fault where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub key: Key,
    /// Lowest and highest MIDI pitch of S A T B.
    pub ranges: [(u8, u8); VOICES],
    /// Semitones between soprano and alto, and between alto and tenor, at most.
    pub spacing_max: u8,
    /// Frames in a beat; 4 is a quarter.
    pub beat: usize,
    /// The first frame that is on a beat.
    pub first_beat: usize,
}

/// The usual ranges of a choir: S c' to a'', A f to d'', T c to a', B C to e'.
pub const RANGES: [(u8, u8); VOICES] = [(60, 81), (53, 74), (48, 69), (36, 64)];

impl Rules {
    /// The usual rules in a key, with a beat a quarter from the first frame on.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self { key, ranges: RANGES, spacing_max: 12, beat: 4, first_beat: 0 }
    }

    fn is_on_beat(&self, frame: usize) -> bool {
        let beat = self.beat.max(1);
        frame % beat == self.first_beat % beat
    }
}

/// What was found. Counts of several pieces add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Frames in which a voice strikes.
    pub chords: u64,
    pub parallel_fifths: u64,
    pub parallel_octaves: u64,
    pub parallel_unisons: u64,
    pub crossings: u64,
    pub range_faults: u64,
    pub spacing_faults: u64,
    pub unresolved_leading_notes: u64,
    pub dissonant_chords: u64,
    /// Chords on a beat: what `dissonant_chords` is a part of.
    pub chords_on_beats: u64,
    pub cadences: Cadences,
}

/// The faults by name, in the order of the table above.
pub const FAULTS: [&str; 8] = [
    "parallel_fifths",
    "parallel_octaves",
    "parallel_unisons",
    "crossings",
    "range_faults",
    "spacing_faults",
    "unresolved_leading_notes",
    "dissonant_chords",
];

impl Counts {
    /// The counts of [`FAULTS`], in that order.
    #[must_use]
    pub fn faults(&self) -> [u64; FAULTS.len()] {
        [
            self.parallel_fifths,
            self.parallel_octaves,
            self.parallel_unisons,
            self.crossings,
            self.range_faults,
            self.spacing_faults,
            self.unresolved_leading_notes,
            self.dissonant_chords,
        ]
    }

    /// A count for every hundred chords; 0 where there is no chord.
    #[must_use]
    pub fn per_100_chords(&self, count: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let (count, chords) = (count as f64, self.chords.max(1) as f64);
        100.0 * count / chords
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.chords += other.chords;
        self.parallel_fifths += other.parallel_fifths;
        self.parallel_octaves += other.parallel_octaves;
        self.parallel_unisons += other.parallel_unisons;
        self.crossings += other.crossings;
        self.range_faults += other.range_faults;
        self.spacing_faults += other.spacing_faults;
        self.unresolved_leading_notes += other.unresolved_leading_notes;
        self.dissonant_chords += other.dissonant_chords;
        self.chords_on_beats += other.chords_on_beats;
        self.cadences += other.cadences;
    }
}

/// A frame in which a voice strikes.
#[derive(Debug, Clone, Copy)]
struct Chord {
    /// Its place in the piece.
    frame: usize,
    voices: [Option<FrameNote>; VOICES],
    harmony: Option<Harmony>,
}

impl Chord {
    fn pitch(&self, voice: usize) -> Option<u8> {
        self.voices[voice].map(|note| note.midi)
    }

    fn strikes(&self, voice: usize) -> bool {
        self.voices[voice].is_some_and(|note| !note.tied)
    }

    fn sounding(&self) -> impl Iterator<Item = u8> + '_ {
        self.voices.iter().flatten().map(|note| note.midi)
    }
}

/// Counts the faults and cadences of a piece.
#[must_use]
pub fn count(frames: &[Frame], rules: &Rules) -> Counts {
    let mut counts = Counts::default();
    for phrase in phrases(frames) {
        count_phrase(&phrase, rules, &mut counts);
    }
    counts
}

/// The chords of each phrase; phrases without any are left out.
fn phrases(frames: &[Frame]) -> Vec<Vec<Chord>> {
    let mut phrases = Vec::new();
    let mut phrase = Vec::new();
    for (at, frame) in frames.iter().enumerate() {
        if frame.voices.iter().flatten().any(|note| !note.tied) {
            let harmony = identify(frame.voices.iter().flatten().map(|note| note.midi));
            phrase.push(Chord { frame: at, voices: frame.voices, harmony });
        }
        let goes_on = frames.get(at + 1).is_some_and(|next| !frame.fermata || next.fermata);
        if !goes_on && !phrase.is_empty() {
            phrases.push(std::mem::take(&mut phrase));
        }
    }
    phrases
}

fn count_phrase(phrase: &[Chord], rules: &Rules, counts: &mut Counts) {
    for chord in phrase {
        counts.chords += 1;
        voice_leading::standing(chord, rules, counts);
        if rules.is_on_beat(chord.frame) {
            counts.chords_on_beats += 1;
            counts.dissonant_chords += u64::from(chord.harmony.is_none() && chord.sounding().count() > 1);
        }
    }
    for pair in phrase.windows(2) {
        voice_leading::parallels(&pair[0], &pair[1], counts);
    }
    counts.unresolved_leading_notes += voice_leading::unresolved_leading_notes(phrase, rules.key);
    counts.cadences.add(cadence::of(phrase, rules.key));
}

#[cfg(test)]
mod tests;
