//! Counts the faults of counterpoint in scores of four parts: a JSON object a score.
//! `cargo run --release -p kapell-music --example count_faults -- SCORE...`

#![expect(clippy::print_stdout, reason = "a program that prints what it found")]

use std::error::Error;

use kapell_music::counterpoint::{Rules, count, frames_of};
use kapell_music::key::find_key;
use kapell_music::read::read_score;

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        let score = read_score(&std::fs::read(&path)?, &path)?;
        let counts = count(&frames_of(&score), &Rules::new(find_key(&score)));
        println!("{{\"score\": {path:?}, \"counts\": {}}}", serde_json::to_string(&counts)?);
    }
    Ok(())
}
