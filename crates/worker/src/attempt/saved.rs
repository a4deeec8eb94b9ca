//! Checkpoints on this machine, on their way to the coordinator.

use std::path::PathBuf;
use std::sync::Arc;

/// A checkpoint in a folder of its own, which goes when nobody needs it any more.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) dir: PathBuf,
    /// Epochs finished in it.
    pub(crate) epoch: u32,
    /// Of that epoch; NaN if there is none yet.
    pub(crate) val_loss: f64,
}

impl Drop for Saved {
    fn drop(&mut self) {
        // What cannot be removed now goes with the attempt's folder.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What the coordinator should have next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latest {
    /// The best that this attempt has reached; none where an earlier attempt's is better.
    pub(crate) best: Option<Arc<Saved>>,
    /// Where the trial goes on.
    pub(crate) last: Option<Arc<Saved>>,
}
