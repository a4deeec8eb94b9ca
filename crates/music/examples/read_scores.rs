//! Reads every score that is named and prints what it holds, or why it could not be read.
//! `cargo run --release -p kapell-music --example read_scores -- FILE...`

#![expect(clippy::print_stdout, reason = "a program that prints what it found")]

use kapell_music::encode::encode_chorale;
use kapell_music::read::read_score;

fn main() -> std::io::Result<()> {
    let (mut read, mut failed) = (0, 0);
    for path in std::env::args().skip(1) {
        match read_score(&std::fs::read(&path)?, &path) {
            Ok(score) => {
                read += 1;
                let notes: usize = score.parts.iter().map(|part| part.notes.len()).sum();
                let names: Vec<&str> = score.parts.iter().map(|part| part.name.as_str()).collect();
                println!("{path}: {} measures, {notes} notes, parts {names:?}", score.measures.len());
                match encode_chorale(&score) {
                    Ok(piece) => println!("  {} frames, {} tokens", piece.frames, piece.tokens.len()),
                    Err(error) => println!("  not encoded: {error}"),
                }
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {error}");
            }
        }
    }
    println!("{read} read, {failed} not");
    Ok(())
}
