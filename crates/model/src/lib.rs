//! The LSTM, its kernels, training, checkpoints, evaluation and decoding.

pub mod bench;
pub mod checkpoint;
pub mod config;
mod data;
pub mod decode;
pub mod evaluate;
pub mod infer;
mod kernels;
pub mod measure;
mod numerics;
pub mod philox;
pub mod reference;
mod trainer;
mod update;
pub mod weights;

pub use config::{Architecture, ConfigError, GradClip, LrDecay, TrainConfig, parameter_count};
pub use data::DataError;
pub use evaluate::{Evaluation, PieceLoss};
pub use kernels::level::{KernelsError, select_kernels};
pub use numerics::numerics;
pub use trainer::{EpochResult, Step, TrainError, Trainer};
