//! The data folder: on a local disk, held by one coordinator at a time, with space left.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{statfs, statvfs};
use thiserror::Error;

use crate::disk::{Disk, create_dirs};

/// Why a data folder cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    #[error("the data folder {} is held by another coordinator{}", .path.display(), .holder)]
    Locked { path: PathBuf, holder: String },
    #[error("the data folder {} lies on a network file system ({kind}), which the database does not survive: use a local disk", .path.display())]
    Network { path: PathBuf, kind: &'static str },
    #[error("the data folder {} has no database", .path.display())]
    Empty { path: PathBuf },
    #[error("a restore into the data folder {} was cut short: run `kapell coordinator restore` again", .path.display())]
    Unfinished { path: PathBuf },
    #[error("the data folder {} cannot be used: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// File systems that live on another machine, by the magic number of statfs(2) (linux/magic.h and the drivers).
const NETWORK: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x564C, "NCP"),
    (0x0102_1997, "9P"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x6573_5546, "FUSE"),
];

/// FUSE also carries local disks (ntfs-3g, fuse-overlayfs); these subtypes and others unknown are refused.
const FUSE: u64 = 0x6573_5546;
const FUSE_LOCAL: &[&str] = &["fuseblk", "fuse.fuse-overlayfs", "fuse.lxcfs"];

/// A data folder that this process holds. Dropping it lets go.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    _lock: File,
}

/// What a folder in which a copy of the database waits to be sent begins with.
pub(crate) const BACKUP_PREFIX: &str = "backup-";
/// Is in a data folder while a backup is restored into it: no coordinator starts there.
pub(crate) const RESTORING: &str = "restoring";

impl DataDir {
    /// Creates the folder if need be, and takes hold of it.
    pub(crate) fn open(path: &Path, disk: &dyn Disk) -> Result<Self, DataDirError> {
        let held = Self::open_for_restore(path, disk)?;
        match held.path.join(RESTORING).exists() {
            true => Err(DataDirError::Unfinished { path: held.path }),
            false => Ok(held),
        }
    }

    /// Takes hold of a folder that has a database.
    pub(crate) fn existing(path: &Path, disk: &dyn Disk) -> Result<Self, DataDirError> {
        if !path.join("kapell.db").is_file() {
            return Err(DataDirError::Empty { path: path.to_owned() });
        }
        Self::open(path, disk)
    }

    /// The same of a folder into which a restore was begun.
    pub(crate) fn open_for_restore(path: &Path, disk: &dyn Disk) -> Result<Self, DataDirError> {
        let io_error = |error: io::Error| DataDirError::Io { path: path.to_owned(), error };
        create_dirs(disk, path).map_err(io_error)?;
        let path = path.canonicalize().map_err(io_error)?;
        refuse_network(&path)?;
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join("kapell.lock"))
            .map_err(io_error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::Locked { holder: holder(&mut lock), path });
            }
            Err(TryLockError::Error(error)) => return Err(DataDirError::Io { path, error }),
        }
        let pid = std::process::id();
        let noted = lock
            .set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(lock, "{pid}"));
        noted.map_err(|error| DataDirError::Io { path: path.clone(), error })?;
        Ok(Self { path, _lock: lock })
    }

    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("kapell.db")
    }
}

/// Removes copies of the database that a crash has left. Only while nobody is served.
pub(crate) fn clean_backups(data_dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(BACKUP_PREFIX) && entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Bytes that are left on the disk of a folder.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// " (process 4711)", if the holder has noted its number.
fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!(" (process {})", text.trim()),
        _ => String::new(),
    }
}

fn refuse_network(path: &Path) -> Result<(), DataDirError> {
    let stat = statfs(path).map_err(|e| DataDirError::Io { path: path.to_owned(), error: e.into() })?;
    // The field is signed on some machines; the magic numbers have 32 bits.
    let Ok(magic) = u64::try_from(i128::from(stat.f_type) & 0xFFFF_FFFF) else { return Ok(()) };
    match network_kind(magic, &mount_type(path)) {
        Some(kind) => Err(DataDirError::Network { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

fn network_kind(magic: u64, mount_type: &str) -> Option<&'static str> {
    let (_, kind) = NETWORK.iter().find(|(m, _)| *m == magic)?;
    if magic == FUSE && FUSE_LOCAL.contains(&mount_type) {
        return None;
    }
    Some(kind)
}

/// The type of the mount that a path lies on ("ext4", "fuse.sshfs"), from /proc/self/mountinfo.
fn mount_type(path: &Path) -> String {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut best = (0, String::new());
    for line in text.lines() {
        let Some((mount, rest)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (mount.split(' ').nth(4), rest.split(' ').next()) else { continue };
        if path.starts_with(point) && point.len() >= best.0 {
            best = (point.len(), kind.to_owned());
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn file_systems_of_other_machines_are_known_and_local_ones_are_not_refused() {
        assert_eq!(network_kind(0x6969, "nfs4"), Some("NFS"));
        assert_eq!(network_kind(0xFF53_4D42, "cifs"), Some("CIFS"));
        assert_eq!(network_kind(FUSE, "fuse.sshfs"), Some("FUSE"));
        assert_eq!(network_kind(FUSE, "fuseblk"), None);
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630] {
            assert_eq!(network_kind(local, "ext4"), None);
        }
    }

    #[test]
    fn a_folder_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path(), &RealDisk).unwrap();
        let refused = DataDir::open(dir.path(), &RealDisk).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        drop(held);
        DataDir::open(dir.path(), &RealDisk).unwrap();
    }
}
