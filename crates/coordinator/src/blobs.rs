//! Blobs on disk: `blobs/ab/cdef...` under the data folder, named by digest. A blob is written elsewhere, checked,
//! fsynced, renamed into its place, the folder fsynced; only then a row says that it is there.

mod sweep;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kapell_rpc::manifest::{MANIFEST_BYTES_MAX, Manifest};
use kapell_rpc::{digest, reason};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedMutexGuard, RwLock};

use crate::data_dir::free_bytes;
use crate::disk::Disk;
use crate::store::{Refusal, Store, StoreError, blobs as rows};

/// What an upload leaves free for the database. (`min_free` is what stops leasing; what runs may use that.)
const RESERVE_BYTES: u64 = 64 << 20;

/// Manifests that are remembered.
const MANIFESTS_KEPT: usize = 1024;
/// An upload that broke off has so long to write what has come, before somebody who asks is told how far it got.
const SETTLE_MAX: Duration = Duration::from_millis(250);
/// Uploads that broke off and whose hash is kept.
const PARKED_MAX: usize = 256;

/// Bytes and hash of uploads that broke off, by digest: whoever goes on need not read what is there.
type Parked = Arc<Mutex<HashMap<String, (u64, Sha256)>>>;

/// The store of blobs.
#[derive(Clone)]
pub(crate) struct Blobs {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    uploads: PathBuf,
    store: Store,
    /// One writer at a time for each digest.
    writing: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    parked: Parked,
    /// Sizes of unfinished uploads, and since when they have them.
    idle: Arc<Mutex<HashMap<OsString, (u64, Instant)>>>,
    /// When a digest was last asked for or finished: a sweep spares what somebody is about to refer to.
    touched: Arc<Mutex<HashMap<String, Instant>>>,
    started: Instant,
    /// Manifests that were read lately: what a digest names does not change.
    manifests: Arc<Mutex<HashMap<String, Arc<Manifest>>>>,
    /// Held for reading while a blob gets its place and its row, for writing while the sweep takes them away.
    sweeping: Arc<RwLock<()>>,
    /// Whoever holds it copies blobs: no sweep meanwhile.
    copying: Arc<tokio::sync::Mutex<()>>,
}

/// What is here of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Here {
    Complete { size: u64 },
    Partly { received: u64 },
}

/// An upload under way.
pub(crate) struct Upload {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) received: u64,
    disk: Arc<dyn Disk>,
    file: File,
    hasher: Sha256,
    part: PathBuf,
    /// Where its hash goes if it breaks off.
    parked: Option<Parked>,
    _only: OwnedMutexGuard<()>,
}

impl Blobs {
    pub(crate) fn open(data_dir: &Path, store: Store, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let (root, uploads) = (data_dir.join("blobs"), data_dir.join("uploads"));
        // All folders now: one that another upload has made and not yet synced would be no place to rely on.
        let heads = (0..=u8::MAX).map(|head| root.join(hex::encode([head])));
        for folder in [uploads.clone(), root.clone()].into_iter().chain(heads) {
            if !folder.is_dir() {
                disk.create_dir(&folder)?;
            }
        }
        // A start that was killed may have left them without.
        disk.sync_dir(&root)?;
        disk.sync_dir(data_dir)?;
        Ok(Self {
            disk,
            root,
            uploads,
            store,
            writing: Arc::default(),
            parked: Arc::default(),
            idle: Arc::default(),
            touched: Arc::default(),
            started: Instant::now(),
            manifests: Arc::default(),
            sweeping: Arc::default(),
            copying: Arc::default(),
        })
    }

    /// The place of a blob; a digest that is none has no place.
    pub(crate) fn place(&self, digest: &str) -> Result<PathBuf, StoreError> {
        place_in(&self.root, digest)
    }

    fn touch(&self, digest: &str) {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.to_owned(), Instant::now());
    }

    /// What is here of a blob. Whoever asks is about to use it, so the sweep spares it for a while.
    pub(crate) async fn stat(&self, digest: &str) -> Result<Here, StoreError> {
        let hex = hex(digest)?;
        self.touch(digest);
        let _held = self.sweeping.read().await;
        let mut conn = self.store.readers.acquire().await?;
        let size = rows::size(&mut conn, digest).await?;
        drop(conn);
        if let Some(size) = size {
            let there = tokio::fs::metadata(self.place(digest)?).await;
            if there.is_ok_and(|m| m.len() == size) {
                return Ok(Here::Complete { size });
            }
            drop(self.damaged(digest).await);
        }
        let part = tokio::fs::metadata(self.uploads.join(hex)).await;
        Ok(Here::Partly { received: part.map_or(0, |m| m.len()) })
    }

    /// Waits for an upload that has just broken off: it still writes what has come.
    pub(crate) async fn settled(&self, digest: &str) {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
        if let Some(lock) = writing {
            // One that goes on is not waited for.
            drop(tokio::time::timeout(SETTLE_MAX, lock.lock()).await);
        }
    }

    /// Begins or goes on with an upload. Waits while another one of the same digest is under way.
    pub(crate) async fn begin(&self, digest: &str, size: u64, offset: u64) -> Result<Upload, StoreError> {
        let part = self.uploads.join(hex(digest)?);
        let lock = {
            let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            writing.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(writing.entry(digest.to_owned()).or_default())
        };
        let only = lock.lock_owned().await;
        let (digest, disk) = (digest.to_owned(), Arc::clone(&self.disk));
        let parked = Arc::clone(&self.parked);
        let known = parked.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        blocking(move || {
            let mut file = disk.open(&part)?;
            let there = file.metadata()?.len();
            if offset > there || offset > size {
                let text = format!("the upload of {digest} goes on at byte {there}, not at {offset}");
                return Err(Refusal::new(reason::OFFSET_DIFFERS, text).into());
            }
            let (rest, free) = (size - offset, free_bytes(&part)?.saturating_sub(RESERVE_BYTES));
            if rest > free {
                let text = format!("{digest} needs {rest} bytes more, and the coordinator's disk has {free}");
                return Err(Refusal::new(reason::DISK_FULL, text).into());
            }
            disk.set_len(&file, offset)?;
            let hasher = match known {
                Some((at, hasher)) if at == offset => hasher,
                _ => hash(&mut file, offset)?,
            };
            file.seek(SeekFrom::Start(offset))?;
            let parked = Some(parked);
            Ok(Upload { digest, size, received: offset, disk, file, hasher, part, parked, _only: only })
        })
        .await
    }

    /// Puts a whole upload into its place, if its bytes are those that its digest names.
    pub(crate) async fn finish(&self, upload: Upload) -> Result<u64, StoreError> {
        let place = self.place(&upload.digest)?;
        let (digest, size) = (upload.digest.clone(), upload.size);
        let _held = self.sweeping.read().await;
        // Its lock is held until the row is there.
        let done = blocking(move || {
            let mut upload = upload;
            upload.parked = None;
            let found = format!("sha256:{}", hex::encode(upload.hasher.clone().finalize()));
            let disk = &*upload.disk;
            if found != upload.digest {
                disk.remove(&upload.part)?;
                let text = format!("the bytes sent as {} hash to {found}", upload.digest);
                return Err(Refusal::new(reason::DIGEST_MISMATCH, text).into());
            }
            let settled = synced(disk.sync(&upload.file)).and_then(|()| settle(disk, &upload.part, &place));
            if let Err(error) = settled {
                // Nobody knows which of its bytes are on disk: a retry must not find them acknowledged.
                drop(disk.remove(&upload.part));
                return Err(error);
            }
            Ok(upload)
        });
        let _upload = match done.await {
            Err(StoreError::Failed(why)) => {
                // Like the database's own: the process ends, and the next start judges what is on disk.
                let fatal = StoreError::Failed(why);
                let told = fatal.share();
                drop(self.store.writer.write(|_| Box::pin(async move { Err::<(), _>(told) })).await);
                return Err(fatal);
            }
            done => done?,
        };
        self.touch(&digest);
        let name = digest.clone();
        self.store.writer.write(move |tx| Box::pin(async move { rows::add(tx, &name, size).await })).await?;
        Ok(size)
    }

    /// Stores bytes of our own, unless they are here. Gives their digest.
    pub(crate) async fn put(&self, bytes: Vec<u8>) -> Result<String, StoreError> {
        let name = digest::of_bytes(&bytes);
        if matches!(self.stat(&name).await?, Here::Complete { .. }) {
            return Ok(name);
        }
        let mut upload = self.begin(&name, bytes.len() as u64, 0).await?;
        upload = upload.push(bytes).await?;
        self.finish(upload).await?;
        Ok(name)
    }

    /// Opens a blob for reading from `offset` on.
    pub(crate) async fn read(&self, digest: &str, offset: u64) -> Result<File, StoreError> {
        let place = self.place(digest)?;
        self.touch(digest);
        let mut conn = self.store.readers.acquire().await?;
        let known = rows::state(&mut conn, digest).await?;
        drop(conn);
        let size = match known {
            None => return Err(crate::store::error::not_found(format!("there is no blob {digest}"))),
            Some((_, true)) => return Err(damage(digest)),
            Some((size, false)) => size,
        };
        let opened = blocking(move || {
            let mut file = match File::open(place) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if file.metadata()?.len() != size {
                return Ok(None);
            }
            file.seek(SeekFrom::Start(offset))?;
            Ok(Some(file))
        });
        match opened.await? {
            Some(file) => Ok(file),
            None => Err(self.damaged(digest).await),
        }
    }

    /// Notes that a blob's file is missing or has other bytes, so that an upload can heal it. Gives the refusal.
    pub(crate) async fn damaged(&self, digest: &str) -> StoreError {
        tracing::error!(digest, "the stored file of a blob is missing or damaged");
        let name = digest.to_owned();
        let noted =
            self.store.writer.write(move |tx| Box::pin(async move { rows::damaged(tx, &name).await }));
        match noted.await {
            Ok(()) => damage(digest),
            Err(error) => error,
        }
    }

    /// The manifest of this digest, for somebody who is about to refer to it: the sweep spares it and its files.
    pub(crate) async fn manifest_to_keep(&self, digest: &str) -> Result<Arc<Manifest>, StoreError> {
        let known = self.manifests().get(digest).cloned();
        if let Some(manifest) = known {
            self.touch(digest);
            manifest.files.iter().for_each(|file| self.touch(&file.digest));
            return Ok(manifest);
        }
        let manifest = Arc::new(self.manifest(digest).await?);
        for file in &manifest.files {
            self.stat(&file.digest).await?;
        }
        let mut manifests = self.manifests();
        if manifests.len() >= MANIFESTS_KEPT {
            manifests.clear();
        }
        manifests.insert(digest.to_owned(), Arc::clone(&manifest));
        Ok(manifest)
    }

    fn manifests(&self) -> MutexGuard<'_, HashMap<String, Arc<Manifest>>> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the manifest of this digest.
    async fn manifest(&self, digest: &str) -> Result<Manifest, StoreError> {
        let refuse = |text: String| StoreError::from(Refusal::new(reason::BAD_MANIFEST, text));
        match self.stat(digest).await? {
            Here::Complete { size } if size <= MANIFEST_BYTES_MAX => {}
            Here::Complete { size } => {
                return Err(refuse(format!("{digest} has {size} bytes: that is no manifest")));
            }
            Here::Partly { .. } => {
                let text = format!("the manifest {digest} is not here: upload it first");
                return Err(Refusal::new(reason::MISSING_BLOB, text).into());
            }
        }
        let mut file = self.read(digest, 0).await?;
        let bytes = blocking(move || {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .await?;
        if digest::of_bytes(&bytes) != digest {
            return Err(self.damaged(digest).await);
        }
        Manifest::parse(&bytes).map_err(|e| refuse(format!("{digest}: {e}")))
    }
}

impl Upload {
    /// Appends bytes.
    pub(crate) async fn push(mut self, bytes: Vec<u8>) -> Result<Self, StoreError> {
        let total = self.received.saturating_add(bytes.len() as u64);
        if total > self.size {
            let text = format!("{} was announced with {} bytes, and has more", self.digest, self.size);
            return Err(Refusal::new(reason::BAD_REQUEST, text).into());
        }
        blocking(move || {
            self.disk.write(&mut self.file, &bytes)?;
            self.hasher.update(&bytes);
            self.received = total;
            Ok(self)
        })
        .await
    }
}

/// The place of a blob under a folder of blobs.
pub(crate) fn place_in(root: &Path, digest: &str) -> Result<PathBuf, StoreError> {
    let (head, tail) = hex(digest)?.split_at(2);
    Ok(root.join(head).join(tail))
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(parked) = self.parked.take() else { return };
        let mut parked = parked.lock().unwrap_or_else(PoisonError::into_inner);
        if parked.len() >= PARKED_MAX {
            parked.clear();
        }
        parked.insert(std::mem::take(&mut self.digest), (self.received, self.hasher.clone()));
    }
}

fn hex(digest: &str) -> Result<&str, StoreError> {
    digest::hex_part(digest).ok_or_else(|| {
        Refusal::new(reason::BAD_REQUEST, format!("{digest:?} is no digest (sha256:<64 hex digits>)")).into()
    })
}

/// Hashes the first `bytes` of a file.
fn hash(file: &mut File, bytes: u64) -> io::Result<Sha256> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut reader = file.take(bytes);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Ok(hasher);
        }
        hasher.update(buffer.get(..n).unwrap_or_default());
    }
}

/// Renames a file whose bytes are on disk into its place, and has the folder remember it.
fn settle(disk: &dyn Disk, part: &Path, place: &Path) -> Result<(), StoreError> {
    disk.rename(part, place)?;
    synced(disk.sync_dir(place.parent().unwrap_or(place)))
}

/// A failed fsync, unless for want of space, leaves it unknown what is on disk.
fn synced(result: io::Result<()>) -> Result<(), StoreError> {
    result.map_err(|error| match StoreError::from(error) {
        StoreError::File(error) => StoreError::Failed(format!("fsync of a blob: {error}")),
        other => other,
    })
}

/// The refusal of a blob whose file is missing or has other bytes.
fn damage(digest: &str) -> StoreError {
    let text = format!("the stored file of {digest} is missing or damaged: upload it again");
    Refusal::new(reason::DIGEST_MISMATCH, text).into()
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(f).await.map_err(|_| StoreError::Closed)?
}

#[cfg(test)]
mod tests;
