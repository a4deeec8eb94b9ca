//! Corpora on this machine: built in, fetched or added; `kapell corpus`, and what studies load.

mod collect;
mod error;
mod fetch;
mod library;
mod progress;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use kapell_music::corpus::build::{self, SplitPlan};
use kapell_music::corpus::split::SPLIT_SEED;
use kapell_music::corpus::{Corpus, PartOfSplit, Protocol, blob};
use kapell_music::exercises;

use collect::Contents;
pub(crate) use error::CorpusError;
use error::Unreadable;
use fetch::{FETCHED, Fetched};
use library::Library;

/// The generated corpus, which is always there.
const EXERCISES: &str = "exercises";

/// A corpus with its canonical bytes and their digest.
#[derive(Debug, Clone)]
pub(crate) struct LoadedCorpus {
    pub corpus: Corpus,
    pub bytes: Vec<u8>,
    /// `sha256:<hex>` of `bytes`.
    pub digest: String,
    /// 1 and up; what is built in has 1.
    pub version: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CorpusCommand {
    /// Show all corpora: built in, fetched and added.
    #[command(after_help = "Example:\n  kapell corpus list")]
    List,
    /// Show a corpus, or one of its pieces. Fetches the corpus on first use.
    #[command(
        after_help = "Examples:\n  kapell corpus show chorales --json\n  kapell corpus show chorales bwv269 --tokens"
    )]
    Show {
        /// The corpus: its name, or NAME:VERSION for an older version.
        name: String,
        /// A piece of it.
        piece: Option<String>,
        /// Print the piece's tokens, one a line.
        #[arg(long, requires = "piece")]
        tokens: bool,
    },
    /// Add a folder of scores (.musicxml, .xml, .mxl) or of text (.txt) as a corpus, or a new version of one.
    #[command(
        after_help = "Examples:\n  kapell corpus add hymns ~/scores/hymns\n  kapell corpus add hymns ~/scores/hymns --split split.json --strict\nA piece that the corpus had before keeps its part of the split."
    )]
    Add {
        /// What to call it: a-z, 0-9, '-', '_', '.'.
        name: String,
        /// The folder; those within it are read too.
        dir: PathBuf,
        /// Which piece goes to which part: JSON, or lines of piece, tab, part. Others are split by tune, 80/10/10.
        #[arg(long, value_name = "FILE")]
        split: Option<PathBuf>,
        /// Add nothing if any file cannot be read.
        #[arg(long)]
        strict: bool,
    },
    /// Fetch `chorales` or `bachbot` now, from the package index or from a file that was handed over.
    #[command(
        after_help = "Examples:\n  kapell corpus fetch chorales\n  kapell corpus fetch chorales --from music21-10.5.1-py3-none-any.whl"
    )]
    Fetch {
        name: String,
        /// The archive as pip downloads it.
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
}

/// Does what `kapell corpus ...` asks, and prints it.
pub(crate) fn run(command: CorpusCommand, json: bool) -> Result<(), CorpusError> {
    let library = Library::open()?;
    match command {
        CorpusCommand::List => show::list(&library, json),
        CorpusCommand::Show { name, piece: None, .. } => {
            let loaded = load_from(&library, &name)?;
            show::corpus(&loaded, library.metadata(&loaded.corpus.name)?.as_ref(), json);
            Ok(())
        }
        CorpusCommand::Show { name, piece: Some(piece), tokens } => {
            show::piece(&load_from(&library, &name)?.corpus, &piece, tokens, json)
        }
        CorpusCommand::Add { name, dir, split, strict } => {
            let added = add(&library, &name, &dir, split.as_deref(), strict)?;
            show::added(&added, json);
            Ok(())
        }
        CorpusCommand::Fetch { name, from } => {
            let loaded = fetch(&library, &name, from.as_deref())?;
            show::corpus(&loaded, library.metadata(&name)?.as_ref(), json);
            Ok(())
        }
    }
}

/// A corpus by its name, or NAME:VERSION: built in, added, or fetched, on first use over the network, with progress
/// on standard error.
///
/// # Errors
/// No such corpus, nothing fetched (`is_unfetched`), damaged files.
pub(crate) fn load(name: &str) -> Result<LoadedCorpus, CorpusError> {
    load_from(&Library::open()?, name)
}

fn load_from(library: &Library, name: &str) -> Result<LoadedCorpus, CorpusError> {
    let (base, wanted) = match name.split_once(':') {
        Some((base, version)) => (base, Some(version)),
        None => (name, None),
    };
    let newest = load_newest(library, base)?;
    let Some(wanted) = wanted.filter(|w| *w != newest.version.to_string()) else { return Ok(newest) };
    let missing = || CorpusError::UnknownVersion { name: base.to_owned(), version: wanted.to_owned() };
    let metadata = library.metadata(base)?.ok_or_else(missing)?;
    let version = metadata.versions.iter().find(|v| v.version.to_string() == wanted).ok_or_else(missing)?;
    library.read(base, version)
}

fn load_newest(library: &Library, name: &str) -> Result<LoadedCorpus, CorpusError> {
    if name == EXERCISES {
        let corpus = exercises::corpus(exercises::SEED, exercises::PIECES)?;
        let bytes = corpus.to_bytes();
        let digest = blob::digest(&bytes);
        return Ok(LoadedCorpus { corpus, bytes, digest, version: 1 });
    }
    if let Some(fetched) = Fetched::find(name) {
        return fetched.load(library);
    }
    // What is no name is no path either.
    let known = if library::is_name(name) { library.metadata(name)? } else { None };
    let unknown =
        || CorpusError::UnknownCorpus { name: name.to_owned(), nearest: nearest_corpus(library, name) };
    let metadata = known.ok_or_else(unknown)?;
    let newest = metadata.versions.last().ok_or_else(unknown)?;
    library.read(name, newest)
}

fn nearest_corpus(library: &Library, name: &str) -> Option<String> {
    let built_in = FETCHED.iter().map(|f| f.name.to_owned()).chain([EXERCISES.to_owned()]);
    nearest(built_in.chain(library.names().unwrap_or_default()), name)
}

/// The one of `names` that is most like `wanted`, if one is.
fn nearest(names: impl Iterator<Item = String>, wanted: &str) -> Option<String> {
    let scored = names.map(|name| (strsim::damerau_levenshtein(&name, wanted), name));
    scored.min().filter(|(distance, name)| *distance <= 1 + name.len() / 4).map(|(_, name)| name)
}

fn fetch(library: &Library, name: &str, from: Option<&Path>) -> Result<LoadedCorpus, CorpusError> {
    match (Fetched::find(name), from) {
        (Some(fetched), Some(file)) => fetched.load_from(library, file),
        (Some(fetched), None) => fetched.load(library),
        (None, _) => Err(match load_from(library, name) {
            Ok(_) => CorpusError::NotFetched { name: name.to_owned() },
            Err(e) => e,
        }),
    }
}

/// What `add` did.
#[derive(Debug)]
struct Added {
    loaded: LoadedCorpus,
    /// The newest version had the same content: there is no new one.
    unchanged: bool,
    unreadable: Vec<Unreadable>,
}

fn add(
    library: &Library,
    name: &str,
    dir: &Path,
    split: Option<&Path>,
    strict: bool,
) -> Result<Added, CorpusError> {
    if name == EXERCISES || Fetched::find(name).is_some() {
        return Err(CorpusError::BuiltIn { name: name.to_owned() });
    }
    if !library::is_name(name) {
        return Err(CorpusError::Name { name: name.to_owned() });
    }
    let given = split.map(read_split).transpose()?.unwrap_or_default();
    let (contents, unreadable) = collect::read_folder(dir)?;
    if strict && !unreadable.is_empty() {
        return Err(CorpusError::Strict { unreadable });
    }
    let lock = library.lock()?;
    let mut known = library.known_parts(name)?;
    known.extend(given.clone());
    let plan = SplitPlan { seed: SPLIT_SEED, known };
    let corpus = match &contents {
        Contents::Scores(pieces) if !pieces.is_empty() => {
            build::from_scores(name, Protocol::Pieces, pieces, &plan)?
        }
        Contents::Texts(texts) if !texts.is_empty() => build::from_texts(name, texts, &plan)?,
        _ => return Err(CorpusError::NothingReadable { dir: dir.to_owned(), unreadable }),
    };
    if let Some(file) = split {
        check_split(&given, &corpus, file)?;
    }
    let source = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string();
    let (loaded, is_new) = library.store(&lock, &corpus, source, unreadable.clone())?;
    Ok(Added { loaded, unchanged: !is_new, unreadable })
}

/// A split file: JSON of piece -> part (alone, or under "pieces", as the library writes it), or lines of piece, tab,
/// part.
fn read_split(file: &Path) -> Result<BTreeMap<String, PartOfSplit>, CorpusError> {
    let bad = |why: String| CorpusError::SplitFile { file: file.to_owned(), why };
    let text = fs::read_to_string(file).map_err(CorpusError::io("read", file))?;
    if text.trim_start().starts_with('{') {
        let mut value: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let pieces = value.get_mut("pieces").filter(|p| p.is_object()).map(serde_json::Value::take);
        return serde_json::from_value(pieces.unwrap_or(value)).map_err(|e| bad(e.to_string()));
    }
    let mut parts = BTreeMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let no_part = || bad(format!("line {}: no piece, tab and part", i + 1));
        let (piece, part) = line.rsplit_once('\t').ok_or_else(no_part)?;
        let part = match part.trim() {
            "train" => PartOfSplit::Train,
            "val" => PartOfSplit::Val,
            "test" => PartOfSplit::Test,
            other => return Err(bad(format!("line {}: \"{other}\" is none of train, val, test", i + 1))),
        };
        if parts.insert(piece.to_owned(), part).is_some() {
            return Err(bad(format!("line {}: {piece} is there twice", i + 1)));
        }
    }
    Ok(parts)
}

/// A piece that the split file names and the folder lacks is a mistake worth telling.
fn check_split(
    given: &BTreeMap<String, PartOfSplit>,
    corpus: &Corpus,
    file: &Path,
) -> Result<(), CorpusError> {
    let missing: Vec<&str> =
        given.keys().filter(|id| corpus.piece(id).is_none()).map(String::as_str).take(5).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("no such piece among the readable ones: {}", missing.join(", "));
    Err(CorpusError::SplitFile { file: file.to_owned(), why })
}
