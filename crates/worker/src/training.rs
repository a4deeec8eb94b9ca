//! What the worker asks of a trainer, and how a trial's options become the LSTM trainer's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kapell_model::checkpoint::CheckpointError;
use kapell_model::{GradClip, LrDecay, Step, TrainConfig, TrainError, Trainer};
use kapell_music::corpus::Corpus;
use kapell_search::Config;

/// What a training run is made of.
pub struct Job {
    /// Every option, checked.
    pub config: Config,
    pub replicate: u32,
    pub threads: usize,
    pub corpus: Arc<Corpus>,
    /// A checkpoint to go on from.
    pub resume: Option<PathBuf>,
}

/// A training run that can be stopped and saved between any two steps. Lives on one thread.
pub trait Training {
    /// Has a step end soon after the flag is set, with [`TrainError::Abandoned`], if it can.
    fn abandon_on(&mut self, _flag: Arc<AtomicBool>) {}

    /// One update, the end of an epoch, or nothing any more.
    ///
    /// # Errors
    /// The run is over.
    fn step(&mut self) -> Result<Step, TrainError>;

    /// Writes a checkpoint into a folder that does not exist yet.
    ///
    /// # Errors
    /// The folder cannot be written.
    fn save(&self, dir: &Path) -> Result<(), TrainError>;

    /// Finished epochs.
    fn epoch(&self) -> u32;
}

/// Begins a training run, on the thread that will train.
pub type Start = Arc<dyn Fn(Job) -> Result<Box<dyn Training>, TrainError> + Send + Sync>;

impl Training for Trainer {
    fn abandon_on(&mut self, flag: Arc<AtomicBool>) {
        Trainer::abandon_on(self, flag);
    }

    fn step(&mut self) -> Result<Step, TrainError> {
        Trainer::step(self)
    }

    fn save(&self, dir: &Path) -> Result<(), TrainError> {
        Trainer::save(self, dir)
    }

    fn epoch(&self) -> u32 {
        Trainer::epoch(self)
    }
}

/// The LSTM trainer.
#[must_use]
pub fn model_trainer() -> Start {
    Arc::new(|job| {
        let config = train_config(&job.config, job.replicate, job.threads);
        let trainer = match job.resume {
            Some(dir) => Trainer::resume(config, job.corpus, &dir)?,
            None => Trainer::new(config, job.corpus)?,
        };
        Ok(Box::new(trainer))
    })
}

/// Whether trying again would end the same way.
pub(crate) fn is_final(error: &TrainError) -> bool {
    !matches!(error, TrainError::Checkpoint(_))
}

/// Whether it says nothing of the trial, but of this machine: its disk.
pub(crate) fn is_local(error: &TrainError) -> bool {
    matches!(error, TrainError::Checkpoint(CheckpointError::Io { .. } | CheckpointError::Exists(_)))
}

/// A trial's options as the trainer takes them. Both know the same bounds; what the trainer cannot hold becomes
/// its largest value, which its own check refuses.
#[must_use]
pub fn train_config(config: &Config, replicate: u32, threads: usize) -> TrainConfig {
    let size = |name: &str| config.int(name).and_then(|i| usize::try_from(i).ok()).unwrap_or(usize::MAX);
    let count = |name: &str| config.int(name).and_then(|i| u32::try_from(i).ok()).unwrap_or(u32::MAX);
    let float = |name: &str| config.float(name).unwrap_or(f64::NAN);
    let flag = |name: &str| config.bool(name).unwrap_or_default();
    let clip_max = float("grad_clip.max");
    let by_value = config.text("grad_clip.kind").as_deref() == Some("value");
    // A study file's 0 means: never.
    let decay_every = match count("lr_decay.every") {
        0 => u32::MAX,
        every => every,
    };
    TrainConfig {
        layers: size("layers"),
        hidden: size("hidden"),
        embedding: size("embedding"),
        seq_len: size("seq_len"),
        batch_size: size("batch_size"),
        dropout: float("dropout"),
        batch_norm: flag("batch_norm"),
        learning_rate: float("learning_rate"),
        lr_decay: LrDecay {
            every: decay_every,
            factor: float("lr_decay.factor"),
            reset_moments: flag("lr_decay.reset_moments"),
        },
        grad_clip: if by_value { GradClip::Value(clip_max) } else { GradClip::Norm(clip_max) },
        epochs: count("epochs"),
        seed: config.int("seed").and_then(|i| u64::try_from(i).ok()).unwrap_or_default(),
        replicate,
        threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kapell_search::OptionValue;

    #[test]
    fn the_default_options_are_the_trainers_defaults() {
        assert_eq!(train_config(&Config::defaults(), 0, 1), TrainConfig::default());
    }

    #[test]
    fn every_option_reaches_the_trainer() {
        let base = Config::defaults();
        let before = train_config(&base, 0, 1);
        for spec in kapell_search::options::OPTIONS.iter().filter(|o| o.name != "dtype") {
            let mut changed = base.clone();
            let value = match base.get(spec.name).unwrap() {
                OptionValue::Int(i) => OptionValue::Int(i + 1),
                OptionValue::Float(x) => OptionValue::Float(x / 2.0),
                OptionValue::Bool(b) => OptionValue::Bool(!b),
                OptionValue::Text(_) => OptionValue::Text("value".into()),
            };
            changed.options.insert(spec.name.to_owned(), value);
            assert_ne!(train_config(&changed, 0, 1), before, "{}", spec.name);
        }
        assert_eq!(train_config(&base, 2, 3).replicate, 2);
        assert_eq!(train_config(&base, 2, 3).threads, 3);
    }

    #[test]
    fn a_learning_rate_that_never_decays_is_accepted_by_the_trainer() {
        let mut never = Config::defaults();
        never.options.insert("lr_decay.every".into(), OptionValue::Int(0));
        assert_eq!(train_config(&never, 0, 1).validate(), Ok(()));
    }

    #[test]
    fn a_loss_that_became_nan_is_final_and_a_full_disk_is_not() {
        let nan = TrainError::NotFinite { epoch: 3, update: 41 };
        assert_eq!(nan.to_string(), "loss became NaN at epoch 3, update 41");
        assert!(is_final(&nan) && !is_local(&nan));
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full = CheckpointError::Io { path: "x".into(), source };
        let full = TrainError::Checkpoint(full);
        assert!(!is_final(&full) && is_local(&full));
        assert!(!is_local(&TrainError::Checkpoint(CheckpointError::Tensors("none".into()))));
    }
}
