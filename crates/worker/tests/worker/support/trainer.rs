//! A trainer that does as it is told: so many updates of so long, then a NaN, a panic, or an end.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kapell_model::checkpoint::CheckpointError;
use kapell_model::{EpochResult, Step, TrainError};
use kapell_worker::training::{Start, Training};

/// What happens after the script's last update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    End,
    Nan,
    Panic,
}

#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) epochs: u32,
    pub(crate) updates_per_epoch: u64,
    pub(crate) update_time: Duration,
    pub(crate) then: Then,
    /// By epoch, repeated from the start.
    pub(crate) val_losses: Vec<f64>,
    /// Size of `model.safetensors`.
    pub(crate) model_bytes: usize,
    /// Whether an update can be abandoned.
    pub(crate) abandons: bool,
    /// While it is set, checkpoints find no space.
    pub(crate) disk_full: Arc<AtomicBool>,
    /// Updates that were begun and made, over all attempts.
    pub(crate) begun: Arc<AtomicU64>,
    pub(crate) made: Arc<AtomicU64>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            epochs: 5,
            updates_per_epoch: 4,
            update_time: Duration::from_millis(1),
            then: Then::End,
            val_losses: vec![0.5, 0.3, 0.1, 0.2, 0.4],
            model_bytes: 2000,
            abandons: false,
            disk_full: Arc::default(),
            begun: Arc::default(),
            made: Arc::default(),
        }
    }
}

impl Script {
    /// Never ends by itself.
    pub(crate) fn endless() -> Self {
        Self { epochs: u32::MAX, ..Self::default() }
    }

    pub(crate) fn start(self) -> Start {
        Arc::new(move |job| {
            // An epoch whose last update is made may not be evaluated yet: both counts are kept.
            let (update, ended) = match job.resume {
                Some(dir) => {
                    let kept = std::fs::read_to_string(dir.join("training.safetensors")).unwrap();
                    let (update, ended) = kept.split_once(' ').unwrap();
                    (update.parse().unwrap(), ended.parse().unwrap())
                }
                None => (0, 0),
            };
            Ok(Box::new(Run { script: self.clone(), update, ended, abandon: Arc::default() }))
        })
    }
}

struct Run {
    script: Script,
    update: u64,
    /// Epochs that have been evaluated.
    ended: u64,
    abandon: Arc<AtomicBool>,
}

impl Training for Run {
    fn abandon_on(&mut self, flag: Arc<AtomicBool>) {
        if self.script.abandons {
            self.abandon = flag;
        }
    }

    fn step(&mut self) -> Result<Step, TrainError> {
        if self.update == (self.ended + 1) * self.script.updates_per_epoch {
            self.ended += 1;
            let which = usize::try_from(self.ended - 1).unwrap() % self.script.val_losses.len();
            return Ok(Step::EpochEnded(EpochResult {
                epoch: self.epoch(),
                train_loss: 1.0 / f64::from(self.epoch()),
                val_loss: self.script.val_losses[which],
                val_nats_per_piece: Vec::new(),
                seconds: 0.1,
                tokens_per_s: 10.0,
                weights_digest: format!("sha256:{:064x}", self.update),
            }));
        }
        if self.epoch() == self.script.epochs {
            match self.script.then {
                Then::End => return Ok(Step::Finished),
                Then::Nan => return Err(TrainError::NotFinite { epoch: self.epoch() + 1, update: 41 }),
                Then::Panic => panic!("the script says so"),
            }
        }
        self.script.begun.fetch_add(1, Ordering::Relaxed);
        let begun = std::time::Instant::now();
        while let Some(left) = self.script.update_time.checked_sub(begun.elapsed()) {
            if self.abandon.load(Ordering::Relaxed) {
                return Err(TrainError::Abandoned);
            }
            std::thread::sleep(left.min(Duration::from_millis(10)));
        }
        self.update += 1;
        self.script.made.fetch_add(1, Ordering::Relaxed);
        Ok(Step::Updated { update: self.update, loss: 1.0 })
    }

    fn save(&self, dir: &Path) -> Result<(), TrainError> {
        if self.script.disk_full.load(Ordering::Relaxed) {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(CheckpointError::Io { path: dir.to_owned(), source }.into());
        }
        std::fs::create_dir(dir).unwrap();
        let mut model = format!("weights after {} ", self.update).into_bytes();
        model.resize(self.script.model_bytes, b'.');
        std::fs::write(dir.join("model.safetensors"), model).unwrap();
        std::fs::write(dir.join("config.json"), "{}").unwrap();
        std::fs::write(dir.join("vocab.json"), "[]").unwrap();
        let kept = format!("{} {}", self.update, self.ended);
        std::fs::write(dir.join("training.safetensors"), kept).unwrap();
        Ok(())
    }

    fn epoch(&self) -> u32 {
        u32::try_from(self.ended).unwrap()
    }
}
