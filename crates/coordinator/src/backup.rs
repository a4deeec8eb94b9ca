//! Backups: a folder with a copy of the database, every blob that it refers to, and a list of both with digests.
//!
//! ```text
//! DIR/backup.json        what is here; a folder without it is no backup
//! DIR/kapell.db          one file, as one read transaction saw it
//! DIR/blobs/ab/cdef...   named by digest
//! ```
//! It is written beside DIR, checked byte by byte on the way, flushed to disk and then renamed: DIR is a whole backup or
//! not there. Files are copied, never linked, so nothing that happens to the original happens to the copy.

mod error;
mod folder;
mod restore;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use kapell_rpc::v1::backup_part::Part;
use kapell_rpc::{Client, ClientError, Kind};

pub use error::BackupError;
use folder::Folder;
pub use folder::{BackupManifest, Entry, Written};
pub use restore::{Restored, restore};

use crate::blobs::place_in;
use crate::data_dir::DataDir;
use crate::disk::RealDisk;
use crate::store::backup as rows;

/// Silence after which a coordinator that sends a backup counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Takes a backup from a coordinator that runs, while it goes on working.
///
/// # Errors
/// Why there is none. Nothing is left at `dir` then.
pub async fn from_coordinator(client: &Client, dir: &Path) -> Result<Written, BackupError> {
    let mut folder = Folder::create(dir)?;
    let mut parts = client.backup().await?;
    loop {
        let part = match tokio::time::timeout(SILENCE_MAX, parts.message()).await {
            Ok(part) => part.map_err(|status| ClientError::from_status(client.url(), &status))?,
            Err(_) => return Err(broken("the coordinator has fallen silent").into()),
        };
        match part.and_then(|part| part.part) {
            Some(Part::Wait(_)) => {}
            Some(Part::Start(start)) => folder.about(start.schema, start.program_version, start.damaged),
            Some(Part::File(file)) if file.digest.is_empty() => folder.begin_database(file.size)?,
            Some(Part::File(file)) => folder.begin_blob(&file.digest, file.size)?,
            Some(Part::Data(data)) => folder.write(&data)?,
            Some(Part::End(_)) => return folder.finish(),
            None => return Err(broken("the backup ended before its end").into()),
        }
    }
}

fn broken(why: &str) -> ClientError {
    ClientError::new(Kind::Temporary, why)
}

/// Takes a backup of a data folder that no coordinator holds.
///
/// # Errors
/// Why there is none. Nothing is left at `dir` then.
pub async fn from_data_dir(data_dir: &Path, dir: &Path) -> Result<Written, BackupError> {
    let held = DataDir::existing(data_dir, &RealDisk)?;
    let mut folder = Folder::create(dir)?;
    let path = folder.database_path();
    let mut conn = rows::open_quiet(&held.database()).await?;
    rows::copy(&mut conn, &path).await?;
    drop(conn);
    let mut copy = rows::open_copy(&path).await?;
    let contents = rows::contents(&mut copy).await?;
    drop(copy);
    folder.about(contents.schema, env!("CARGO_PKG_VERSION").to_owned(), contents.damaged);
    folder.take_database()?;
    for (digest, size) in contents.blobs {
        let from = place_in(&held.path.join("blobs"), &digest)?;
        let missing = |error| match error {
            std::io::ErrorKind::NotFound => BackupError::Damaged(format!("the file of {digest} is missing")),
            kind => BackupError::io(&from, kind.into()),
        };
        let mut file = std::fs::File::open(&from).map_err(|e| missing(e.kind()))?;
        folder.begin_blob(&digest, size)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut buffer).map_err(|e| BackupError::io(&from, e))? {
                0 => break,
                n => folder.write(buffer.get(..n).unwrap_or_default())?,
            }
        }
    }
    folder.finish()
}
