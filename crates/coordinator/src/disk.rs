//! The disk as the data folder uses it: every operation on files that a power cut or a full disk can spoil. (SQLite
//! has its own, its VFS.) Tests put a disk here that loses what was not synced, or that fails.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// What is done to files and folders. What is not synced may be gone after a power cut: bytes until [`Disk::sync`],
/// names (new, renamed, removed) until [`Disk::sync_dir`] of their folder.
pub trait Disk: std::fmt::Debug + Send + Sync {
    /// Opens a file for reading and writing; creates it if need be.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
    }

    /// Writes at the file's position.
    ///
    /// # Errors
    /// The system's.
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Cuts a file off.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    /// Has the bytes of a file survive a power cut.
    ///
    /// # Errors
    /// The system's. Which of the bytes are on disk is then unknown for good.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Has the names in a folder survive a power cut.
    ///
    /// # Errors
    /// As [`Disk::sync`].
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Renames a file, over another one if there is one.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    /// Creates a folder in one that is there.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {}

/// Creates what is missing of a folder and of those above it, so that they survive a power cut.
pub(crate) fn create_dirs(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    create_dirs(disk, above)?;
    match disk.create_dir(path) {
        // Somebody was faster, and may not have synced it yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        done => done?,
    }
    disk.sync_dir(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_disk_asks_the_system_to_sync_files_and_folders() {
        // Linux refuses to sync these two, so whoever is told that they are synced has not asked.
        let null = File::open("/dev/null").unwrap();
        assert!(RealDisk.sync(&null).is_err(), "a file");
        assert!(RealDisk.sync_dir(Path::new("/proc")).is_err(), "a folder");
        let dir = tempfile::tempdir().unwrap();
        RealDisk.sync_dir(dir.path()).unwrap();
    }
}
