//! Writing pieces: the file's ending says what is written, and the melody is compared with what a reader will find.

use std::fs;
use std::path::{Path, PathBuf};

use kapell_model::decode::Piece;
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
    matches!(format_of(path), Ok(Format::Midi))
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
