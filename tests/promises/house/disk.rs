//! A small disk of its own that can be filled to the last byte.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// A tmpfs, unmounted with its owner.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
}

impl Disk {
    /// Mounts one of so many MiB. None where this user may not.
    pub(crate) fn mount(at: &Path, mib: u32) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let before = at.metadata()?.dev();
        let size = format!("size={mib}m");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        if !done.is_ok_and(|done| done.status.success()) || at.metadata()?.dev() == before {
            return Ok(None);
        }
        Ok(Some(Self { path: at.to_owned() }))
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Leaves so many bytes free, or a page less; 0 fills the disk.
    pub(crate) fn leave_free(&self, bytes: u64) -> Result<()> {
        let file = File::options().create(true).append(true).open(self.ballast())?;
        loop {
            let space = statvfs(&self.path)?;
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            if free <= bytes {
                return Ok(());
            }
            let more = (free - bytes).next_multiple_of(4096).min(free);
            match fallocate(&file, FallocateFlags::empty(), file.metadata()?.len(), more) {
                Ok(()) | Err(Errno::NOSPC) => {}
                Err(error) => bail!("the ballast: {error}"),
            }
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("the ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Detached at once, and gone when the last process of the test is.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}
