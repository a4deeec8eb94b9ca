//! A melody as the model sees it: one line of notes on the grid of sixteenths, in C major or a minor.
//!
//! The score itself is never changed. What had to be rounded, moved or left out for the model's eyes is said.

use kapell_music::encode::Token;
use kapell_music::key::transposition_to_c_or_a;
use kapell_music::score::{Note, Part, Score, TICKS_PER_FRAME};

use super::grammar::MelodyFrame;
use super::tonality::{Source, Tonality, key_name, tonality_of};
use super::vocabulary::Vocabulary;

/// Sixteenths of a melody, at most: a thousand bars of 4/4.
pub const FRAMES_MAX: usize = 16_384;

/// The soprano's range in Bach's chorales, sounding.
const SOPRANO: (i64, i64) = (60, 81);
/// A melody is moved by octaves if it lies further than this outside the range on average, in semitones.
const FAR: i64 = 2;

/// A part's melody, ready for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Melody {
    pub frames: Vec<MelodyFrame>,
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
    /// Prepares a part. The key is `tonality`, or else what the score declares, or else what its notes tell.
    ///
    /// # Errors
    /// If the part has no notes, or is too long.
    pub fn new(
        score: &Score,
        part: &Part,
        tonality: Option<Tonality>,
        vocabulary: &Vocabulary,
    ) -> Result<Self, MelodyError> {
        let mut remarks = Vec::new();
        let line = top_line(&part.notes)?;
        if line.iter().map(|note| note.notes).sum::<usize>() < part.notes.len() {
            remarks
                .push("the part has chords or several voices: the model sees their highest notes".to_owned());
        }
        let grid = on_grid(&line, &mut remarks)?;
        let (Some(first), Some(last)) = (grid.first(), grid.last()) else {
            return Err(MelodyError::NoNotes(part.name.clone()));
        };
        let first_frame = first.start;
        let length = usize::try_from(last.end - first_frame).map_err(|_| MelodyError::TooLong)?;
        if length > FRAMES_MAX {
            return Err(MelodyError::TooLong);
        }
        let tonality = tonality.unwrap_or_else(|| tonality_of(score, part));
        if tonality.source == Source::Analysed {
            let name = key_name(tonality);
            remarks.push(format!("no key signature: the notes sound like {name}; --key says otherwise"));
        }
        let transposition = transposition_to_c_or_a(tonality.key);
        let octaves = octaves_to_soprano(&line, &mut remarks);
        let shift = i16::from(transposition) + 12 * i16::from(octaves);
        let pitches = Pitches { vocabulary, shift };
        let frames = frames(&grid, length, &pitches, &mut remarks);
        Ok(Self { frames, first_frame, tonality, transposition, octaves, remarks })
    }
}

/// A note of the line, in ticks.
#[derive(Debug, Clone, Copy)]
struct LineNote {
    onset: i64,
    end: i64,
    midi: u8,
    tie_from: bool,
    fermata: bool,
    /// Notes of the part that it stands for.
    notes: usize,
}

/// The highest notes of a part as one line: of notes struck together the highest; a held note yields to a higher one
/// and hides lower ones.
fn top_line(notes: &[Note]) -> Result<Vec<LineNote>, MelodyError> {
    let mut sorted = Vec::with_capacity(notes.len());
    for note in notes {
        let end = note.onset.checked_add(note.duration);
        let bad = MelodyError::BadNote { onset: note.onset, duration: note.duration };
        let (Some(end), true, true) = (end, note.onset >= 0, note.duration > 0) else { return Err(bad) };
        sorted.push(LineNote {
            onset: note.onset,
            end,
            midi: note.pitch.midi,
            tie_from: note.tie_from,
            fermata: note.fermata,
            notes: 1,
        });
    }
    sorted.sort_by_key(|note| (note.onset, std::cmp::Reverse(note.midi)));
    let mut line: Vec<LineNote> = Vec::with_capacity(sorted.len());
    for note in sorted {
        match line.last_mut() {
            Some(held) if held.end > note.onset => {
                if note.midi > held.midi && note.onset > held.onset {
                    held.end = note.onset;
                    held.notes = 0;
                    line.push(note);
                }
            }
            _ => line.push(note),
        }
    }
    Ok(line)
}

/// A note of the line on the grid of sixteenths.
#[derive(Debug, Clone, Copy)]
struct GridNote {
    start: i64,
    /// Above `start`.
    end: i64,
    midi: u8,
    tie_from: bool,
    fermata: bool,
}

/// Rounds onsets and ends to the grid, each to the nearest sixteenth. A note that would vanish gets one, if no other
/// note is nearer to it.
fn on_grid(line: &[LineNote], remarks: &mut Vec<String>) -> Result<Vec<GridNote>, MelodyError> {
    let nearest = |tick: i64| tick.saturating_add(TICKS_PER_FRAME / 2).div_euclid(TICKS_PER_FRAME);
    let off = |tick: i64| tick.rem_euclid(TICKS_PER_FRAME) != 0;
    let mut grid: Vec<GridNote> = Vec::with_capacity(line.len());
    let (mut rounded, mut unseen, mut slip_before) = (0, 0, 0);
    for note in line {
        rounded += usize::from(off(note.onset) || off(note.end));
        let start = nearest(note.onset);
        let slip = (note.onset - start * TICKS_PER_FRAME).abs();
        let new = GridNote {
            start,
            end: nearest(note.end).max(start + 1),
            midi: note.midi,
            tie_from: note.tie_from,
            fermata: note.fermata,
        };
        match grid.last_mut() {
            Some(before) if before.start == start => {
                unseen += 1;
                if slip < slip_before {
                    *before = new;
                } else {
                    continue;
                }
            }
            Some(before) => {
                before.end = before.end.min(start);
                grid.push(new);
            }
            None => grid.push(new),
        }
        slip_before = slip;
    }
    if rounded > 0 {
        let unseen =
            if unseen > 0 { format!(", and {unseen} too short for it are not seen") } else { String::new() };
        remarks.push(format!("{rounded} notes are not on sixteenths: the model sees them rounded{unseen}"));
    }
    let (first, last) = (grid.first(), grid.last());
    match (first, last) {
        (Some(first), Some(last)) if last.end - first.start > i64::from(u32::MAX) => {
            Err(MelodyError::TooLong)
        }
        _ => Ok(grid),
    }
}

/// The octaves that bring a melody into the soprano's range, if it lies far from it.
fn octaves_to_soprano(line: &[LineNote], remarks: &mut Vec<String>) -> i8 {
    let length: i128 = line.iter().map(|note| i128::from(note.end - note.onset)).sum();
    let outside = |octaves: i8| -> i128 {
        let distance = |note: &LineNote| {
            let midi = i64::from(note.midi) + 12 * i64::from(octaves);
            i128::from((SOPRANO.0 - midi).max(midi - SOPRANO.1).max(0)) * i128::from(note.end - note.onset)
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
        remarks.push(format!("the melody is no soprano's: the model sees it {count} octave{s} {way}"));
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

fn frames(
    grid: &[GridNote],
    length: usize,
    pitches: &Pitches<'_>,
    remarks: &mut Vec<String>,
) -> Vec<MelodyFrame> {
    let first = grid.first().map_or(0, |note| note.start);
    let knows_fermata = pitches.vocabulary.id(Token::Fermata).is_some();
    let mut frames = vec![MelodyFrame { soprano: None, fermata: false }; length];
    let (mut replaced, mut sounded) = (0, None);
    for note in grid {
        let Some(midi) = pitches.seen(note.midi) else { continue };
        replaced += usize::from(i16::from(midi) != i16::from(note.midi) + pitches.shift);
        let continues = note.tie_from && sounded == Some((note.start, midi));
        for frame in note.start..note.end {
            if let Some(slot) = usize::try_from(frame - first).ok().and_then(|at| frames.get_mut(at)) {
                slot.soprano = Some((midi, continues || frame > note.start));
                slot.fermata = note.fermata && knows_fermata;
            }
        }
        sounded = Some((note.end, midi));
    }
    if replaced > 0 {
        remarks.push(format!(
            "{replaced} notes lie outside what the model knows: it sees the nearest it does know"
        ));
    }
    if !knows_fermata && grid.iter().any(|note| note.fermata) {
        remarks.push("the model knows no fermatas: it does not see those of the melody".to_owned());
    }
    frames
}

#[cfg(test)]
mod tests;
