//! What SQLite's operations on a file do to a simulated disk, and its answers; [`super::vfs`] is how they come here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libsqlite3_sys as ffi;
use std::ffi::c_int;

use super::locks::Level;
use super::{Op, SimDisk, Trouble, Verdict};

/// An open file of a simulated disk.
pub(super) struct Handle {
    pub(super) disk: Arc<SimDisk>,
    pub(super) path: PathBuf,
    pub(super) id: u64,
    pub(super) connection: u64,
    /// The first sync syncs the folder too: so does the unix VFS with a new journal or WAL.
    pub(super) sync_dir: bool,
    pub(super) delete: bool,
}

impl SimDisk {
    pub(super) fn sqlite_open(&self, path: &Path, create: bool) -> Result<(u64, bool), c_int> {
        let mut state = self.state();
        if state.off {
            return Err(ffi::SQLITE_IOERR);
        }
        match state.model.file(path) {
            Some(id) => Ok((id, false)),
            None if !create => Err(ffi::SQLITE_CANTOPEN),
            None => match state.op(Op::Open, path, 0, 0) {
                Ok(Verdict::Do) => Ok((state.model.create(path, false), true)),
                Ok(Verdict::LastBreath) => {
                    state.model.create(path, false);
                    Err(ffi::SQLITE_CANTOPEN)
                }
                Err(_) => Err(ffi::SQLITE_CANTOPEN),
            },
        }
    }

    pub(super) fn sqlite_delete(&self, path: &Path, sync_dir: bool) -> c_int {
        let mut state = self.state();
        if state.model.file(path).is_none() {
            return ffi::SQLITE_IOERR_DELETE_NOENT;
        }
        match state.op(Op::Remove, path, 0, 0) {
            Ok(verdict) => {
                state.model.remove(path);
                if matches!(verdict, Verdict::LastBreath) {
                    return ffi::SQLITE_IOERR_DELETE;
                }
            }
            Err(_) => return ffi::SQLITE_IOERR_DELETE,
        }
        if !sync_dir {
            return ffi::SQLITE_OK;
        }
        let folder = path.parent().unwrap_or(path);
        match state.op(Op::SyncDir, folder, 0, 0) {
            Ok(Verdict::Do) => state.model.sync_dir(folder),
            _ => return ffi::SQLITE_IOERR_DIR_FSYNC,
        }
        ffi::SQLITE_OK
    }
}

impl Handle {
    pub(super) fn read(&self, at: u64, to: &mut [u8]) -> c_int {
        let state = self.disk.state();
        if state.off {
            return ffi::SQLITE_IOERR_READ;
        }
        let bytes = state.model.files.get(&self.id).map_or(&[][..], |f| &f.now);
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let there = to.len().min(bytes.len() - start);
        to[..there].copy_from_slice(&bytes[start..start + there]);
        to[there..].fill(0);
        if there < to.len() { ffi::SQLITE_IOERR_SHORT_READ } else { ffi::SQLITE_OK }
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> c_int {
        let mut state = self.disk.state();
        match state.op(Op::Write, &self.path, at, bytes.len()) {
            Ok(verdict) => {
                state.model.write(self.id, at, bytes);
                if matches!(verdict, Verdict::Do) { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_WRITE }
            }
            Err(Trouble::Full) => ffi::SQLITE_FULL,
            Err(Trouble::Io) => ffi::SQLITE_IOERR_WRITE,
        }
    }

    pub(super) fn truncate(&self, len: u64) -> c_int {
        let mut state = self.disk.state();
        match state.op(Op::SetLen, &self.path, len, 0) {
            Ok(verdict) => {
                state.model.set_len(self.id, len);
                if matches!(verdict, Verdict::Do) { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_TRUNCATE }
            }
            Err(_) => ffi::SQLITE_IOERR_TRUNCATE,
        }
    }

    pub(super) fn sync(&mut self) -> c_int {
        let mut state = self.disk.state();
        match state.op(Op::Sync, &self.path, 0, 0) {
            Ok(Verdict::Do) => state.model.sync(self.id),
            Ok(Verdict::LastBreath) => return ffi::SQLITE_IOERR_FSYNC,
            Err(_) => {
                state.fail_sync(self.id);
                return ffi::SQLITE_IOERR_FSYNC;
            }
        }
        if self.sync_dir {
            let folder = self.path.parent().unwrap_or(&self.path);
            // The unix VFS takes no notice of a folder that cannot be synced.
            if matches!(state.op(Op::SyncDir, folder, 0, 0), Ok(Verdict::Do)) {
                state.model.sync_dir(folder);
            }
            self.sync_dir = false;
        }
        ffi::SQLITE_OK
    }

    pub(super) fn size(&self) -> Result<u64, c_int> {
        let state = self.disk.state();
        if state.off {
            return Err(ffi::SQLITE_IOERR_FSTAT);
        }
        let len = state.model.files.get(&self.id).map_or(0, |f| f.now.len());
        u64::try_from(len).map_err(|_| ffi::SQLITE_IOERR_FSTAT)
    }

    pub(super) fn close(self) {
        let connection = self.connection;
        self.disk.locks(self.id, |locks| {
            locks.unlock(connection, Level::None);
            locks.unmap(connection);
            true
        });
        if self.delete {
            self.disk.sqlite_delete(&self.path, false);
        }
        self.disk.open.fetch_sub(1, Ordering::AcqRel);
    }
}
