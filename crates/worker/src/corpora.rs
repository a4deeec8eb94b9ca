//! Corpora by digest: fetched once into the cache folder, verified whenever read, shared by all trials.

use std::path::PathBuf;
use std::sync::Arc;

use kapell_music::corpus::Corpus;
use kapell_rpc::{Client, ClientError, Kind, digest};
use tokio::sync::Mutex;

/// Corpora that stay in memory, newest last: trials of one study share one.
const IN_MEMORY_MAX: usize = 4;

/// A machine's corpora.
pub struct Corpora {
    dir: PathBuf,
    client: Client,
    loaded: Mutex<Vec<(String, Arc<Corpus>)>>,
}

impl Corpora {
    /// Kept in this folder, fetched from this coordinator.
    #[must_use]
    pub fn new(dir: PathBuf, client: Client) -> Self {
        Self { dir, client, loaded: Mutex::new(Vec::new()) }
    }

    /// The corpus of this digest: from memory, from the cache folder, or from the coordinator. Trials that ask
    /// at the same time wait for one download.
    ///
    /// # Errors
    /// As a download; [`Kind::Usage`] if the blob is no corpus: it is none elsewhere, either.
    pub async fn get(&self, digest: &str) -> Result<Arc<Corpus>, ClientError> {
        let mut loaded = self.loaded.lock().await;
        if let Some((_, corpus)) = loaded.iter().find(|(name, _)| name == digest) {
            return Ok(corpus.clone());
        }
        let bytes = self.bytes(digest).await?;
        let parsed = tokio::task::spawn_blocking(move || Corpus::from_bytes(&bytes)).await;
        let parsed = parsed.map_err(|error| ClientError::new(Kind::Unexpected, error.to_string()))?;
        let corpus = parsed.map_err(|error| {
            ClientError::new(Kind::Usage, format!("the blob {digest} is no corpus: {error}"))
        })?;
        let corpus = Arc::new(corpus);
        loaded.push((digest.to_owned(), corpus.clone()));
        if loaded.len() > IN_MEMORY_MAX {
            loaded.remove(0);
        }
        Ok(corpus)
    }

    async fn bytes(&self, digest: &str) -> Result<Vec<u8>, ClientError> {
        let name = digest::hex_part(digest).ok_or_else(|| {
            ClientError::new(Kind::Usage, format!("the trial's corpus digest {digest:?} is none"))
        })?;
        let path = self.dir.join(name);
        if let Ok(bytes) = std::fs::read(&path) {
            if digest::of_bytes(&bytes) == digest {
                return Ok(bytes);
            }
            tracing::warn!(path = %path.display(), "a cached corpus is damaged: fetching it again");
        }
        std::fs::create_dir_all(&self.dir).map_err(|e| ClientError::local("make", &self.dir, &e))?;
        self.client.download_file(digest, &path).await?;
        std::fs::read(&path).map_err(|e| ClientError::local("read", &path, &e))
    }
}
