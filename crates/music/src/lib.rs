//! Scores in, scores out, corpora and the token encoding. Pure: bytes in, values out; no network, no clock.

pub mod corpus;
pub mod counterpoint;
pub mod decode;
pub mod edition;
pub mod encode;
pub mod exercises;
pub mod kept;
pub mod key;
mod mix;
pub mod read;
pub mod score;
mod token;
pub mod voices;
pub mod write;
