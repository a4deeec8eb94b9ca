//! Restores: everything is checked first, then copied into an empty data folder, and a new life of the store begun.
//!
//! While it lasts, the folder `restoring` is in the data folder, and no coordinator starts there; a restore that was
//! cut short is begun again from the start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::folder::{DATABASE, sync_tree};
use super::{BackupError, BackupManifest};
use crate::blobs::place_in;
use crate::data_dir::{DataDir, RESTORING, free_bytes};
use crate::disk::{Disk as _, RealDisk};
use crate::live::Live;
use crate::store::{self, backup as rows};

/// What a restore came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub data_dir: PathBuf,
    pub bytes: u64,
    pub blobs: usize,
    /// Trials that ran when the backup was taken, and are queued again.
    pub requeued: usize,
    /// When the backup was taken (wall clock, for people).
    pub created_at_ms: i64,
    /// Blobs on record that the backup does not have, since their files were damaged then.
    pub damaged: Vec<String>,
}

/// Checks a backup and makes a data folder of it.
///
/// # Errors
/// [`BackupError::Damaged`] where the backup is not whole; a usage error where the folder is used. The folder is as it
/// was then, or (after a fault of the disk) marked as unfinished.
pub async fn restore(backup: &Path, data_dir: &Path) -> Result<Restored, BackupError> {
    let manifest = BackupManifest::read(backup)?;
    check_files(backup, &manifest)?;
    check_database(backup, &manifest).await?;
    let held = DataDir::open_for_restore(data_dir, &RealDisk)?;
    clear(&held.path)?;
    let bytes = manifest.database.size + manifest.blobs.iter().map(|b| b.size).sum::<u64>();
    let free = free_bytes(&held.path).map_err(|e| BackupError::io(&held.path, e))?;
    if free < bytes {
        return Err(BackupError::Full(held.path.clone()));
    }
    let building = held.path.join(RESTORING);
    copy_files(backup, &manifest, &building)?;
    let requeued = begin_life(&building.join(DATABASE)).await?;
    install(&held.path, &building)?;
    Ok(Restored {
        data_dir: held.path.clone(),
        bytes,
        blobs: manifest.blobs.len(),
        requeued,
        created_at_ms: manifest.created_at_ms,
        damaged: manifest.damaged,
    })
}

/// Every file is there, with the bytes that its digest names.
fn check_files(backup: &Path, manifest: &BackupManifest) -> Result<(), BackupError> {
    let blobs = backup.join("blobs");
    let mut files = vec![(backup.join(DATABASE), &manifest.database)];
    for entry in &manifest.blobs {
        files.push((place_in(&blobs, &entry.digest)?, entry));
    }
    for (path, entry) in files {
        let found = match kapell_rpc::digest::of_file(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BackupError::Damaged(format!("the backup lacks {}", path.display())));
            }
            Err(error) => return Err(BackupError::io(&path, error)),
        };
        if found != (entry.digest.clone(), entry.size) {
            let text = format!(
                "{} has {} bytes that hash to {}; the backup was taken with {} bytes of {}",
                path.display(),
                found.1,
                found.0,
                entry.size,
                entry.digest
            );
            return Err(BackupError::Damaged(text));
        }
    }
    Ok(())
}

/// The database is sound, of a schema that this program knows, and refers to nothing that is not here.
async fn check_database(backup: &Path, manifest: &BackupManifest) -> Result<(), BackupError> {
    let mut conn = rows::open_copy(&backup.join(DATABASE)).await?;
    if let Some(line) = rows::unsound(&mut conn).await?.into_iter().next() {
        return Err(BackupError::Damaged(format!("the backup's database: {line}")));
    }
    let contents = rows::contents(&mut conn).await?;
    let known = store::open::known_schema();
    if contents.schema > known {
        let text =
            format!("the backup has schema {}, and this program knows {known} at most", contents.schema);
        return Err(BackupError::usage(text, "use the newer program"));
    }
    let here: BTreeMap<&str, u64> = manifest.blobs.iter().map(|b| (b.digest.as_str(), b.size)).collect();
    for (digest, size) in &contents.blobs {
        if here.get(digest.as_str()) != Some(size) {
            return Err(BackupError::Damaged(format!(
                "the backup lacks the blob {digest}, which it refers to"
            )));
        }
    }
    Ok(())
}

/// Refuses a folder that is used; removes what an earlier restore left half done.
fn clear(data_dir: &Path) -> Result<(), BackupError> {
    let failed = |e| BackupError::io(data_dir, e);
    let building = data_dir.join(RESTORING);
    let unfinished = building.exists();
    for entry in std::fs::read_dir(data_dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let fine =
            matches!(&*name, "kapell.lock" | "lost+found" | RESTORING) || unfinished && name == "blobs";
        if !fine {
            let text = format!("the data folder {} is not empty: it has {name}", data_dir.display());
            return Err(BackupError::usage(
                text,
                "name a folder that is empty or not there yet with --data-dir",
            ));
        }
    }
    if unfinished {
        for left in [data_dir.join("blobs"), building] {
            match std::fs::remove_dir_all(&left) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(BackupError::io(&left, e)),
                _ => {}
            }
        }
    }
    Ok(())
}

fn copy_files(backup: &Path, manifest: &BackupManifest, to: &Path) -> Result<(), BackupError> {
    std::fs::create_dir(to).map_err(|e| BackupError::io(to, e))?;
    if let Some(parent) = to.parent() {
        // From here on no coordinator starts on this folder.
        RealDisk.sync_dir(parent).map_err(|e| BackupError::io(parent, e))?;
    }
    let (from_blobs, to_blobs) = (backup.join("blobs"), to.join("blobs"));
    std::fs::create_dir(&to_blobs).map_err(|e| BackupError::io(&to_blobs, e))?;
    copy(&backup.join(DATABASE), &to.join(DATABASE), &manifest.database.digest)?;
    for entry in &manifest.blobs {
        let place = place_in(&to_blobs, &entry.digest)?;
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).map_err(|e| BackupError::io(folder, e))?;
        }
        copy(&place_in(&from_blobs, &entry.digest)?, &place, &entry.digest)?;
    }
    sync_tree(to)
}

/// Copies a file, flushes it, and looks once more at what is there now.
fn copy(from: &Path, to: &Path, digest: &str) -> Result<(), BackupError> {
    std::fs::copy(from, to).map_err(|e| BackupError::io(to, e))?;
    let file = std::fs::File::options().write(true).open(to).map_err(|e| BackupError::io(to, e))?;
    file.sync_all().map_err(|e| BackupError::io(to, e))?;
    let (found, _) = kapell_rpc::digest::of_file(to).map_err(|e| BackupError::io(to, e))?;
    if found != digest {
        return Err(BackupError::Damaged(format!("the copy of {digest} hashes to {found}")));
    }
    Ok(())
}

/// Brings the schema up to date and begins another life. Gives the trials that are queued again.
async fn begin_life(database: &Path) -> Result<usize, BackupError> {
    let live = Arc::new(Live::new(Duration::from_secs(30)));
    let (store, writer, _failed) = store::open(database, live).await?;
    let life = another_life(store.life);
    let requeued = store.writer.write(move |tx| Box::pin(rows::begin_life(tx, life))).await?;
    store.readers.close().await;
    drop(store);
    writer.await.map_err(|e| BackupError::Unexpected(e.to_string()))?;
    rows::settle(database).await?;
    let failed = |e| BackupError::io(database, e);
    std::fs::File::options().write(true).open(database).and_then(|f| f.sync_all()).map_err(failed)?;
    Ok(requeued)
}

/// By lot, so that two restores of one backup are two lives.
fn another_life(before: u32) -> u32 {
    loop {
        let bytes = uuid::Uuid::new_v4().into_bytes();
        let life = u32::from_be_bytes([bytes[0] & 0x7F, bytes[1], bytes[2], bytes[3]]);
        if life != 0 && life != before {
            return life;
        }
    }
}

/// Moves everything into its place, the database last.
fn install(data_dir: &Path, building: &Path) -> Result<(), BackupError> {
    let failed = |e| BackupError::io(data_dir, e);
    std::fs::rename(building.join("blobs"), data_dir.join("blobs")).map_err(failed)?;
    RealDisk.sync_dir(data_dir).map_err(failed)?;
    std::fs::rename(building.join(DATABASE), data_dir.join(DATABASE)).map_err(failed)?;
    RealDisk.sync_dir(data_dir).map_err(failed)?;
    std::fs::remove_dir_all(building).map_err(failed)?;
    RealDisk.sync_dir(data_dir).map_err(failed)
}
