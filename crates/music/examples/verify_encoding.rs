//! Encodes every chorale of a music21 release and compares with a table of what is known: matches, misses and why.
//! `cargo run --release -p kapell-music --example verify_encoding -- ARCHIVE TABLE.tsv [ID]` (with an id: its tokens).

#![expect(clippy::print_stdout, reason = "a program that prints what it found")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;

use kapell_music::edition::{Edition, EditionScore, chorales};
use kapell_music::encode::{EncodedPiece, Token, encode_chorale};
use kapell_music::read::read_score;
use kapell_music::score::Mode;
use sha2::{Digest, Sha256};

type Failure = Box<dyn Error>;

/// What the table says of one chorale; the fields beyond the id may be blank.
struct Known {
    id: String,
    transposition: Option<i8>,
    mode: String,
    frames: Option<usize>,
    tokens: Option<usize>,
    sha256: String,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [archive, table, rest @ ..] = arguments.as_slice() else {
        return Err("usage: verify_encoding ARCHIVE TABLE.tsv [ID]".into());
    };
    let edition = if archive.ends_with(".tar.gz") { Edition::Music21V2 } else { Edition::Music21V10 };
    let listing = chorales(&std::fs::read(archive)?, edition)?;
    if let Some(id) = rest.first() {
        let score = listing.chorales.iter().find(|score| score.id == *id).ok_or("no chorale of that id")?;
        encode(score)?.tokens.iter().for_each(|token| println!("{token}"));
        return Ok(());
    }
    let known = read_table(&std::fs::read_to_string(table)?);
    report_ids(&listing.chorales, &known);
    let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
    listing.left_out.iter().for_each(|file| *left_out.entry(file.why).or_default() += 1);
    left_out.iter().for_each(|(why, count)| println!("left out: {count} ({why})"));

    let by_id: HashMap<&str, &Known> = known.iter().map(|known| (known.id.as_str(), known)).collect();
    let (mut read, mut matches, mut hashed) = (0, 0, 0);
    let mut lengths = Vec::new();
    let mut vocabulary: BTreeSet<Token> = BTreeSet::new();
    let mut all_streams = Sha256::new();
    for score in &listing.chorales {
        let piece = match encode(score) {
            Ok(piece) => piece,
            Err(error) => {
                println!("FAILED {}: {error}", score.id);
                continue;
            }
        };
        read += 1;
        lengths.push(piece.tokens.len());
        vocabulary.extend(&piece.tokens);
        piece.tokens.iter().for_each(|token| all_streams.update(format!("{token}\n")));
        let Some(known) = by_id.get(score.id.as_str()).filter(|known| !known.sha256.is_empty()) else {
            continue;
        };
        hashed += 1;
        match difference(&piece, known) {
            None => matches += 1,
            Some(what) => println!("MISS {}: {what}", score.id),
        }
    }
    lengths.sort_unstable();
    let (shortest, longest) = (lengths.first(), lengths.last());
    println!("encoded {read} of {} chorales", listing.chorales.len());
    println!("hashes: {matches} of {hashed} match");
    println!("vocabulary {}, tokens {}", vocabulary.len(), lengths.iter().sum::<usize>());
    println!("all streams, one after another: {}", hex::encode(all_streams.finalize()));
    println!("tokens a chorale: {shortest:?}, {:?}, {longest:?}", lengths.get(lengths.len() / 2));
    Ok(())
}

fn encode(score: &EditionScore) -> Result<EncodedPiece, Failure> {
    Ok(encode_chorale(&read_score(&score.bytes, &score.file)?)?)
}

fn report_ids(listed: &[EditionScore], known: &[Known]) {
    let listed: BTreeSet<&str> = listed.iter().map(|score| score.id.as_str()).collect();
    let known: BTreeSet<&str> = known.iter().map(|known| known.id.as_str()).collect();
    known.difference(&listed).for_each(|id| println!("MISSING {id}: in the table, not in the archive"));
    listed.difference(&known).for_each(|id| println!("EXTRA {id}: in the archive, not in the table"));
}

fn read_table(text: &str) -> Vec<Known> {
    let rows = text.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    let field = |row: &[&str], index: usize| row.get(index).copied().unwrap_or_default().trim().to_owned();
    let known = rows.map(|row| Known {
        id: field(&row, 0),
        transposition: field(&row, 2).parse().ok(),
        mode: field(&row, 3),
        frames: field(&row, 4).parse().ok(),
        tokens: field(&row, 5).parse().ok(),
        sha256: field(&row, 6),
    });
    known.collect()
}

fn difference(piece: &EncodedPiece, known: &Known) -> Option<String> {
    let mut stream = Sha256::new();
    piece.tokens.iter().for_each(|token| stream.update(format!("{token}\n")));
    if hex::encode(stream.finalize()) == known.sha256 {
        return None;
    }
    let mode = if piece.mode == Mode::Major { "major" } else { "minor" };
    let mut parts = Vec::new();
    let mut compare = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            parts.push(format!("{what} {ours}, not {theirs}"));
        }
    };
    compare(
        "transposition",
        format!("{}", piece.transposition),
        known.transposition.map_or_else(String::new, |value| value.to_string()),
    );
    compare("mode", mode.to_owned(), known.mode.clone());
    compare(
        "frames",
        piece.frames.to_string(),
        known.frames.map_or_else(String::new, |value| value.to_string()),
    );
    compare(
        "tokens",
        piece.tokens.len().to_string(),
        known.tokens.map_or_else(String::new, |value| value.to_string()),
    );
    if parts.is_empty() {
        parts.push("the same counts, other tokens".to_owned());
    }
    Some(parts.join("; "))
}
