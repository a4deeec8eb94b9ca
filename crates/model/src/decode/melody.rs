//! Given voices as the model sees them: lines of notes on the grid of sixteenths, in C major or a minor.
//!
//! The score itself is never changed. What had to be rounded, moved or left out for the model's eyes is said.

use kapell_music::encode::Token;
use kapell_music::key::transposition_to_c_or_a;
use kapell_music::score::{Mode, Part, Score};
use kapell_music::voices::{VOICE_NAMES, find_voices};

use super::line::{GridNote, LineNote, on_grid, top_line};
use super::phrases::{self, PhraseEnd, Phrases};
use super::task::{Cadence, Frame, Given, RANGES, VOICES};
use super::tonality::{Source, Tonality, key_name, tonality_of};
use super::vocabulary::Vocabulary;

/// Sixteenths of a melody, at most: a thousand bars of 4/4.
pub const FRAMES_MAX: usize = 16_384;

/// A melody is moved by octaves if it lies further than this outside the range on average, in semitones.
const FAR: i64 = 2;

/// Given voices, ready for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Melody {
    pub frames: Vec<Frame>,
    /// Which of them lie under a fermata of the score. The model may see more: phrases that were found.
    pub fermatas: Vec<bool>,
    /// The sixteenth, from the score's start, of the first frame: leading rests are not shown to the model.
    pub first_frame: i64,
    pub tonality: Tonality,
    /// Semitones from sounding to the model's C major or a minor, without octaves.
    pub transposition: i8,
    /// Octaves that the model sees the melody moved by.
    pub octaves: i8,
    /// What the model sees differently, in sentences.
    pub remarks: Vec<String>,
}

/// Why a part cannot be shown to a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MelodyError {
    #[error("the score has no part {wanted:?}; it has: {}", names.join(", "))]
    NoPart { wanted: String, names: Vec<String> },
    #[error("the part {0:?} has no notes")]
    NoNotes(String),
    #[error("the melody is longer than {FRAMES_MAX} sixteenths")]
    TooLong,
    #[error("a note of the melody has no place on the time line (onset {onset}, duration {duration})")]
    BadNote { onset: i64, duration: i64 },
}

/// The index of the part to harmonise: the one that `wanted` names (its name, or its number from 1); else the only
/// one with notes; else the one called soprano or melody; else the first with notes. The remark says which, where
/// there was a choice.
///
/// # Errors
/// If there is no such part, or it has no notes.
pub fn choose_part(score: &Score, wanted: Option<&str>) -> Result<(usize, Option<String>), MelodyError> {
    let names = || score.parts.iter().enumerate().map(|(at, part)| part_name(at, part)).collect::<Vec<_>>();
    if let Some(wanted) = wanted {
        let index = find_part(score, wanted)
            .ok_or_else(|| MelodyError::NoPart { wanted: wanted.to_owned(), names: names() })?;
        return match score.parts[index].notes.is_empty() {
            true => Err(MelodyError::NoNotes(part_name(index, &score.parts[index]))),
            false => Ok((index, None)),
        };
    }
    let sounding: Vec<usize> =
        (0..score.parts.len()).filter(|&index| !score.parts[index].notes.is_empty()).collect();
    let Some(&first) = sounding.first() else { return Err(MelodyError::NoNotes(names().join(", "))) };
    let named = sounding.iter().copied().find(|&index| is_called_melody(&score.parts[index].name));
    let index = named.unwrap_or(first);
    let remark = (sounding.len() > 1).then(|| {
        let chosen = part_name(index, &score.parts[index]);
        format!(
            "the melody is taken from the part {chosen:?} of {}; --part chooses another",
            names().join(", ")
        )
    });
    Ok((index, remark))
}

/// The parts of the voices that are given: by the voices' names, or, where one voice is given, the part that
/// [`choose_part`] finds. The remark says which, where there was a choice.
///
/// # Errors
/// If a voice has no part, or a part no notes.
pub fn choose_parts(
    score: &Score,
    voices: &[usize],
    wanted: Option<&str>,
) -> Result<([Option<usize>; VOICES], Option<String>), MelodyError> {
    let mut given = [None; VOICES];
    let found = find_voices(score);
    if let &[voice] = voices
        && (wanted.is_some() || found.is_none() || voice == 0)
    {
        let (part, remark) = choose_part(score, wanted)?;
        given[voice] = Some(part);
        return Ok((given, remark));
    }
    for &voice in voices {
        let names = || score.parts.iter().enumerate().map(|(at, part)| part_name(at, part)).collect();
        let index = match found {
            Some(found) => Some(found[voice]),
            None => score.parts.iter().position(|part| is_called(&part.name, voice)),
        };
        let wanted = || VOICE_NAMES[voice].to_owned();
        let index = index.ok_or_else(|| MelodyError::NoPart { wanted: wanted(), names: names() })?;
        if score.parts[index].notes.is_empty() {
            return Err(MelodyError::NoNotes(part_name(index, &score.parts[index])));
        }
        given[voice] = Some(index);
    }
    Ok((given, None))
}

fn is_called(name: &str, voice: usize) -> bool {
    name.trim().to_lowercase().starts_with(VOICE_NAMES[voice])
}

fn find_part(score: &Score, wanted: &str) -> Option<usize> {
    let wanted = wanted.trim();
    let same = |part: &Part| part.name.trim().eq_ignore_ascii_case(wanted) || part.id == wanted;
    let by_name = score.parts.iter().position(same);
    let by_number = || wanted.parse::<usize>().ok()?.checked_sub(1).filter(|&at| at < score.parts.len());
    by_name.or_else(by_number)
}

fn part_name(at: usize, part: &Part) -> String {
    let words: Vec<&str> = part.name.split_whitespace().collect();
    if words.is_empty() { format!("part {}", at + 1) } else { words.join(" ") }
}

fn is_called_melody(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    ["soprano", "sopran", "s.", "canto", "cantus", "melody"].iter().any(|known| name.starts_with(known))
}

impl Melody {
    /// Prepares the given parts; `given` is by voice the part's index. The key is `tonality`, or else what the score
    /// declares, or else what the notes tell.
    ///
    /// # Errors
    /// If nothing is given, a part has no notes, or is too long.
    pub fn new(
        score: &Score,
        given: &[Option<usize>; VOICES],
        tonality: Option<Tonality>,
        phrases: Phrases,
        vocabulary: &Vocabulary,
    ) -> Result<Self, MelodyError> {
        let mut remarks = Vec::new();
        let mut lines = Vec::new();
        for (voice, index) in given.iter().enumerate() {
            let Some(part) = index.and_then(|index| score.parts.get(index)) else { continue };
            lines.push((voice, read_line(part, &mut remarks)?, part));
        }
        let Some((lead, (line, grid), part)) = lines.first() else {
            return Err(MelodyError::NoNotes(String::new()));
        };
        let first_frame = lines.iter().map(|(_, (_, grid), _)| grid[0].start).min().unwrap_or(0);
        let end = lines.iter().filter_map(|(_, (_, grid), _)| grid.last()).map(|note| note.end).max();
        let length = usize::try_from(end.unwrap_or(0) - first_frame).map_err(|_| MelodyError::TooLong)?;
        if length > FRAMES_MAX {
            return Err(MelodyError::TooLong);
        }
        let tonality = tonality.unwrap_or_else(|| tonality_of(score, part));
        if tonality.source == Source::Analysed {
            let name = key_name(tonality);
            remarks.push(format!("no key signature: the notes sound like {name}; --key says otherwise"));
        }
        let transposition = transposition_to_c_or_a(tonality.key);
        let octaves = if lines.len() == 1 { octaves_to_voice(line, *lead, &mut remarks) } else { 0 };
        let shift = i16::from(transposition) + 12 * i16::from(octaves);
        let pitches = Pitches { vocabulary, shift };
        let mut frames = vec![Frame { fermata: Some(false), ..Frame::default() }; length];
        let mut replaced = 0;
        for (voice, (_, grid), _) in &lines {
            replaced += give(&mut frames, *voice, grid, first_frame, &pitches);
        }
        if replaced > 0 {
            remarks.push(format!(
                "{replaced} notes lie outside what the model knows: it sees the nearest it does know"
            ));
        }
        let ends = phrases::ends(grid, &score.measures, phrases);
        remarks.extend(ends.remark());
        let knows_fermata = vocabulary.id(Token::Fermata).is_some();
        if !knows_fermata && grid.iter().any(|note| note.fermata) {
            remarks.push("the model knows no fermatas: it does not see those of the melody".to_owned());
        }
        let minor = tonality.key.mode == Mode::Minor;
        mark(&mut frames, grid, first_frame, &ends.notes, Marks { knows_fermata, minor });
        let fermatas = fermatas(grid, first_frame, length);
        Ok(Self { frames, fermatas, first_frame, tonality, transposition, octaves, remarks })
    }
}

/// A part as a line, in ticks and on the grid.
fn read_line(part: &Part, remarks: &mut Vec<String>) -> Result<(Vec<LineNote>, Vec<GridNote>), MelodyError> {
    let line = top_line(&part.notes)?;
    if line.iter().map(|note| note.notes).sum::<usize>() < part.notes.len() {
        remarks.push("the part has chords or several voices: the model sees their highest notes".to_owned());
    }
    let grid = on_grid(&line, remarks)?;
    if grid.is_empty() {
        return Err(MelodyError::NoNotes(part.name.clone()));
    }
    Ok((line, grid))
}

/// The octaves that bring a melody into its voice's range, if it lies far from it.
fn octaves_to_voice(line: &[LineNote], voice: usize, remarks: &mut Vec<String>) -> i8 {
    let (low, high) = (i64::from(RANGES[voice].0), i64::from(RANGES[voice].1));
    let length: i128 = line.iter().map(|note| i128::from(note.end - note.onset)).sum();
    let outside = |octaves: i8| -> i128 {
        let distance = |note: &LineNote| {
            let midi = i64::from(note.midi) + 12 * i64::from(octaves);
            i128::from((low - midi).max(midi - high).max(0)) * i128::from(note.end - note.onset)
        };
        line.iter().map(distance).sum()
    };
    if outside(0) <= i128::from(FAR) * length {
        return 0;
    }
    let best = (-6..=6_i8).min_by_key(|&octaves| (outside(octaves), octaves.abs())).unwrap_or(0);
    if best != 0 {
        let (count, way) = (best.abs(), if best > 0 { "higher" } else { "lower" });
        let s = if count == 1 { "" } else { "s" };
        let name = VOICE_NAMES[voice];
        remarks.push(format!("the melody is no {name}'s: the model sees it {count} octave{s} {way}"));
    }
    best
}

/// Which pitch of the model's vocabulary stands for a sounding one.
struct Pitches<'a> {
    vocabulary: &'a Vocabulary,
    shift: i16,
}

impl Pitches<'_> {
    /// The pitch itself where the model knows it, else its nearest octave, else the nearest pitch.
    fn seen(&self, midi: u8) -> Option<u8> {
        let wanted = i16::from(midi) + self.shift;
        let known = (0..=127_u8).filter(|&pitch| self.vocabulary.knows_pitch(pitch));
        known.min_by_key(|&pitch| {
            let distance = i16::from(pitch) - wanted;
            (distance != 0, distance % 12 != 0, distance.abs(), distance)
        })
    }
}

/// Puts a voice's notes into the frames. Returns the number of notes that the model does not know.
fn give(frames: &mut [Frame], voice: usize, grid: &[GridNote], first: i64, pitches: &Pitches<'_>) -> usize {
    for frame in frames.iter_mut() {
        frame.voices[voice] = Given::Rest;
    }
    let (mut replaced, mut sounded) = (0, None);
    for note in grid {
        let Some(midi) = pitches.seen(note.midi) else { continue };
        replaced += usize::from(i16::from(midi) != i16::from(note.midi) + pitches.shift);
        let continues = note.tie_from && sounded == Some((note.start, midi));
        for at in note.start..note.end {
            if let Some(frame) = usize::try_from(at - first).ok().and_then(|at| frames.get_mut(at)) {
                frame.voices[voice] = Given::Note { midi, tied: continues || at > note.start };
            }
        }
        sounded = Some((note.end, midi));
    }
    replaced
}

#[derive(Clone, Copy)]
struct Marks {
    knows_fermata: bool,
    minor: bool,
}

/// Marks the ends of phrases: fermatas, by which the model hears them, cadences, and the rests behind them.
fn mark(frames: &mut [Frame], grid: &[GridNote], first: i64, ends: &[PhraseEnd], marks: Marks) {
    let index = |at: i64| usize::try_from(at - first).unwrap_or(0).min(frames.len());
    let spans: Vec<(usize, usize, bool)> =
        ends.iter().map(|end| (index(grid[end.first].start), index(grid[end.last].end), end.heard)).collect();
    let last = spans.len().saturating_sub(1);
    for (at, (start, end, heard)) in spans.into_iter().enumerate() {
        let cadence = if at == last { Cadence::Piece { minor: marks.minor } } else { Cadence::Phrase };
        for frame in &mut frames[start..end] {
            frame.fermata = Some(heard && marks.knows_fermata);
        }
        for at in [start, end.saturating_sub(1)] {
            frames[at].cadence = Some(cadence);
        }
        let silent = |frame: &Frame| !frame.voices.iter().any(|voice| matches!(voice, Given::Note { .. }));
        for frame in frames[end..].iter_mut().take_while(|frame| silent(frame)) {
            frame.between_phrases = true;
        }
    }
}

/// Which frames lie under a fermata of the score.
fn fermatas(grid: &[GridNote], first: i64, length: usize) -> Vec<bool> {
    let mut under = vec![false; length];
    for note in grid.iter().filter(|note| note.fermata) {
        for at in note.start..note.end {
            if let Some(slot) = usize::try_from(at - first).ok().and_then(|at| under.get_mut(at)) {
                *slot = true;
            }
        }
    }
    under
}

#[cfg(test)]
mod tests;
