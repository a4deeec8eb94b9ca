//! What to try next, what to stop, what mattered: study files, spaces and samplers. Pure and deterministic.

pub mod options;
pub mod space;
pub mod study;

pub use options::{Config, OptionValue};
pub use study::StudySpec;
