//! Blobs by digest: uploads and downloads that go on where they were cut, and directories of checkpoints.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Backoff, CALL_DEADLINE, timed_out};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestFile};
use crate::{Client, ClientError, Kind, digest, reason, v1};

/// Bytes of one chunk; the wire format allows 1 MiB.
const CHUNK_BYTES: usize = 512 * 1024;
/// Chunks that wait in memory to be sent.
const CHUNKS_WAITING: usize = 2;
/// A transfer slower than this counts as stuck.
const BYTES_PER_S_MIN: u64 = 128 * 1024;

/// What was uploaded: the digest that names it and the bytes it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    pub digest: String,
    pub bytes: u64,
}

impl Client {
    /// Uploads a file, unless it is there already. A cut upload goes on where it was cut.
    ///
    /// # Errors
    /// As [`ClientError::local`] if the file cannot be read, [`Kind::Integrity`] if it did not arrive as it was,
    /// else what the coordinator answered.
    pub async fn upload_file(&self, path: &Path) -> Result<Uploaded, ClientError> {
        let owned = path.to_owned();
        let hashed = blocking(move || digest::of_file(&owned)).await?;
        let (digest, bytes) = hashed.map_err(|error| ClientError::local("read", path, &error))?;
        self.upload(&digest, bytes, &Source::File(path.to_owned())).await?;
        Ok(Uploaded { digest, bytes })
    }

    /// Uploads bytes, unless they are there already.
    ///
    /// # Errors
    /// As [`Client::upload_file`].
    pub async fn upload_bytes(
        &self,
        bytes: impl Into<std::sync::Arc<[u8]>>,
    ) -> Result<Uploaded, ClientError> {
        let bytes = bytes.into();
        let uploaded = Uploaded { digest: digest::of_bytes(&bytes), bytes: bytes.len() as u64 };
        self.upload(&uploaded.digest, uploaded.bytes, &Source::Bytes(bytes)).await?;
        Ok(uploaded)
    }

    /// Uploads the named files of a directory and the manifest of them, which names the checkpoint.
    ///
    /// # Errors
    /// As [`Client::upload_file`].
    pub async fn upload_directory(&self, dir: &Path, names: &[&str]) -> Result<Uploaded, ClientError> {
        let mut files = Vec::new();
        for name in names {
            let file = self.upload_file(&dir.join(name)).await?;
            files.push(ManifestFile { name: (*name).to_owned(), size: file.bytes, digest: file.digest });
        }
        let manifest = Manifest::new(files);
        let named = self.upload_bytes(manifest.to_bytes()).await?;
        Ok(Uploaded { digest: named.digest, bytes: manifest.total_bytes() })
    }

    /// Downloads a blob into a file, whose folder exists. The file appears only when it is whole and hashes to the digest;
    /// what a cut download left beside it is gone on from.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if other bytes came, as [`ClientError::local`] if they cannot be written, else what
    /// the coordinator answered.
    pub async fn download_file(&self, digest: &str, to: &Path) -> Result<u64, ClientError> {
        check_digest(digest)?;
        let open = to.to_owned();
        let mut part = blocking(move || Part::open(&open)).await??;
        let mut progress = Progress::new();
        loop {
            progress.reached(part.length);
            let error = match self.download_rest(digest, &mut part).await {
                Ok(()) => match part.finish(digest, to)? {
                    true => return Ok(part.length),
                    // Bytes left over from an earlier download may be what was wrong.
                    false if part.resumed => {
                        part.restart()?;
                        continue;
                    }
                    false => {
                        part.restart()?;
                        let message = format!("the bytes that came for {digest} do not hash to it");
                        return Err(ClientError::new(Kind::Integrity, message));
                    }
                },
                Err(error) => error,
            };
            progress.reached(part.length);
            let delay = progress.backoff.delay();
            if !error.is_temporary() || progress.since.elapsed() + delay > self.patience() {
                return Err(error);
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// Downloads a blob of at most `bytes_max` bytes into memory.
    ///
    /// # Errors
    /// As [`Client::download_file`]; [`Kind::Integrity`] also if the blob is longer.
    pub async fn download_bytes(&self, digest: &str, bytes_max: u64) -> Result<Vec<u8>, ClientError> {
        check_digest(digest)?;
        let start = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            let mut bytes = Vec::new();
            let read = self.chunks(digest, 0, Some(bytes_max), |chunk| {
                bytes.extend_from_slice(chunk);
                Ok(())
            });
            match read.await {
                Ok(()) if digest::of_bytes(&bytes) == digest => return Ok(bytes),
                Ok(()) => {
                    let message = format!("the bytes that came for {digest} do not hash to it");
                    return Err(ClientError::new(Kind::Integrity, message));
                }
                Err(error) => {
                    let delay = backoff.delay();
                    if !error.is_temporary() || start.elapsed() + delay > self.patience() {
                        return Err(error);
                    }
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Downloads a manifest.
    ///
    /// # Errors
    /// As [`Client::download_file`]; [`Kind::Integrity`] also if the blob is no manifest.
    pub async fn download_manifest(&self, digest: &str) -> Result<Manifest, ClientError> {
        let bytes = self.download_bytes(digest, MANIFEST_BYTES_MAX).await?;
        Manifest::parse(&bytes)
            .map_err(|error| ClientError::new(Kind::Integrity, format!("{digest}: {error}")))
    }

    /// Downloads the checkpoint or model of this manifest into a directory, which is made. Files that are there
    /// already as they should be stay; `config.json` and the like are the only names that are ever written.
    ///
    /// # Errors
    /// As [`Client::download_manifest`].
    pub async fn download_directory(&self, digest: &str, dir: &Path) -> Result<Manifest, ClientError> {
        let manifest = self.download_manifest(digest).await?;
        std::fs::create_dir_all(dir).map_err(|error| ClientError::local("make", dir, &error))?;
        for file in &manifest.files {
            let path = dir.join(&file.name);
            let owned = path.clone();
            let there = blocking(move || digest::of_file(&owned)).await?;
            if there.is_ok_and(|(digest, _)| digest == file.digest) {
                continue;
            }
            self.download_file(&file.digest, &path).await?;
        }
        Ok(manifest)
    }

    async fn upload(&self, digest: &str, size: u64, source: &Source) -> Result<(), ClientError> {
        let mut progress = Progress::new();
        loop {
            let result = self.upload_rest(digest, size, source, &mut progress).await;
            let error = match result {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let delay = progress.backoff.delay();
            // Another client may upload the same blob at the same time: then it will soon be there.
            let raced = error.has_reason(reason::OFFSET_DIFFERS);
            if !(error.is_temporary() || raced) || progress.since.elapsed() + delay > self.patience() {
                return Err(error);
            }
            tracing::debug!(digest, %error, ?delay, "uploading again");
            tokio::time::sleep(delay).await;
        }
    }

    /// Sends what is not there yet.
    async fn upload_rest(
        &self,
        digest: &str,
        size: u64,
        source: &Source,
        progress: &mut Progress,
    ) -> Result<(), ClientError> {
        let mut offset = match self.blob_status(digest).await? {
            status if status.complete => return Ok(()),
            status => status.received,
        };
        progress.reached(offset);
        if offset > size {
            offset = 0;
        }
        match self.send(digest, size, source, offset).await {
            Ok(response) if response.complete => Ok(()),
            Ok(response) => Err(ClientError::new(
                Kind::Temporary,
                format!("{digest}: the coordinator has {} of {size} bytes", response.received),
            )),
            // The first part may come from a client that had other bytes.
            Err(error) if error.kind == Kind::Integrity && offset > 0 => {
                self.send(digest, size, source, 0).await.map(|_| ())
            }
            Err(error) => Err(error),
        }
    }

    async fn blob_status(&self, digest: &str) -> Result<v1::BlobStatus, ClientError> {
        let response = self.stat(v1::StatRequest { digests: vec![digest.to_owned()] }).await?;
        let first = response.blobs.into_iter().next();
        first.filter(|status| status.digest == digest).ok_or_else(|| {
            ClientError::new(Kind::Unexpected, "the coordinator answered about other blobs than asked for")
        })
    }

    async fn send(
        &self,
        digest: &str,
        size: u64,
        source: &Source,
        offset: u64,
    ) -> Result<v1::UploadResponse, ClientError> {
        let (sender, chunks) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
        let head = v1::UploadChunk { digest: digest.to_owned(), size, offset, data: Vec::new() };
        let source = source.clone();
        let reader = tokio::task::spawn_blocking(move || source.read(head, &sender));
        let deadline = transfer_deadline(size.saturating_sub(offset));
        let mut service = self.blobs();
        let sent = tokio::time::timeout(deadline, service.upload(ReceiverStream::new(chunks))).await;
        let answer = self.answer(sent.unwrap_or_else(|_| Err(timed_out(deadline))));
        match reader.await {
            Ok(Err(error)) => Err(error),
            _ => answer,
        }
    }

    async fn download_rest(&self, digest: &str, part: &mut Part) -> Result<(), ClientError> {
        self.chunks(digest, part.length, None, |chunk| part.append(chunk)).await
    }

    /// Hands every chunk of a blob, from `offset` on, to `take`. The patience for a chunk is the usual deadline.
    async fn chunks(
        &self,
        digest: &str,
        offset: u64,
        bytes_max: Option<u64>,
        mut take: impl FnMut(&[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut service = self.blobs();
        let request = v1::DownloadRequest { digest: digest.to_owned(), offset };
        let opened = tokio::time::timeout(CALL_DEADLINE, service.download(request)).await;
        let mut stream = self.answer(opened.unwrap_or_else(|_| Err(timed_out(CALL_DEADLINE))))?;
        let mut received = 0_u64;
        loop {
            let next = tokio::time::timeout(CALL_DEADLINE, stream.message()).await;
            let next = next.unwrap_or_else(|_| Err(timed_out(CALL_DEADLINE)));
            let Some(chunk) = next.map_err(|status| ClientError::from_status(self.url(), &status))? else {
                return Ok(());
            };
            received = received.saturating_add(chunk.data.len() as u64);
            if bytes_max.is_some_and(|max| received > max) {
                return Err(ClientError::new(Kind::Integrity, format!("{digest} is longer than it may be")));
            }
            take(&chunk.data)?;
        }
    }
}

/// How far a transfer has got. Where it gets further, patience and pauses begin anew: a transfer that is cut a
/// thousand times on its way is no coordinator that is away.
struct Progress {
    furthest: u64,
    since: Instant,
    backoff: Backoff,
}

impl Progress {
    fn new() -> Self {
        Self { furthest: 0, since: Instant::now(), backoff: Backoff::default() }
    }

    fn reached(&mut self, bytes: u64) {
        if bytes > self.furthest {
            *self = Self { furthest: bytes, ..Self::new() };
        }
    }
}

/// Where an upload's bytes come from.
#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Bytes(std::sync::Arc<[u8]>),
}

impl Source {
    /// Sends everything from the head's offset on; stops when nobody listens any more.
    fn read(
        &self,
        head: v1::UploadChunk,
        to: &tokio::sync::mpsc::Sender<v1::UploadChunk>,
    ) -> Result<(), ClientError> {
        match self {
            Self::File(path) => send_file(path, head, to).map_err(|e| ClientError::local("read", path, &e)),
            Self::Bytes(bytes) => {
                let start = usize::try_from(head.offset).unwrap_or(usize::MAX);
                let rest = bytes.get(start..).unwrap_or_default();
                let mut next = head;
                for chunk in rest.chunks(CHUNK_BYTES) {
                    next.data = chunk.to_vec();
                    if to.blocking_send(std::mem::take(&mut next)).is_err() {
                        return Ok(());
                    }
                }
                if !next.digest.is_empty() {
                    let _ = to.blocking_send(next);
                }
                Ok(())
            }
        }
    }
}

fn send_file(
    path: &Path,
    head: v1::UploadChunk,
    to: &tokio::sync::mpsc::Sender<v1::UploadChunk>,
) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(head.offset))?;
    let mut next = head;
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        Read::by_ref(&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut data)?;
        let first = !next.digest.is_empty();
        if data.is_empty() && !first {
            return Ok(());
        }
        next.data = data;
        if to.blocking_send(std::mem::take(&mut next)).is_err() {
            return Ok(());
        }
    }
}

/// A download on its way: `NAME.part`, locked against other downloads of it, and the hash of what is there.
struct Part {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    length: u64,
    resumed: bool,
}

impl Part {
    fn open(to: &Path) -> Result<Self, ClientError> {
        let mut path = with_suffix(to, ".part");
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| ClientError::local("write", path, &error))
        };
        let mut file = open(&path)?;
        if file.try_lock().is_err() || !is_at(&file, &path) {
            // Somebody else downloads the same: then both do, and whoever is last renames the same bytes again.
            let unique = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
            path = with_suffix(to, &format!(".{unique:016x}.part"));
            file = open(&path)?;
        }
        let read = digest::hash_file(&path);
        let (hasher, length) = read.map_err(|error| ClientError::local("read", &path, &error))?;
        Ok(Self { file, path, hasher, length, resumed: length > 0 })
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), ClientError> {
        self.file.write_all(chunk).map_err(|e| ClientError::local("write", &self.path, &e))?;
        self.hasher.update(chunk);
        self.length += chunk.len() as u64;
        Ok(())
    }

    /// Gives the file its name if its bytes hash to the digest; else leaves it and says false.
    fn finish(&mut self, digest: &str, to: &Path) -> Result<bool, ClientError> {
        if digest::render(&self.hasher.clone().finalize()) != digest {
            return Ok(false);
        }
        self.file.sync_all().map_err(|e| ClientError::local("write", &self.path, &e))?;
        std::fs::rename(&self.path, to).map_err(|e| ClientError::local("write", to, &e))?;
        Ok(true)
    }

    fn restart(&mut self) -> Result<(), ClientError> {
        self.file.set_len(0).map_err(|e| ClientError::local("write", &self.path, &e))?;
        (self.hasher, self.length, self.resumed) = (Sha256::new(), 0, false);
        Ok(())
    }
}

/// Whether this is still the file of that name: whoever held the lock before may have renamed it.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().and_then(|a| Ok(same(a, path.metadata()?))).unwrap_or(false)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn check_digest(digest: &str) -> Result<(), ClientError> {
    match digest::hex_part(digest) {
        Some(_) => Ok(()),
        None => {
            Err(ClientError::new(Kind::Usage, format!("{digest:?} is no digest (sha256:<64 hex digits>)")))
        }
    }
}

fn transfer_deadline(bytes: u64) -> Duration {
    CALL_DEADLINE + Duration::from_secs(bytes / BYTES_PER_S_MIN)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ClientError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| ClientError::new(Kind::Unexpected, format!("a file task ended early: {error}")))
}
