//! The corpora that are fetched: an archive from the package index by pip, pinned by its hash, kept for good.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kapell_music::corpus::build::{self, SplitPlan};
use kapell_music::corpus::split::SPLIT_SEED;
use kapell_music::corpus::{Protocol, blob};
use kapell_music::edition::{self, Edition};

use super::LoadedCorpus;
use super::collect;
use super::error::{CorpusError, Unreadable};
use super::library::{self, Library, Lock};
use super::progress::{Progress, Unit};
use crate::output;

/// A corpus that lies in a package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetched {
    pub name: &'static str,
    pub about: &'static str,
    pub protocol: Protocol,
    edition: Edition,
    version: &'static str,
    sha256: &'static str,
    bytes: u64,
}

/// All of them.
pub(crate) const FETCHED: [Fetched; 2] = [
    Fetched {
        name: "chorales",
        about: "Bach's chorales, music21 10.5.1",
        protocol: Protocol::Pieces,
        edition: Edition::Music21V10,
        version: "10.5.1",
        sha256: "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1",
        bytes: 20_118_992,
    },
    Fetched {
        name: "bachbot",
        about: "the edition that BachBot used, music21 2.2.1, with its split",
        protocol: Protocol::Contiguous,
        edition: Edition::Music21V2,
        version: "2.2.1",
        sha256: "960bd0ed1dc45ab8572a1fffc0292fb2a28c1d66a811a045ca701945970d8404",
        bytes: 53_103_163,
    },
];

impl Fetched {
    pub(crate) fn find(name: &str) -> Option<Self> {
        FETCHED.into_iter().find(|f| f.name == name)
    }

    /// The encoded corpus: from the library, else from the kept archive, else from the package index.
    pub(crate) fn load(self, library: &Library) -> Result<LoadedCorpus, CorpusError> {
        if let Ok(Some(corpus)) = self.cached(library) {
            return Ok(corpus);
        }
        let lock = library.lock()?;
        // Somebody else may have been at it while we waited.
        match self.cached(library) {
            Ok(Some(corpus)) => return Ok(corpus),
            Ok(None) => {}
            Err(e) => output::remark(format!("{e}; encoding the corpus anew")),
        }
        let archive = match self.kept_archive(library)? {
            Some(archive) => archive,
            None => self.download(library)?,
        };
        self.encode(library, &lock, &archive)
    }

    /// Takes the archive from a file that was handed over.
    pub(crate) fn load_from(self, library: &Library, file: &Path) -> Result<LoadedCorpus, CorpusError> {
        let archive = fs::read(file).map_err(CorpusError::io("read", file))?;
        self.verify(&archive, &file.display().to_string())?;
        let lock = library.lock()?;
        self.keep(library, &archive)?;
        self.encode(library, &lock, &archive)
    }

    /// Whether it is there and needs no network.
    pub(crate) fn is_here(self, library: &Library) -> bool {
        library.archive(self.edition.archive_name()).is_file()
            || library.folder(self.name).join("corpus.json").is_file()
    }

    /// The encoded corpus as kept, if this revision of the program encoded it.
    fn cached(self, library: &Library) -> Result<Option<LoadedCorpus>, CorpusError> {
        let metadata = library.metadata(self.name)?.filter(|m| m.revision == library::revision());
        match metadata.as_ref().and_then(|m| m.versions.last()) {
            Some(version) => library.read(self.name, version).map(Some),
            None => Ok(None),
        }
    }

    fn kept_archive(self, library: &Library) -> Result<Option<Vec<u8>>, CorpusError> {
        let path = library.archive(self.edition.archive_name());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(CorpusError::io("read", path)(e)),
        };
        match self.verify(&bytes, &path.display().to_string()) {
            Ok(()) => Ok(Some(bytes)),
            Err(e) => {
                output::remark(format!("{e}; fetching it again"));
                Ok(None)
            }
        }
    }

    fn verify(self, archive: &[u8], file: &str) -> Result<(), CorpusError> {
        let found = blob::digest(archive).trim_start_matches("sha256:").to_owned();
        if found == self.sha256 {
            return Ok(());
        }
        let (archive, expected) = (self.edition.archive_name().to_owned(), self.sha256.to_owned());
        Err(CorpusError::HashMismatch { file: file.to_owned(), archive, found, expected })
    }

    fn keep(self, library: &Library, archive: &[u8]) -> Result<(), CorpusError> {
        let path = library.archive(self.edition.archive_name());
        let folder = path.parent().unwrap_or(library.root());
        fs::create_dir_all(folder).map_err(CorpusError::io("make the folder", folder))?;
        library::write_atomically(&path, archive)
    }

    fn encode(self, library: &Library, lock: &Lock, archive: &[u8]) -> Result<LoadedCorpus, CorpusError> {
        let mut listing = edition::chorales(archive, self.edition)?;
        // BachBot's split is by the order of file names, in which bwv69.6-a.mxl comes before bwv69.6.mxl.
        if self.protocol == Protocol::Contiguous {
            listing.chorales.sort_by(|a, b| a.file.cmp(&b.file));
        }
        let (pieces, unreadable) = collect::encode_edition(&listing.chorales);
        let plan = SplitPlan { seed: SPLIT_SEED, ..SplitPlan::default() };
        let corpus = build::from_scores(self.name, self.protocol, &pieces, &plan)?;
        let mut left_out: Vec<Unreadable> = listing
            .left_out
            .into_iter()
            .map(|l| Unreadable { file: l.file, reason: l.why.to_owned() })
            .collect();
        left_out.extend(unreadable);
        let source = format!("music21 {} (sha256:{})", self.version, self.sha256);
        if matches!(library.metadata(self.name), Err(CorpusError::Damaged { .. })) {
            let folder = library.folder(self.name);
            fs::remove_dir_all(&folder).map_err(CorpusError::io("remove", folder))?;
        }
        library.store(lock, &corpus, source, left_out).map(|(loaded, _)| loaded)
    }

    /// Lets pip fetch the archive, and keeps it. The caller holds the lock.
    fn download(self, library: &Library) -> Result<Vec<u8>, CorpusError> {
        let name = self.edition.archive_name();
        remove_leftovers(library.root());
        let place = tempfile::Builder::new()
            .prefix(LEFTOVER)
            .tempdir_in(library.root())
            .map_err(CorpusError::io("make a folder in", library.root()))?;
        self.run_pip(place.path())?;
        let path = place.path().join("fetched").join(name);
        let archive = fs::read(&path).map_err(|e| self.failed(format!("pip left no {name}: {e}")))?;
        self.verify(&archive, name)?;
        self.keep(library, &archive)?;
        Ok(archive)
    }

    fn run_pip(self, place: &Path) -> Result<(), CorpusError> {
        let requirements = place.join("requirements.txt");
        let pinned = format!("music21=={} --hash=sha256:{}\n", self.version, self.sha256);
        fs::write(&requirements, pinned).map_err(CorpusError::io("write", &requirements))?;
        let log = place.join("pip.log");
        let log_file = || File::options().create(true).append(true).open(&log);
        let (out, err) = (log_file(), log_file());
        let (out, err) = out.and_then(|o| err.map(|e| (o, e))).map_err(CorpusError::io("write", &log))?;
        let kind: &[&str] = match self.edition {
            Edition::Music21V10 => &["--only-binary", ":all:"],
            // The source archive as it is; pip insists on asking its setup.py for the name.
            Edition::Music21V2 => &["--no-binary", "music21"],
        };
        let mut child = Command::new("python3")
            .args(["-m", "pip", "download", "--no-deps", "--require-hashes", "--ignore-requires-python"])
            .args(["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--retries", "2"])
            .args(kind)
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(place.join("fetched"))
            .env("TMPDIR", place)
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|e| self.failed(format!("python3 does not start: {e}")))?;
        let mut progress =
            Progress::start(&format!("fetching {}", self.edition.archive_name()), self.bytes, Unit::Bytes);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {
                    std::thread::sleep(Duration::from_millis(100));
                    progress.at(largest_file(place, 3));
                }
                Err(e) => return Err(self.failed(format!("pip is lost: {e}"))),
            }
        };
        if status.success() {
            progress.finish();
            return Ok(());
        }
        drop(progress);
        let told = fs::read(&log).unwrap_or_default();
        Err(self.judge(&String::from_utf8_lossy(&told)))
    }

    /// What pip's last words mean.
    fn judge(self, told: &str) -> CorpusError {
        if let Some(at) = told.find("DO NOT MATCH THE HASHES") {
            let got = told[at..]
                .lines()
                .find_map(|line| line.trim().strip_prefix("Got"))
                .unwrap_or("another")
                .trim();
            let archive = self.edition.archive_name().to_owned();
            let (file, expected) = ("what the package index sent".to_owned(), self.sha256.to_owned());
            return CorpusError::HashMismatch { file, archive, found: got.to_owned(), expected };
        }
        if told.contains("No module named pip") {
            return self.failed(
                "this python3 has no pip (python3 -m ensurepip, or your system's python3-pip)".into(),
            );
        }
        if told.contains("Retrying (") {
            return self.failed("the package index cannot be reached".into());
        }
        let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("ERROR")).collect();
        let last = errors.first().copied().or_else(|| told.lines().last()).unwrap_or("it said nothing");
        self.failed(format!("pip download failed: {}", last.trim_start_matches("ERROR: ").trim()))
    }

    fn failed(self, why: String) -> CorpusError {
        CorpusError::Fetch {
            name: self.name.to_owned(),
            archive: self.edition.archive_name().to_owned(),
            why,
        }
    }
}

const LEFTOVER: &str = ".fetch-";

/// Folders of fetches that were killed. Nobody else fetches: the caller holds the lock.
fn remove_leftovers(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(LEFTOVER)) {
        if let Err(e) = fs::remove_dir_all(entry.path()) {
            output::remark(format!("cannot remove {}: {e}", entry.path().display()));
        }
    }
}

/// Size of the largest file below: pip writes the archive under a name of its own choice.
fn largest_file(dir: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).max().unwrap_or(0)
}
