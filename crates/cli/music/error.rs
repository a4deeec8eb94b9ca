//! What can go wrong with a melody, a model or a score to write, and what to do then.

use std::io;
use std::path::PathBuf;

use kapell_model::checkpoint::CheckpointError;
use kapell_model::decode::{DecodeError, MelodyError, VocabularyError};
use kapell_model::infer::LoadError;
use kapell_music::read::ReadError;
use kapell_music::write::wav::WavError;

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MusicError {
    #[error("there is no melody {0:?}: no such file, and no built-in melody of that name")]
    NoMelody(String),
    #[error(transparent)]
    Score(#[from] ReadError),
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("no model can be read in {}: {source}", dir.display())]
    Model { dir: PathBuf, source: LoadError },
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    #[error(transparent)]
    Melody(#[from] MelodyError),
    #[error(transparent)]
    Key(#[from] kapell_model::decode::tonality::ParseKeyError),
    #[error("the model lacks what the melody needs: {0}")]
    Unknown(#[from] kapell_model::decode::Unknown),
    #[error(transparent)]
    Stuck(#[from] kapell_model::decode::Stuck),
    #[error(transparent)]
    Phrases(#[from] kapell_model::decode::phrases::ParsePhrasesError),
    #[error("{0:?} is no voice: soprano, alto, tenor and bass are")]
    Voice(String),
    #[error("all four voices are given: there is nothing to harmonise")]
    AllGiven,
    #[error("{0:?} are no ranges: four of them are wanted, S A T B, lowest and highest MIDI pitch each")]
    Ranges(String),
    #[error("--variations are drawn: they want --search sample")]
    Variations,
    #[error("{name} must be {wanted}, not {got}")]
    Option { name: &'static str, wanted: &'static str, got: f64 },
    #[error("{}: {source}", path.display())]
    SoundFont { path: PathBuf, source: WavError },
    #[error(transparent)]
    Wav(#[from] WavError),
    #[error("what kind of file is {}? Its name must end in .musicxml, .mid, .wav, .svg or .txt", .0.display())]
    Ending(PathBuf),
    #[error("{} is named twice as an output", .0.display())]
    Twice(PathBuf),
    #[error("{} is the melody itself, which is never written over", .0.display())]
    Melodys(PathBuf),
}

impl From<DecodeError> for MusicError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Melody(error) => error.into(),
            DecodeError::Unknown(error) => error.into(),
            DecodeError::Stuck(error) => error.into(),
        }
    }
}

impl MusicError {
    /// The contract's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Io { source, .. } => io_exit(source),
            Self::Model { source, .. } if !is_missing(source) => 7,
            _ => 2,
        }
    }

    /// kebab-case, stable.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoMelody(_) => "not-found",
            Self::Score(_) => "bad-score",
            Self::Io { source, .. } if io_exit(source) == 75 => "disk-full",
            Self::Io { .. } => "io",
            Self::Model { source, .. } if is_missing(source) => "not-found",
            Self::Model { .. } => "bad-model",
            Self::Vocabulary(_) | Self::Unknown(_) | Self::Stuck(_) => "wrong-model",
            Self::Melody(_) => "bad-melody",
            Self::SoundFont { .. } => "bad-soundfont",
            Self::Wav(_) => "too-long",
            Self::Key(_)
            | Self::Phrases(_)
            | Self::Voice(_)
            | Self::AllGiven
            | Self::Ranges(_)
            | Self::Variations
            | Self::Option { .. }
            | Self::Ending(_)
            | Self::Twice(_)
            | Self::Melodys(_) => "usage",
        }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NoMelody(_) => "built in are twinkle, ode_to_joy, old_hundredth and frere_jacques",
            // A reader's message ends with what to do.
            Self::Score(_) => "",
            Self::Io { source, .. } if io_exit(source) == 75 => "make room and try again",
            Self::Io { .. } => "check the path, and who may read and write there",
            Self::Model { source, .. } if is_missing(source) => {
                "name a folder with model.safetensors, config.json and vocab.json, or a model of the registry \
                 (kapell model list)"
            }
            Self::Model { .. } => "fetch it again: kapell model pull REF DIR",
            Self::Vocabulary(_) | Self::Unknown(_) | Self::Stuck(_) => "use a model that was trained on scores, such as the chorales",
            Self::Melody(MelodyError::NoPart { .. }) => "name one of these parts, or give its number from 1",
            Self::Melody(MelodyError::NoNotes(_)) => "name a part with notes: --part NAME",
            Self::Melody(MelodyError::TooLong) => "cut it into movements",
            Self::Melody(MelodyError::BadNote { .. }) => "export the score again from the program that made it",
            Self::Phrases(_) => "for example --phrases every:4",
            Self::Voice(_) => "for example --given soprano,bass",
            Self::AllGiven => "leave out the voices that are to be found",
            Self::Ranges(_) => "the default is --ranges 60-81,53-74,48-69,36-64",
            Self::Variations => "add --search sample, or leave --search out",
            Self::SoundFont { .. } => "name a SoundFont in the SF2 format, or leave --soundfont out for the built-in organ",
            Self::Wav(_) => "write .musicxml or .mid, or cut the melody into movements",
            Self::Key(_) => "write it like G, Bb, \"f# minor\" or \"E-flat major\"",
            Self::Option { .. } => "for always the likeliest notes: --search greedy",
            Self::Ending(_) => "for example: -o hymn-satb.musicxml -o hymn-satb.mid",
            Self::Twice(_) | Self::Melodys(_) => "name another file with -o",
        }
        .to_owned()
    }
}

fn is_missing(error: &LoadError) -> bool {
    matches!(error, LoadError::Checkpoint(CheckpointError::Io { source, .. })
        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

fn io_exit(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => 75,
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::ReadOnlyFilesystem => 2,
        _ => 1,
    }
}
