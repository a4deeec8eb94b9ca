//! The commands on real files, with a small model that has learnt nothing.

use std::sync::Arc;

use kapell_model::{TrainConfig, Trainer};
use kapell_music::exercises;

use super::*;

/// A folder with a model in `model`, as training writes it.
fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = TrainConfig {
        layers: 1,
        hidden: 12,
        embedding: 4,
        seq_len: 16,
        batch_size: 2,
        ..TrainConfig::default()
    };
    let corpus = exercises::corpus(1, 20).expect("some exercises");
    let trainer = Trainer::new(config, Arc::new(corpus)).expect("a trainer");
    trainer.save(&dir.path().join("model")).expect("a writable folder");
    dir
}

fn check_error(result: Result<PieceReport, MusicError>, exit: u8, code: &str, part: &str) {
    let error = result.map(|_| ()).expect_err(part);
    assert_eq!((error.exit_code(), error.code()), (exit, code), "{error}");
    assert!(error.to_string().contains(part), "{error} does not say {part:?}");
}

/// As the command does it.
fn harmonize(args: &HarmonizeArgs, model_dir: &Path, model_label: &str) -> Result<PieceReport, MusicError> {
    Melody::read(args)?.harmonize(model_dir, model_label)
}

#[test]
fn every_built_in_melody_is_set_in_four_parts_and_kept() {
    let dir = workplace();
    for (name, _) in MELODIES {
        let files = ["musicxml", "mid", "txt"].map(|ending| dir.path().join(format!("{name}.{ending}")));
        let args = HarmonizeArgs::of_melody(name, files.to_vec());
        let report = harmonize(&args, &dir.path().join("model"), "m:1").expect("a score");
        assert_eq!((report.melody_kept, report.search, report.seed), (Some(true), SearchKind::Greedy, None));
        let score = read_score(&fs::read(&files[0]).expect("a file"), name).expect("a score");
        let names: Vec<&str> = score.parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, decode::PART_NAMES);
        assert!(fs::read(&files[1]).expect("a file").starts_with(b"MThd"));
        let tokens = fs::read_to_string(&files[2]).expect("a file");
        assert_eq!(tokens.lines().count(), report.tokens + 1);
        assert!(tokens.starts_with("START\n") && tokens.ends_with("\nEND\n"));
    }
}

#[test]
fn a_report_has_the_fields_of_the_contract() {
    let dir = workplace();
    let output = dir.path().join("out.musicxml");
    let args = ComposeArgs { output: vec![output], seed: Some(4), ..ComposeArgs::default() };
    let report = compose(&args, &dir.path().join("model"), "m:1").expect("a score");
    let json = serde_json::to_value(&report).expect("JSON");
    let fields = [
        "output",
        "frames",
        "tokens",
        "log_likelihood",
        "nats_per_token",
        "melody_kept",
        "search",
        "seed",
        "model",
    ];
    for field in fields {
        assert!(json.get(field).is_some(), "{field} is missing");
    }
    assert_eq!(
        (&json["search"], &json["seed"], &json["model"]),
        (&"sample".into(), &4.into(), &"m:1".into())
    );
    assert!(json["melody_kept"].is_null());
    assert!(report.to_string().contains("seed 4"), "{report}");
}

#[test]
fn a_seed_makes_the_same_piece_again() {
    let dir = workplace();
    let piece = |name: &str, seed: u64| {
        let output = dir.path().join(name);
        let args = HarmonizeArgs {
            search: SearchKind::Sample,
            seed: Some(seed),
            ..HarmonizeArgs::of_melody("twinkle", vec![output.clone()])
        };
        harmonize(&args, &dir.path().join("model"), "m:1").expect("a score");
        fs::read(output).expect("a file")
    };
    assert_eq!(piece("a.musicxml", 7), piece("b.musicxml", 7));
    assert_ne!(piece("c.musicxml", 7), piece("d.musicxml", 8));
}

#[test]
fn wrong_arguments_say_what_would_be_right() {
    let dir = workplace();
    let model = dir.path().join("model");
    let twinkle = HarmonizeArgs::of_melody("twinkle", vec![dir.path().join("out.musicxml")]);
    let run = |change: fn(&mut HarmonizeArgs)| {
        let mut args = twinkle.clone();
        change(&mut args);
        harmonize(&args, &model, "m:1")
    };
    check_error(run(|args| args.melody = "no-such-tune".into()), 2, "not-found", "no-such-tune");
    check_error(run(|args| args.search = SearchKind::Beam), 2, "not-in-this-version", "beam");
    check_error(run(|args| args.output = vec!["x.wav".into()]), 2, "not-in-this-version", ".wav");
    check_error(run(|args| args.output = vec!["x.pdf".into()]), 2, "usage", ".musicxml");
    check_error(run(|args| args.output = vec!["x.mid".into(), "x.mid".into()]), 2, "usage", "twice");
    check_error(run(|args| args.output = vec!["no/such/folder/x.mid".into()]), 2, "io", "no/such/folder");
    check_error(run(|args| args.key = Some("H".into())), 2, "usage", "no key");
    check_error(run(|args| args.part = Some("Oboe".into())), 2, "bad-melody", "Soprano");
    let sampled = |args: &mut HarmonizeArgs| args.search = SearchKind::Sample;
    let cold = |args: &mut HarmonizeArgs| (args.search, args.temperature) = (SearchKind::Sample, Some(0.0));
    let none = |args: &mut HarmonizeArgs| (args.search, args.top_p) = (SearchKind::Sample, Some(0.0));
    assert!(run(sampled).is_ok());
    check_error(run(cold), 2, "usage", "--temperature");
    check_error(run(none), 2, "usage", "--top-p");
}

#[test]
fn models_and_melodies_that_cannot_be_read_say_why() {
    let dir = workplace();
    let model = dir.path().join("model");
    let twinkle = HarmonizeArgs::of_melody("twinkle", vec![dir.path().join("out.musicxml")]);
    check_error(harmonize(&twinkle, &dir.path().join("none"), "m:1"), 2, "not-found", "none");
    fs::write(model.join("vocab.json"), "[]").expect("a writable file");
    check_error(harmonize(&twinkle, &model, "m:1"), 7, "bad-model", "vocab.json");
    let melody = dir.path().join("melody.musicxml");
    fs::write(&melody, "<score-partwise><part-list").expect("a writable file");
    let path = melody.to_string_lossy().into_owned();
    let args = HarmonizeArgs { melody: path.clone(), ..twinkle.clone() };
    check_error(harmonize(&args, &model, "m:1"), 2, "bad-score", "melody.musicxml");
    fs::write(&melody, MELODIES[0].1).expect("a writable file");
    let over = HarmonizeArgs::of_melody(&path, vec![melody.clone()]);
    check_error(harmonize(&over, &model, "m:1"), 2, "usage", "never written over");
    assert_eq!(fs::read(&melody).expect("the melody"), MELODIES[0].1);
}
