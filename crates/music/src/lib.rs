//! Scores in, scores out, corpora and the token encoding. Pure: bytes in, values out; no network, no clock.

pub mod corpus;
pub mod edition;
pub mod score;
