//! A checkpoint: a folder that other tools open, and that training goes on from.
//!
//! | file | what it holds |
//! |---|---|
//! | `model.safetensors` | parameters and running statistics, under PyTorch's names (see [`crate::weights`]) |
//! | `config.json` | architecture, training options, corpus, progress, numerics, provenance |
//! | `vocab.json` | every token's spelling, by id |
//! | `training.safetensors` | Adam's moments, carried state, counters, loss so far, the place in the data |

mod manifest;
mod training;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{Architecture, TrainConfig};
use crate::weights::Weights;

pub use manifest::{Entry, Manifest, build_manifest, verify};
pub(crate) use training::TrainingState;

pub const MODEL_FILE: &str = "model.safetensors";
pub const CONFIG_FILE: &str = "config.json";
pub const VOCABULARY_FILE: &str = "vocab.json";
pub const TRAINING_FILE: &str = "training.safetensors";

/// The version of the layout described here.
pub const FORMAT: &str = "kapellmeister-checkpoint-1";

const NAMING: &str = "One-layer nn.LSTM per layer: embedding.weight [V, E]; lstm.{k}.weight_ih_l0 [4H, D], \
     lstm.{k}.weight_hh_l0 [4H, H], lstm.{k}.bias_ih_l0 and lstm.{k}.bias_hh_l0 [4H], gates i, f, g, o; \
     norm.{k}.weight, bias, running_mean, running_var [H]; linear.weight [V, H], linear.bias [V]. For one nn.LSTM \
     of L layers rename lstm.{k}.*_l0 to *_l{k}.";

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the folder {} exists already and is not empty", .0.display())]
    Exists(PathBuf),
    #[error("{file} cannot be read: {reason}")]
    Json { file: &'static str, reason: String },
    #[error("{0}")]
    Tensors(String),
    #[error("the checkpoint has the format {0:?}, and this program reads {FORMAT:?}")]
    Format(String),
    #[error("the manifest cannot be read: {0}")]
    Manifest(String),
    #[error("{file} has the digest {found}, and the manifest says {expected}")]
    Digest { file: String, expected: String, found: String },
    #[error("{file} has {found} bytes, and the manifest says {expected}")]
    Size { file: String, expected: u64, found: u64 },
}

/// The corpus that a model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusReference {
    pub name: String,
    /// Of the corpus' blob.
    pub digest: String,
    /// "pieces" or "contiguous".
    pub protocol: String,
}

/// How far training had come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Finished epochs.
    pub epoch: u32,
    /// Updates in all.
    pub update: u64,
    /// Of the last finished epoch.
    pub train_loss: Option<f64>,
    /// Of the last finished epoch.
    pub val_loss: Option<f64>,
}

/// `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointConfig {
    pub format: String,
    /// How the tensors are named, for who opens the file without this program.
    pub tensor_names: String,
    pub architecture: Architecture,
    pub train: TrainConfig,
    pub corpus: CorpusReference,
    pub progress: Progress,
    /// Of the machine that trained the last update.
    pub numerics: String,
    /// Whatever the caller of the trainer knows: program version, study, trial, attempt.
    pub provenance: BTreeMap<String, String>,
}

impl CheckpointConfig {
    pub(crate) fn new(
        architecture: Architecture,
        train: TrainConfig,
        corpus: CorpusReference,
        progress: Progress,
        provenance: BTreeMap<String, String>,
    ) -> Self {
        Self {
            format: FORMAT.into(),
            tensor_names: NAMING.into(),
            architecture,
            train,
            corpus,
            progress,
            numerics: crate::numerics(),
            provenance,
        }
    }
}

/// A checkpoint as inference needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub config: CheckpointConfig,
    /// Every token's spelling, by id.
    pub vocabulary: Vec<String>,
    pub weights: Weights,
}

/// Reads a checkpoint's model; `training.safetensors` is not needed.
///
/// # Errors
/// Files that are missing, unreadable, or do not belong together.
pub fn load(dir: &Path) -> Result<Checkpoint, CheckpointError> {
    let config = read_config(dir)?;
    let vocabulary: Vec<String> = read_json(dir, VOCABULARY_FILE)?;
    if vocabulary.len() != config.architecture.vocabulary {
        let (has, wanted) = (vocabulary.len(), config.architecture.vocabulary);
        let reason = format!("it has {has} tokens, and {CONFIG_FILE} says {wanted}");
        return Err(CheckpointError::Json { file: VOCABULARY_FILE, reason });
    }
    let weights = Weights::from_safetensors(&read(dir, MODEL_FILE)?, &config.architecture)?;
    Ok(Checkpoint { config, vocabulary, weights })
}

/// Reads and checks `config.json` alone.
///
/// # Errors
/// A file that is missing, is not what this program writes, or describes no possible model.
pub fn read_config(dir: &Path) -> Result<CheckpointConfig, CheckpointError> {
    let config: CheckpointConfig = read_json(dir, CONFIG_FILE)?;
    if config.format != FORMAT {
        return Err(CheckpointError::Format(config.format));
    }
    let bad = |reason: String| CheckpointError::Json { file: CONFIG_FILE, reason };
    config.train.validate().map_err(|error| bad(error.to_string()))?;
    let vocabulary = config.architecture.vocabulary;
    if config.architecture != config.train.architecture(vocabulary) || !(1..=1 << 16).contains(&vocabulary) {
        return Err(bad("the architecture does not belong to the training options".into()));
    }
    Ok(config)
}

/// `sha256:` and the digest in hexadecimal digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Writes files beside `dir` and renames them into place, everything on disk before `dir` has its name.
pub(crate) fn write_dir(dir: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), CheckpointError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Io { path, source }
    };
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(at(parent))?;
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CheckpointError::Exists(dir.to_owned()));
    }
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".writing-{}", std::process::id()));
    let temporary = parent.join(name);
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(at(&temporary))?;
    }
    fs::create_dir(&temporary).map_err(at(&temporary))?;
    for (name, bytes) in files {
        let path = temporary.join(name);
        let mut file = File::create(&path).map_err(at(&path))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&path))?;
    }
    sync_dir(&temporary).map_err(at(&temporary))?;
    fs::rename(&temporary, dir).map_err(at(dir))?;
    sync_dir(parent).map_err(at(parent))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub(crate) fn read(dir: &Path, name: &str) -> Result<Vec<u8>, CheckpointError> {
    let path = dir.join(name);
    fs::read(&path).map_err(|source| CheckpointError::Io { path, source })
}

fn read_json<T: for<'de> Deserialize<'de>>(dir: &Path, name: &'static str) -> Result<T, CheckpointError> {
    let bytes = read(dir, name)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| CheckpointError::Json { file: name, reason: error.to_string() })
}

pub(crate) fn json_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain data with text keys");
    bytes.push(b'\n');
    bytes
}
