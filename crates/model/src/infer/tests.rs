//! Stepping against whole-sequence evaluation, and folders that cannot be believed.

use std::collections::BTreeMap;
use std::fs;

use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Piece, Protocol};

use super::*;
use crate::checkpoint::{CheckpointConfig, CorpusReference, Progress, json_bytes, write_dir};
use crate::config::TrainConfig;
use crate::evaluate::evaluate;
use crate::philox::{Purpose, Stream, unit};

const VOCABULARY: usize = 13;

fn config(batch_norm: bool) -> TrainConfig {
    TrainConfig { layers: 3, hidden: 17, embedding: 5, batch_norm, seed: 3, ..TrainConfig::default() }
}

/// First values, with running statistics and biases that are not the neutral ones.
fn weights(batch_norm: bool) -> Weights {
    let mut weights = Weights::initial(&config(batch_norm), VOCABULARY);
    let draw = |index: u32, place: usize| {
        let word = Stream::new(9, 0, Purpose::Bench, 0, place).block(index)[0];
        #[expect(clippy::cast_possible_truncation, reason = "test data")]
        let drawn = unit(word) as f32;
        drawn
    };
    for (layer, running) in weights.running.iter_mut().enumerate() {
        for (value, index) in running.mean.iter_mut().zip(0..) {
            *value = draw(index, layer) - 0.5;
        }
        for (value, index) in running.var.iter_mut().zip(0..) {
            *value = draw(index, layer + 8) + 0.1;
        }
    }
    for layer in weights.layout.layers.clone() {
        for (value, index) in weights.flat[layer.bias].iter_mut().zip(0..) {
            *value += draw(index, 20) - 0.5;
        }
    }
    weights
}

fn spellings() -> Vec<String> {
    (0..VOCABULARY).map(|token| format!("t{token}")).collect()
}

fn tokens(piece: u32, length: u32) -> Vec<u16> {
    let stream = Stream::new(4, piece, Purpose::Bench, 0, 0);
    (0..length).map(|at| u16::try_from(stream.block(at)[0] % 13).expect("small")).collect()
}

#[test]
fn stepping_gives_the_loss_of_whole_pieces() {
    let pieces: Vec<Piece> = (0..3)
        .map(|at| Piece { id: format!("p{at}"), part: PartOfSplit::Val, tokens: tokens(at, 40 + 9 * at) })
        .collect();
    let corpus = Corpus {
        name: "noise".into(),
        kind: Kind::Text,
        protocol: Protocol::Pieces,
        vocabulary: spellings(),
        pieces,
    };
    for batch_norm in [false, true] {
        let weights = weights(batch_norm);
        let wanted = evaluate(&weights, &corpus, PartOfSplit::Val, 8, 1).expect("a corpus with that part");
        let mut stepper = stepper(&weights);
        for (piece, wanted) in corpus.pieces.iter().zip(wanted.pieces) {
            let mut row = stepper.model().start();
            let mut logits = vec![0.0; VOCABULARY];
            let mut nats = 0.0;
            for pair in piece.tokens.windows(2) {
                stepper.step(&mut [&mut row], &pair[..1], &mut logits);
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                nats += sum.ln() - f64::from(logits[usize::from(pair[1])]);
            }
            assert!((nats - wanted.nats).abs() < 1e-4 * wanted.nats, "{nats} {}", wanted.nats);
        }
    }
}

fn stepper(weights: &Weights) -> Stepper {
    Stepper::new(Arc::new(Model::new(weights, spellings()).expect("finite weights")))
}

#[test]
fn a_row_gives_the_same_numbers_alone_in_a_batch_and_branched_off() {
    let mut stepper = stepper(&weights(true));
    let rows: [Vec<u16>; 3] = [tokens(0, 12), tokens(1, 12), tokens(2, 12)];
    let mut together = vec![stepper.model().start(); 3];
    let mut all = vec![0.0; 3 * VOCABULARY];
    for ((&first, &second), &third) in rows[0].iter().zip(&rows[1]).zip(&rows[2]) {
        let mut three: Vec<&mut Row> = together.iter_mut().collect();
        stepper.step(&mut three, &[first, second, third], &mut all);
    }
    for (row, logits) in rows.iter().zip(all.chunks_exact(VOCABULARY)) {
        let mut state = stepper.model().start();
        let mut alone = vec![0.0; VOCABULARY];
        let (before, after) = row.split_at(6);
        before.iter().for_each(|&token| stepper.step(&mut [&mut state], &[token], &mut alone));
        let mut branch = state.clone();
        stepper.step(&mut [&mut state], &[0], &mut alone);
        after.iter().for_each(|&token| stepper.step(&mut [&mut branch], &[token], &mut alone));
        assert_eq!(alone, logits);
    }
}

/// A model's folder as training writes it, with one file replaced.
fn folder(replaced: &str, with: impl Fn(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let weights = weights(true);
    let corpus = CorpusReference { name: "noise".into(), digest: String::new(), protocol: "pieces".into() };
    let progress = Progress { epoch: 1, update: 1, train_loss: None, val_loss: None };
    let config = CheckpointConfig::new(weights.architecture, config(true), corpus, progress, BTreeMap::new());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let files = [
        (checkpoint::MODEL_FILE, weights.to_safetensors()),
        (checkpoint::CONFIG_FILE, json_bytes(&config)),
        (checkpoint::VOCABULARY_FILE, json_bytes(&spellings())),
    ];
    let files = files.map(|(name, bytes)| (name, if name == replaced { with(bytes) } else { bytes }));
    write_dir(&dir.path().join("model"), &files).expect("a folder that can be written");
    dir
}

fn load(replaced: &str, with: impl Fn(Vec<u8>) -> Vec<u8>) -> Result<Model, LoadError> {
    Model::load(&folder(replaced, with).path().join("model"))
}

#[test]
fn a_folder_as_training_writes_it_is_read() {
    let model = load("", |bytes| bytes).expect("a whole folder");
    assert_eq!(model.vocabulary(), spellings());
    assert_eq!(model.architecture(), weights(true).architecture);
}

#[test]
fn folders_that_do_not_fit_together_are_refused_with_the_reason() {
    let text = |from: &'static str, to: &'static str| {
        move |mut bytes: Vec<u8>| {
            while let Some(at) = bytes.windows(from.len()).position(|part| part == from.as_bytes()) {
                bytes.splice(at..at + from.len(), to.bytes());
            }
            bytes
        }
    };
    let check = |result: Result<Model, LoadError>, part: &str| {
        let message = result.map(|_| ()).expect_err(part).to_string();
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    };
    let (model, config, vocabulary) =
        (checkpoint::MODEL_FILE, checkpoint::CONFIG_FILE, checkpoint::VOCABULARY_FILE);
    check(load(model, |bytes| bytes[..bytes.len() / 2].to_vec()), "bytes, but the model");
    check(load(model, |bytes| vec![b'x'; bytes.len()]), "eader");
    check(load(model, text("norm.1.weight", "norm.9.weight")), "norm.1.weight");
    check(load(config, text("\"hidden\": 17", "\"hidden\": 16000")), "bytes, but the model");
    check(load(config, text("\"hidden\": 17", "\"hidden\": 16")), "[68, 5]");
    check(load(config, text("\"hidden\": 17", "\"hidden\": 99999999999")), "hidden must be from 1 to 16384");
    check(load(config, |_| b"{".to_vec()), "config.json cannot be read");
    check(load(vocabulary, text("\"t3\",", "")), "12 tokens");
    check(Model::load(Path::new("/nowhere/at/all")), "/nowhere/at/all");
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let mut endless = weights(true);
    endless.flat[100] = f32::INFINITY;
    assert!(matches!(Model::new(&endless, spellings()), Err(LoadError::NotFinite)));
    let mut negative = weights(true);
    negative.running[1].var[3] = -1.0;
    assert!(matches!(Model::new(&negative, spellings()), Err(LoadError::NotFinite)));
}

#[test]
fn damaged_headers_are_errors_and_never_panics() {
    let dir = folder("", |bytes| bytes);
    let path = dir.path().join("model").join(checkpoint::MODEL_FILE);
    let whole = fs::read(&path).expect("the file");
    let stream = Stream::new(6, 0, Purpose::Bench, 0, 0);
    let mut refused = 0;
    for index in 0..300 {
        let [place, value, ..] = stream.block(index);
        let mut bytes = whole.clone();
        bytes[place as usize % 2000] = value.to_le_bytes()[0];
        fs::write(&path, bytes).expect("a writable file");
        refused += usize::from(Model::load(&dir.path().join("model")).is_err());
    }
    assert!(refused > 200, "only {refused} of 300 damaged headers were refused");
}
