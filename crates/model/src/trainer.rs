//! Training, one update at a time, so that the caller can stop, save and report between any two.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kapell_music::corpus::{Corpus, PartOfSplit, Protocol};

use crate::checkpoint::{
    CONFIG_FILE, CheckpointConfig, CheckpointError, CorpusReference, MODEL_FILE, Progress, TRAINING_FILE,
    TrainingState, VOCABULARY_FILE, digest, json_bytes, load, read, write_dir,
};
use crate::config::{ConfigError, TrainConfig};
use crate::data::{DataError, Windows, held_out};
use crate::evaluate::{PieceLoss, evaluate_unless};
use crate::kernels::adam::power;
use crate::update::{Carried, Halt, Moments, Update, Window};
use crate::weights::Weights;

/// Why training cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Data(#[from] DataError),
    /// Epoch, and update within it, counted from 1. It would come again: final.
    #[error("loss became NaN at epoch {epoch}, update {update}")]
    NotFinite { epoch: u32, update: u64 },
    /// As [`Trainer::abandon_on`] was told to.
    #[error("training was abandoned")]
    Abandoned,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("the checkpoint was made with another {what}: {found}, not {wanted}")]
    Mismatch { what: &'static str, found: String, wanted: String },
}

/// What one call of [`Trainer::step`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// One update. `update` counts all of them from 1; `loss` is the window's, before the update.
    Updated { update: u64, loss: f64 },
    /// The epoch's last update was done before; now it has been validated.
    EpochEnded(EpochResult),
    /// All epochs are done.
    Finished,
}

/// An epoch's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochResult {
    /// Counted from 1.
    pub epoch: u32,
    /// Mean over the epoch's windows as they were trained on, dropout included, in nats per token.
    pub train_loss: f64,
    /// Nats per token on the validation part.
    pub val_loss: f64,
    /// The validation loss by piece (by row for BachBot's protocol).
    pub val_nats_per_piece: Vec<PieceLoss>,
    /// Training and validation.
    pub seconds: f64,
    /// Training alone.
    pub tokens_per_s: f64,
    pub weights_digest: String,
}

/// A training run between two updates.
pub struct Trainer {
    config: TrainConfig,
    corpus: Arc<Corpus>,
    corpus_digest: String,
    windows: Windows,
    weights: Weights,
    state: TrainingState,
    /// Losses of the last finished epoch: training, validation.
    last: Option<(f64, f64)>,
    engine: Update,
    inputs: Vec<u16>,
    targets: Vec<u16>,
    /// Goes into `config.json` as it is.
    pub provenance: BTreeMap<String, String>,
}

impl Trainer {
    /// A run before its first update.
    ///
    /// # Errors
    /// Options outside their limits, a corpus too small for one window, or one without a validation part.
    pub fn new(config: TrainConfig, corpus: Arc<Corpus>) -> Result<Self, TrainError> {
        config.validate()?;
        let weights = Weights::initial(&config, corpus.vocabulary.len());
        let state = TrainingState {
            moments: Moments::zeros(weights.flat.len()),
            carried: Carried::zeros(config.layers, config.batch_size * config.hidden),
            epoch: 0,
            window: 0,
            update: 0,
            loss_sum: 0.0,
            train_seconds: 0.0,
        };
        Self::assemble(config, corpus, weights, state)
    }

    /// Goes on from a checkpoint, which may lie within an epoch, as if it had never stopped. Of the options only
    /// `epochs` and `threads` may differ from the checkpoint's.
    ///
    /// # Errors
    /// As [`Self::new`]; a checkpoint that cannot be read, or one of other options or another corpus.
    pub fn resume(
        config: TrainConfig,
        corpus: Arc<Corpus>,
        checkpoint_dir: &Path,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let checkpoint = load(checkpoint_dir)?;
        let comparable =
            |config: &TrainConfig| format!("{:?}", TrainConfig { epochs: 1, threads: 1, ..config.clone() });
        same("set of options", comparable(&checkpoint.config.train), comparable(&config))?;
        same("corpus", checkpoint.config.corpus.digest, corpus.digest())?;
        let layout = &checkpoint.weights.layout;
        let bytes = read(checkpoint_dir, TRAINING_FILE)?;
        let state = TrainingState::from_safetensors(&bytes, layout, config.batch_size, config.hidden)?;
        let mut trainer = Self::assemble(config, corpus, checkpoint.weights, state)?;
        let progress = checkpoint.config.progress;
        trainer.last = progress.train_loss.zip(progress.val_loss);
        trainer.provenance = checkpoint.config.provenance;
        let updates = u64::from(trainer.state.epoch) * trainer.updates_per_epoch() + trainer.state.window;
        same("number of updates", trainer.state.update.to_string(), updates.to_string())?;
        Ok(trainer)
    }

    fn assemble(
        config: TrainConfig,
        corpus: Arc<Corpus>,
        weights: Weights,
        state: TrainingState,
    ) -> Result<Self, TrainError> {
        let windows = Windows::new(&corpus, &config)?;
        held_out(&corpus, PartOfSplit::Val, config.seq_len)?;
        let positions = windows.tokens_per_window();
        Ok(Self {
            engine: Update::new(&config, corpus.vocabulary.len()),
            corpus_digest: corpus.digest(),
            inputs: vec![0; positions],
            targets: vec![0; positions],
            last: None,
            provenance: BTreeMap::new(),
            config,
            corpus,
            windows,
            weights,
            state,
        })
    }

    /// Has a step end soon after the flag is set, with [`TrainError::Abandoned`], even amid an update or a validation.
    /// For runs of which nothing is kept: what is left cannot go on and must not be saved.
    pub fn abandon_on(&mut self, flag: Arc<AtomicBool>) {
        self.engine.abandon = flag;
    }

    /// One update; or, after an epoch's last, its validation; or nothing, after the last epoch.
    ///
    /// # Errors
    /// A loss that is not finite, or a run that is abandoned; the run is over.
    pub fn step(&mut self) -> Result<Step, TrainError> {
        if self.state.epoch >= self.config.epochs {
            return Ok(Step::Finished);
        }
        if self.state.window == self.updates_per_epoch() {
            return self.end_epoch().map(Step::EpochEnded);
        }
        let started = Instant::now();
        let index = usize::try_from(self.state.window).unwrap_or(usize::MAX);
        self.windows.fill(index, &mut self.inputs, &mut self.targets);
        let window = Window { inputs: &self.inputs, targets: &self.targets };
        let learning_rate = learning_rate(&self.config, self.state.epoch);
        let TrainingState { moments, carried, update, .. } = &mut self.state;
        let loss = self
            .engine
            .run(&mut self.weights, moments, carried, &window, learning_rate, *update)
            .map_err(|halt| match halt {
                Halt::NotFinite => not_finite(self.state.epoch, self.state.window),
                Halt::Abandoned => TrainError::Abandoned,
            })?;
        self.state.update += 1;
        self.state.window += 1;
        self.state.loss_sum += loss;
        self.state.train_seconds += started.elapsed().as_secs_f64();
        Ok(Step::Updated { update: self.state.update, loss })
    }

    fn end_epoch(&mut self) -> Result<EpochResult, TrainError> {
        let started = Instant::now();
        let (seq_len, threads) = (self.config.seq_len, self.config.threads);
        let (abandon, part) = (&self.engine.abandon, PartOfSplit::Val);
        let validation = evaluate_unless(abandon, &self.weights, &self.corpus, part, seq_len, threads)?;
        if abandon.load(Ordering::Relaxed) {
            return Err(TrainError::Abandoned);
        }
        if !validation.loss.is_finite() {
            return Err(not_finite(self.state.epoch, self.state.window - 1));
        }
        let updates = wide(self.updates_per_epoch());
        let train_seconds = self.state.train_seconds;
        let tokens = updates * wide(self.windows.tokens_per_window() as u64);
        let result = EpochResult {
            epoch: self.state.epoch + 1,
            train_loss: self.state.loss_sum / updates,
            val_loss: validation.loss,
            val_nats_per_piece: validation.pieces,
            seconds: train_seconds + started.elapsed().as_secs_f64(),
            tokens_per_s: tokens / train_seconds,
            weights_digest: self.weights_digest(),
        };
        self.last = Some((result.train_loss, result.val_loss));
        self.begin_epoch();
        Ok(result)
    }

    /// Counts the epoch that has ended and clears what does not outlive it.
    fn begin_epoch(&mut self) {
        let state = &mut self.state;
        state.epoch += 1;
        state.window = 0;
        state.loss_sum = 0.0;
        state.train_seconds = 0.0;
        state.carried.clear();
        let decay = self.config.lr_decay;
        if decay.reset_moments && state.epoch.is_multiple_of(decay.every) {
            state.moments.clear();
        }
    }

    /// Finished epochs.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.state.epoch
    }

    /// Updates in all.
    #[must_use]
    pub fn update(&self) -> u64 {
        self.state.update
    }

    #[must_use]
    pub fn updates_per_epoch(&self) -> u64 {
        self.windows.count as u64
    }

    /// Tokens that one update trains on.
    #[must_use]
    pub fn tokens_per_update(&self) -> u64 {
        self.windows.tokens_per_window() as u64
    }

    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Of `model.safetensors` as [`Self::save`] would write it now.
    #[must_use]
    pub fn weights_digest(&self) -> String {
        digest(&self.weights.to_safetensors())
    }

    /// Writes the checkpoint folder `dir`, which must not exist or be empty. It has its name only when all of it is
    /// on disk; what was interrupted stays beside it as `<dir>.writing-<process>`.
    ///
    /// # Errors
    /// A folder in use, a disk that is full.
    pub fn save(&self, dir: &Path) -> Result<(), TrainError> {
        let corpus = CorpusReference {
            name: self.corpus.name.clone(),
            digest: self.corpus_digest.clone(),
            protocol: match self.corpus.protocol {
                Protocol::Pieces => "pieces".into(),
                Protocol::Contiguous => "contiguous".into(),
            },
        };
        let progress = Progress {
            epoch: self.state.epoch,
            update: self.state.update,
            train_loss: self.last.map(|(train, _)| train),
            val_loss: self.last.map(|(_, val)| val),
        };
        let (architecture, train) = (self.weights.architecture, self.config.clone());
        let config = CheckpointConfig::new(architecture, train, corpus, progress, self.provenance.clone());
        let (rows, hidden) = (self.config.batch_size, self.config.hidden);
        let files = [
            (MODEL_FILE, self.weights.to_safetensors()),
            (CONFIG_FILE, json_bytes(&config)),
            (VOCABULARY_FILE, json_bytes(&self.corpus.vocabulary)),
            (TRAINING_FILE, self.state.to_safetensors(&self.weights.layout, rows, hidden)),
        ];
        Ok(write_dir(dir, &files)?)
    }
}

/// The rate of epoch `epoch`, counted from 0.
fn learning_rate(config: &TrainConfig, epoch: u32) -> f64 {
    config.learning_rate * power(config.lr_decay.factor, u64::from(epoch / config.lr_decay.every))
}

fn not_finite(epoch: u32, window: u64) -> TrainError {
    TrainError::NotFinite { epoch: epoch + 1, update: window + 1 }
}

fn same(what: &'static str, found: String, wanted: String) -> Result<(), TrainError> {
    if found == wanted { Ok(()) } else { Err(TrainError::Mismatch { what, found, wanted }) }
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens and updates are far below 2^53")]
fn wide(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
