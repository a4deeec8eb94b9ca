//! What goes: blobs that nothing refers to, uploads that nobody goes on with, and what a crash has left.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kapell_rpc::digest;
use tokio::sync::OwnedMutexGuard;

use super::{Blobs, blocking};
use crate::disk::Disk;
use crate::store::{StoreError, blobs as rows};

/// What nobody has gone on with for so long is given up.
const IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

impl Blobs {
    /// Has no blob swept until the guard is dropped; none, if somebody else has that already.
    pub(crate) async fn keep_all(&self) -> Option<OwnedMutexGuard<()>> {
        // A sweep that is under way ends first.
        let _held = self.sweeping.read().await;
        Arc::clone(&self.copying).try_lock_owned().ok()
    }

    /// Removes what a crash has left: files of blobs without a row, and old uploads. It goes on while others are
    /// served. Gives the number of files.
    pub(crate) async fn clean(&self) -> Result<u64, StoreError> {
        let mut removed = 0;
        for head in (0..=u8::MAX).map(|head| hex::encode([head])) {
            let folder = self.root.join(&head);
            let there = blocking(move || names(&folder)).await?;
            if !self.without_row(&head, there.clone()).await?.is_empty() {
                // A blob has its place before its row: nobody is in between while this is held.
                let _held = self.sweeping.write().await;
                for name in self.without_row(&head, there).await? {
                    let (disk, file) = (Arc::clone(&self.disk), self.root.join(&head).join(name));
                    blocking(move || Ok(disk.remove(&file)?)).await?;
                    removed += 1;
                }
            }
        }
        let (disk, uploads) = (Arc::clone(&self.disk), self.uploads.clone());
        // Nobody knows for how long they have been left: their own times must do.
        let is_old = |file: &std::fs::DirEntry| {
            Ok(file.metadata()?.modified()?.elapsed().unwrap_or_default() > IDLE_MAX)
        };
        blocking(move || Ok(sweep_uploads(&*disk, &uploads, is_old)?)).await?;
        Ok(removed)
    }

    /// Those files of a folder that are named like blobs and have no row.
    async fn without_row(&self, head: &str, mut names: Vec<String>) -> Result<Vec<String>, StoreError> {
        let known = rows::digests(&mut *self.store.readers.acquire().await?, head).await?;
        let known: HashSet<&str> = known.iter().filter_map(|d| digest::hex_part(d)?.get(2..)).collect();
        // What is not named like a blob is none of ours.
        let ours = |name: &str| digest::hex_part(&format!("sha256:{head}{name}")).is_some();
        names.retain(|name| ours(name) && !known.contains(name.as_str()));
        Ok(names)
    }

    /// Removes blobs that nothing refers to and nobody has touched for `grace`. Gives the bytes that are free now.
    pub(crate) async fn sweep(&self, grace: Duration) -> Result<u64, StoreError> {
        let held = Arc::clone(&self.sweeping).write_owned().await;
        let Ok(_no_copy) = self.copying.try_lock() else { return Ok(0) };
        let now = Instant::now();
        // After a start nobody's touches are known.
        if now.duration_since(self.started) < grace {
            return Ok(0);
        }
        let recent: HashSet<String> = {
            let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
            touched.retain(|_, at| now.duration_since(*at) < grace);
            touched.keys().cloned().collect()
        };
        let gone = self
            .store
            .writer
            .write(move |tx| Box::pin(async move { rows::sweep(tx, &move |d| recent.contains(d)).await }))
            .await?;
        let places: Vec<(PathBuf, u64)> =
            gone.iter().filter_map(|(digest, size)| Some((self.place(digest).ok()?, *size))).collect();
        let (disk, uploads, idle) = (Arc::clone(&self.disk), self.uploads.clone(), Arc::clone(&self.idle));
        blocking(move || {
            let _held = held;
            let mut freed = 0;
            for (place, size) in places {
                match disk.remove(&place) {
                    Ok(()) => freed += size,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e.into()),
                }
            }
            // By the monotonic clock: what comes just now stays, whatever the wall clock says.
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::take(&mut *idle);
            sweep_uploads(&*disk, &uploads, |file| {
                let (name, size) = (file.file_name(), file.metadata()?.len());
                let since = before.get(&name).filter(|known| known.0 == size).map_or(now, |known| known.1);
                idle.insert(name, (size, since));
                Ok(now.duration_since(since) > IDLE_MAX)
            })?;
            Ok(freed)
        })
        .await
    }
}

/// The names in a folder; none, if there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    match std::fs::read_dir(folder) {
        Ok(files) => Ok(files
            .map(|file| Ok(file?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Removes unfinished uploads that are given up.
fn sweep_uploads(
    disk: &dyn Disk,
    uploads: &Path,
    mut is_given_up: impl FnMut(&std::fs::DirEntry) -> io::Result<bool>,
) -> io::Result<()> {
    for entry in std::fs::read_dir(uploads)? {
        let entry = entry?;
        if is_given_up(&entry)? {
            disk.remove(&entry.path())?;
        }
    }
    Ok(())
}
