//! The state machine of study, trial and attempt, model-checked: the drawings, and random histories of a whole study.

mod drawings;
mod histories;
