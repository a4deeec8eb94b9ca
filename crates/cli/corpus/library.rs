//! Corpora on disk: one folder each, with its versions' blobs, a readable split and what is known of it.
//!
//! ```text
//! $XDG_CACHE_HOME/kapellmeister/corpora (or KAPELL_CORPUS_DIR)
//!   .lock                     held by who fetches or adds
//!   archives/music21-...      what was fetched, verified, never fetched again
//!   NAME/corpus.json          versions, digests, counts: written last, so that a version is there or is not
//!   NAME/split.json           every piece that ever was in it -> its part
//!   NAME/1.corpus, 2.corpus   the blobs
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Protocol, Statistics, blob};
use serde::{Deserialize, Serialize};

use super::LoadedCorpus;
use super::error::{CorpusError, Unreadable};
use crate::paths;

/// A corpus folder's `corpus.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Metadata {
    pub name: String,
    pub kind: Kind,
    pub protocol: Protocol,
    /// Where it came from: a folder's path, or a package and its SHA-256.
    pub source: String,
    /// What encoded the newest version: a fetched corpus of another revision is encoded anew.
    pub revision: String,
    /// Ascending.
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Version {
    pub version: u32,
    pub digest: String,
    pub split_digest: String,
    /// RFC 3339, UTC.
    pub added_at: String,
    pub pieces: usize,
    pub frames: Option<usize>,
    pub tokens: usize,
    pub vocabulary: usize,
    pub left_out: Vec<Unreadable>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SplitFile {
    corpus: String,
    protocol: Protocol,
    /// Of the newest version.
    split_digest: String,
    pieces: BTreeMap<String, PartOfSplit>,
}

/// The folder of all corpora.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    root: PathBuf,
}

/// Held while a corpus is fetched or added; let go when dropped.
pub(crate) struct Lock {
    _file: File,
}

impl Library {
    /// `KAPELL_CORPUS_DIR`, or `corpora` in the user's data folder: an added corpus and its split are no cache. Makes
    /// nothing.
    pub(crate) fn open() -> Result<Self, CorpusError> {
        let given = std::env::var_os("KAPELL_CORPUS_DIR").filter(|dir| !dir.is_empty());
        let root = match given {
            Some(dir) => PathBuf::from(dir),
            None => {
                paths::user_data_dir().map_err(|e| CorpusError::NoHome { why: e.message })?.join("corpora")
            }
        };
        Ok(Self::at(root))
    }

    /// The library in a folder of one's choice.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn archive(&self, file: &str) -> PathBuf {
        self.root.join("archives").join(file)
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits until nobody else fetches or adds, and makes the folder.
    pub(crate) fn lock(&self) -> Result<Lock, CorpusError> {
        fs::create_dir_all(&self.root).map_err(CorpusError::io("make the folder", &self.root))?;
        let path = self.root.join(".lock");
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(CorpusError::io("open", &path))?;
        file.lock().map_err(CorpusError::io("lock", &path))?;
        Ok(Lock { _file: file })
    }

    /// Names of the corpora that are there, ascending.
    pub(crate) fn names(&self) -> Result<Vec<String>, CorpusError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(CorpusError::io("read", &self.root)(e)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| is_name(name) && self.folder(name).join("corpus.json").is_file())
            .collect();
        names.sort();
        Ok(names)
    }

    /// What is known of a corpus; none where it is not there.
    pub(crate) fn metadata(&self, name: &str) -> Result<Option<Metadata>, CorpusError> {
        read_json(&self.folder(name).join("corpus.json"))
    }

    /// The parts of all pieces that ever were in a corpus.
    pub(crate) fn known_parts(&self, name: &str) -> Result<BTreeMap<String, PartOfSplit>, CorpusError> {
        let split: Option<SplitFile> = read_json(&self.folder(name).join("split.json"))?;
        Ok(split.map(|s| s.pieces).unwrap_or_default())
    }

    /// A version's corpus, its blob checked against the digest that was written down.
    pub(crate) fn read(&self, name: &str, version: &Version) -> Result<LoadedCorpus, CorpusError> {
        let path = self.blob_path(name, version.version);
        let bytes = fs::read(&path).map_err(CorpusError::io("read", &path))?;
        let digest = blob::digest(&bytes);
        if digest != version.digest {
            let why = format!("its digest is {digest}, not {}", version.digest);
            return Err(CorpusError::Damaged { path, why });
        }
        let corpus = Corpus::from_bytes(&bytes).map_err(CorpusError::damaged(&path))?;
        Ok(LoadedCorpus { corpus, bytes, digest, version: version.version })
    }

    /// Adds a version, unless the newest one has the same content; says which number it has and whether it is new.
    pub(crate) fn store(
        &self,
        _lock: &Lock,
        corpus: &Corpus,
        source: String,
        left_out: Vec<Unreadable>,
    ) -> Result<(LoadedCorpus, bool), CorpusError> {
        let name = &corpus.name;
        let bytes = corpus.to_bytes();
        let digest = blob::digest(&bytes);
        let before = self.metadata(name)?;
        let mut versions = before.map(|m| m.versions).unwrap_or_default();
        let newest = versions.last().map_or(0, |v| v.version);
        let is_new = versions.last().is_none_or(|v| v.digest != digest);
        let number = if is_new { newest + 1 } else { newest };
        let folder = self.folder(name);
        fs::create_dir_all(&folder).map_err(CorpusError::io("make the folder", &folder))?;
        write_atomically(&self.blob_path(name, number), &bytes)?;
        let mut pieces = self.known_parts(name)?;
        pieces.extend(corpus.pieces.iter().map(|p| (p.id.clone(), p.part)));
        let split_digest = corpus.split_digest();
        let split = SplitFile {
            corpus: name.clone(),
            protocol: corpus.protocol,
            split_digest: split_digest.clone(),
            pieces,
        };
        write_json(&folder.join("split.json"), &split)?;
        let Statistics { pieces, frames, tokens, vocabulary, .. } = corpus.statistics();
        if !is_new {
            versions.pop();
        }
        versions.push(Version {
            version: number,
            digest: digest.clone(),
            split_digest,
            added_at: jiff::Timestamp::now().to_string(),
            pieces,
            frames,
            tokens,
            vocabulary,
            left_out,
        });
        let metadata = Metadata {
            name: name.clone(),
            kind: corpus.kind,
            protocol: corpus.protocol,
            source,
            revision: revision(),
            versions,
        };
        write_json(&folder.join("corpus.json"), &metadata)?;
        Ok((LoadedCorpus { corpus: corpus.clone(), bytes, digest, version: number }, is_new))
    }

    fn blob_path(&self, name: &str, version: u32) -> PathBuf {
        self.folder(name).join(format!("{version}.corpus"))
    }
}

/// What this program encodes like: cached encodings of another revision are made anew from their archive.
pub(crate) fn revision() -> String {
    /// Raised whenever reading, encoding or splitting gives other corpora than before.
    const ENCODING: u32 = 1;
    format!("{} encoding {ENCODING}", env!("CARGO_PKG_VERSION"))
}

/// Whether a corpus can be called so: it becomes a folder's name and stands before `:VERSION`.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(allowed)
        && name != "archives"
}

/// Writes a file so that it is there whole or not at all: beside it, fsync, rename, fsync the folder.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), CorpusError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        // As any other file, not as a secret: the umask says who may read.
        let permissions = fs::Permissions::from_mode(0o666);
        let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(CorpusError::io("write", path))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CorpusError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| CorpusError::io("write", path)(io::Error::other(e)))?;
    write_atomically(path, (text + "\n").as_bytes())
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, CorpusError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CorpusError::io("read", path)(e)),
    };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|e| CorpusError::Damaged { path: path.to_owned(), why: e.to_string() })
}
