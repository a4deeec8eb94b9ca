//! The folder of a backup: written beside its place, flushed, renamed; and what its list says.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::BackupError;
use crate::blobs::place_in;
use crate::disk::{Disk as _, RealDisk};
use crate::store::now_ms;

/// The list.
pub(super) const LIST: &str = "backup.json";
/// The copy of the database.
pub(super) const DATABASE: &str = "kapell.db";
/// Of the list's format.
const FORMAT: u32 = 1;

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// sha256:<hex>
    pub digest: String,
    pub size: u64,
}

/// What a backup holds: `backup.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupManifest {
    pub format: u32,
    /// Of the database.
    pub schema: i64,
    /// That of the coordinator.
    pub program_version: String,
    /// Wall clock, for people.
    pub created_at_ms: i64,
    pub database: Entry,
    pub blobs: Vec<Entry>,
    /// Blobs on record whose files were known to be damaged when the backup was taken.
    pub damaged: Vec<String>,
}

impl BackupManifest {
    /// Reads the list of the backup at `dir`.
    ///
    /// # Errors
    /// There is no backup, or one of a format that this program does not know, or a damaged one.
    pub fn read(dir: &Path) -> Result<Self, BackupError> {
        let path = dir.join(LIST);
        let text = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BackupError::usage(
                format!("{} is no backup: it has no {LIST}", dir.display()),
                "name a folder that `kapell coordinator backup` has written",
            ),
            _ => BackupError::io(&path, error),
        })?;
        let damaged = |e: &dyn std::fmt::Display| BackupError::Damaged(format!("{}: {e}", path.display()));
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| damaged(&e))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format > u64::from(FORMAT) => Err(BackupError::usage(
                format!("{} has format {format}, which is newer than this program knows", dir.display()),
                "use the newer program",
            )),
            _ => serde_json::from_value(value).map_err(|e| damaged(&e)),
        }
    }
}

/// What a backup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub dir: PathBuf,
    /// Of the database and all blobs.
    pub bytes: u64,
    pub blobs: usize,
    /// Blobs that were left out since their files are known to be damaged.
    pub damaged: Vec<String>,
}

/// A file that is being written.
struct Open {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written: u64,
    size: u64,
    /// None: the database.
    digest: Option<String>,
}

/// A backup that is being written. Dropped before its end it leaves nothing.
pub(super) struct Folder {
    place: PathBuf,
    parent: PathBuf,
    /// Removed with everything in it unless it has become the backup.
    working: tempfile::TempDir,
    open: Option<Open>,
    manifest: BackupManifest,
}

impl Folder {
    /// Begins a backup that is to be at `place`.
    pub(super) fn create(place: &Path) -> Result<Self, BackupError> {
        refuse_used(place)?;
        let name = place
            .file_name()
            .ok_or_else(|| BackupError::usage("a backup needs a name", "name a new folder"))?;
        let parent = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        std::fs::create_dir_all(&parent).map_err(|e| BackupError::io(&parent, e))?;
        let working = tempfile::Builder::new()
            .prefix(&format!(".{}.partial-", name.to_string_lossy()))
            .tempdir_in(&parent)
            .map_err(|e| BackupError::io(&parent, e))?;
        let manifest = BackupManifest {
            format: FORMAT,
            schema: 0,
            program_version: String::new(),
            created_at_ms: now_ms(),
            database: Entry { digest: String::new(), size: 0 },
            blobs: Vec::new(),
            damaged: Vec::new(),
        };
        Ok(Self { place: place.to_owned(), parent, working, open: None, manifest })
    }

    pub(super) fn about(&mut self, schema: i64, program_version: String, damaged: Vec<String>) {
        (self.manifest.schema, self.manifest.program_version) = (schema, program_version);
        self.manifest.damaged = damaged;
    }

    /// Where the database's copy belongs.
    pub(super) fn database_path(&self) -> PathBuf {
        self.working.path().join(DATABASE)
    }

    /// The copy of the database is in its place already.
    pub(super) fn take_database(&mut self) -> Result<(), BackupError> {
        let path = self.database_path();
        let (digest, size) = kapell_rpc::digest::of_file(&path).map_err(|e| BackupError::io(&path, e))?;
        File::open(&path).and_then(|f| f.sync_all()).map_err(|e| BackupError::io(&path, e))?;
        self.manifest.database = Entry { digest, size };
        Ok(())
    }

    pub(super) fn begin_database(&mut self, size: u64) -> Result<(), BackupError> {
        let path = self.database_path();
        self.begin(path, size, None)
    }

    pub(super) fn begin_blob(&mut self, digest: &str, size: u64) -> Result<(), BackupError> {
        let path = place_in(&self.working.path().join("blobs"), digest)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| BackupError::io(folder, e))?;
        }
        self.begin(path, size, Some(digest.to_owned()))
    }

    fn begin(&mut self, path: PathBuf, size: u64, digest: Option<String>) -> Result<(), BackupError> {
        self.end_file()?;
        let file = File::create_new(&path).map_err(|e| BackupError::io(&path, e))?;
        self.open = Some(Open { path, file, hasher: Sha256::new(), written: 0, size, digest });
        Ok(())
    }

    /// Appends to the file begun last.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let Some(open) = &mut self.open else {
            return Err(BackupError::Damaged("bytes came that belong to no file".into()));
        };
        open.file.write_all(bytes).map_err(|e| BackupError::io(&open.path, e))?;
        open.hasher.update(bytes);
        open.written += bytes.len() as u64;
        Ok(())
    }

    /// The file begun last is whole: its bytes go to the disk, and must be what its name says.
    fn end_file(&mut self) -> Result<(), BackupError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        open.file.sync_all().map_err(|e| BackupError::io(&open.path, e))?;
        let found = format!("sha256:{}", hex::encode(open.hasher.finalize()));
        let entry = Entry { digest: found.clone(), size: open.written };
        let Some(digest) = open.digest else {
            if open.written != open.size {
                let text = format!("the database came with {} of {} bytes", open.written, open.size);
                return Err(BackupError::Damaged(text));
            }
            self.manifest.database = entry;
            return Ok(());
        };
        if found != digest || open.written != open.size {
            let text = format!("the {} bytes that came for {digest} hash to {found}", open.written);
            return Err(BackupError::Damaged(text));
        }
        self.manifest.blobs.push(entry);
        Ok(())
    }

    /// Writes the list, flushes the folders and gives the backup its name.
    pub(super) fn finish(mut self) -> Result<Written, BackupError> {
        self.end_file()?;
        if self.manifest.database.digest.is_empty() {
            return Err(BackupError::Damaged("a backup came without a database".into()));
        }
        let root = self.working.path().to_owned();
        let list = root.join(LIST);
        let text = serde_json::to_vec(&self.manifest).map_err(|e| BackupError::Unexpected(e.to_string()))?;
        let written = File::create_new(&list).and_then(|mut f| {
            f.write_all(&text)?;
            f.sync_all()
        });
        written.map_err(|e| BackupError::io(&list, e))?;
        sync_tree(&root)?;
        refuse_used(&self.place)?;
        std::fs::rename(&root, &self.place).map_err(|e| BackupError::io(&self.place, e))?;
        // What has its name now must not be removed any more.
        let _ = self.working.keep();
        RealDisk.sync_dir(&self.parent).map_err(|e| BackupError::io(&self.parent, e))?;
        let manifest = self.manifest;
        Ok(Written {
            bytes: manifest.database.size + manifest.blobs.iter().map(|b| b.size).sum::<u64>(),
            blobs: manifest.blobs.len(),
            damaged: manifest.damaged,
            dir: self.place,
        })
    }
}

/// A backup is never written over anything.
fn refuse_used(place: &Path) -> Result<(), BackupError> {
    let hint = "name a folder that is not there yet: a backup is written once";
    match std::fs::read_dir(place).map(|mut entries| entries.next().is_none()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(BackupError::usage(format!("{} is a file", place.display()), hint))
        }
        Err(error) => Err(BackupError::io(place, error)),
        Ok(true) => Ok(()),
        Ok(false) if place.join(LIST).exists() => {
            Err(BackupError::usage(format!("{} holds a backup already", place.display()), hint))
        }
        Ok(false) => Err(BackupError::usage(format!("{} is not empty", place.display()), hint)),
    }
}

/// Has every folder under `root` remember its entries.
pub(super) fn sync_tree(root: &Path) -> Result<(), BackupError> {
    let failed = |e| BackupError::io(root, e);
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    RealDisk.sync_dir(root).map_err(failed)
}
