//! Writing pieces: the file's ending says what is written, and the melody is compared with what a reader will find.

use std::fs;
use std::path::{Path, PathBuf};

use kapell_model::decode::Piece;
use kapell_music::read::read_score;
use kapell_music::score::{Direction, Grace, Lyric, Markup, Measure, Note, Part, Pitch, Score};
use kapell_music::write::wav::{Instrument, SoundFont, write_wav};
use kapell_music::write::{write_midi, write_musicxml, write_svg};

use super::MusicError;

/// A file to write.
#[derive(Debug, Clone)]
pub(super) struct Target {
    path: PathBuf,
    format: Format,
}

#[derive(Debug, Clone)]
enum Format {
    MusicXml,
    Midi,
    Wav(Instrument),
    Svg,
    /// One token a line.
    Tokens,
}

/// The files asked for, or the one that is written where none is.
pub(super) fn targets(asked: &[PathBuf], default: impl Fn() -> String) -> Result<Vec<Target>, MusicError> {
    if asked.is_empty() {
        return Ok(vec![Target { path: default().into(), format: Format::MusicXml }]);
    }
    let mut targets: Vec<Target> = Vec::new();
    for path in asked {
        if targets.iter().any(|target| target.path == *path) {
            return Err(MusicError::Twice(path.clone()));
        }
        targets.push(Target { path: path.clone(), format: format_of(path)? });
    }
    Ok(targets)
}

fn format_of(path: &Path) -> Result<Format, MusicError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        Some("musicxml" | "xml") => Ok(Format::MusicXml),
        Some("mid" | "midi") => Ok(Format::Midi),
        Some("txt") => Ok(Format::Tokens),
        Some("wav") => Ok(Format::Wav(Instrument::Organ)),
        Some("svg") => Ok(Format::Svg),
        _ => Err(MusicError::Ending(path.to_owned())),
    }
}

/// Has the sound files among the targets played by a SoundFont, if one is named.
pub(super) fn play_with(targets: &mut [Target], soundfont: Option<&Path>) -> Result<(), MusicError> {
    let Some(path) = soundfont else { return Ok(()) };
    let failed = |source| MusicError::Io { doing: "read", path: path.to_owned(), source };
    let font = SoundFont::read(&fs::read(path).map_err(failed)?)
        .map_err(|source| MusicError::SoundFont { path: path.to_owned(), source })?;
    for target in targets {
        if let Format::Wav(instrument) = &mut target.format {
            *instrument = Instrument::SoundFont(font.clone());
        }
    }
    Ok(())
}

/// Whether a file that was written is MIDI.
pub(super) fn is_midi(path: &Path) -> bool {
    format_of(path).is_ok_and(|format| format == Format::Midi)
}

/// Refuses to write over the melody's own file.
pub(super) fn spare_the_melody(targets: &[Target], melody: &str) -> Result<(), MusicError> {
    let Ok(melody) = fs::canonicalize(melody) else { return Ok(()) };
    let same = |target: &&Target| fs::canonicalize(&target.path).is_ok_and(|path| path == melody);
    match targets.iter().find(same) {
        Some(target) => Err(MusicError::Melodys(target.path.clone())),
        None => Ok(()),
    }
}

/// Writes a piece to all of its files, and gives their paths.
pub(super) fn write(targets: Vec<Target>, piece: &Piece) -> Result<Vec<PathBuf>, MusicError> {
    let mut written = Vec::with_capacity(targets.len());
    for Target { path, format } in targets {
        let bytes = match format {
            Format::MusicXml => write_musicxml(&piece.score).into_bytes(),
            Format::Midi => write_midi(&piece.score),
            Format::Wav(instrument) => write_wav(&piece.score, &instrument)?,
            Format::Svg => write_svg(&piece.score).into_bytes(),
            Format::Tokens => {
                piece.tokens.iter().flat_map(|token| format!("{token}\n").into_bytes()).collect()
            }
        };
        fs::write(&path, bytes).map_err(|source| MusicError::Io {
            doing: "write",
            path: path.clone(),
            source,
        })?;
        written.push(path);
    }
    Ok(written)
}

/// The same files, with a number behind their stems where there are several pieces.
pub(super) fn numbered(targets: &[Target], number: Option<usize>) -> Vec<Target> {
    let named = |target: &Target| {
        let mut target = target.clone();
        if let Some(number) = number {
            let part = |text: Option<&std::ffi::OsStr>| {
                text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
            };
            let (stem, ending) = (part(target.path.file_stem()), part(target.path.extension()));
            target.path.set_file_name(format!("{stem}-{number}.{ending}"));
        }
        target
    };
    targets.iter().map(named).collect()
}

/// Whether the given parts, by voice and index in the melody's score, stand in the piece as they were.
pub(super) fn are_parts_kept(
    melody: &Score,
    mut given: impl Iterator<Item = (usize, usize)>,
    piece: &Score,
) -> bool {
    given.all(|(voice, part)| {
        let mut alone = piece.clone();
        alone.parts.swap(0, voice);
        is_melody_kept(melody, part, &alone)
    })
}

/// Whether the first part of the score, written and read back, is the melody: pitches, spelling, onsets, durations,
/// ties, words, grace notes and marks, measures with their bar lines, and what concerns the whole score.
fn is_melody_kept(melody: &Score, part: usize, piece: &Score) -> bool {
    let Ok(read) = read_score(write_musicxml(piece).as_bytes(), "") else { return false };
    let Some(soprano) = read.parts.first() else { return false };
    let measures = melody.measures.len() == read.measures.len()
        && melody.measures.iter().zip(&read.measures).all(|(bar, read)| is_bar_kept(bar, read));
    measures && sung(&melody.parts[part]) == sung(soprano)
}

/// A reader finds bar lines and signs that the writer adds; what there was must be the same.
fn is_bar_kept(bar: &Measure, read: &Measure) -> bool {
    let head = |measure: &Measure| {
        let repeats = (measure.repeat_start, measure.repeat_end);
        (measure.start, measure.duration, measure.time, measure.key.fifths, measure.implicit, repeats)
    };
    let kept = |was: &Option<Markup>, is: &Option<Markup>| was.is_none() || was == is;
    let (was, is) = (&bar.notation, &read.notation);
    bar.number == read.number
        && head(bar) == head(read)
        && (was.mode == is.mode && kept(&was.time, &is.time))
        && (kept(&was.left, &is.left) && kept(&was.right, &is.right))
        && was.directions.iter().all(|direction| {
            let same = |read: &&Direction| {
                (read.onset, read.tempo) == (direction.onset, direction.tempo)
                    && kept(&direction.markup, &read.markup)
            };
            is.directions.iter().find(same).is_some()
        })
}

/// A note with those tied to it.
#[derive(Debug, Clone, PartialEq)]
struct SungNote {
    onset: i64,
    midi: u8,
    duration: i64,
    spelling: (u8, i8),
    fermata: bool,
    lyrics: Vec<Lyric>,
    graces: Vec<Grace>,
    /// But for brackets and the shapes of fermatas, of which the writer has its own.
    marks: Vec<Markup>,
}

/// A part's notes, ties joined: how many noteheads a held note is written with is the notation's affair.
fn sung(part: &Part) -> Vec<SungNote> {
    let mut joined: Vec<(SungNote, bool)> = Vec::new();
    for note in &part.notes {
        let Note { onset, duration, pitch: Pitch { midi, step, alter }, fermata, .. } = *note;
        let goes_on = |(before, open): &&mut (SungNote, bool)| {
            *open && note.tie_from && before.midi == midi && before.onset + before.duration == onset
        };
        let notation = &note.notation;
        let (lyrics, graces) =
            (notation.lyrics.clone(), [&notation.graces[..], &notation.graces_after].concat());
        let marks = notation.marks.iter().filter(|mark| !["tuplet", "fermata"].contains(&mark.name.as_str()));
        let marks = marks.cloned().collect();
        if let Some((before, open)) = joined.iter_mut().rev().find(goes_on) {
            before.duration += duration;
            before.fermata |= fermata;
            before.lyrics.extend(lyrics);
            before.graces.extend(graces);
            before.marks.extend(marks);
            *open = note.tie_to;
        } else {
            let spelling = (step, alter);
            let new = SungNote { onset, midi, duration, spelling, fermata, lyrics, graces, marks };
            joined.push((new, note.tie_to));
        }
    }
    let mut notes: Vec<SungNote> = joined.into_iter().map(|(note, _)| note).collect();
    notes.sort_by_key(|note| (note.onset, note.midi, note.duration));
    notes
}
