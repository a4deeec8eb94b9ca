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
    let mut reports = Melody::read(args)?.harmonize(model_dir, model_label)?;
    assert_eq!(reports.len(), 1);
    Ok(reports.remove(0))
}

#[test]
fn every_built_in_melody_is_set_in_four_parts_and_kept() {
    let dir = workplace();
    for (name, _) in MELODIES {
        let files = ["musicxml", "mid", "txt"].map(|ending| dir.path().join(format!("{name}.{ending}")));
        let args = HarmonizeArgs::of_melody(name, files.to_vec());
        let report = harmonize(&args, &dir.path().join("model"), "m:1").expect("a score");
        assert_eq!((report.melody_kept, report.search, report.seed), (Some(true), SearchKind::Beam, None));
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
fn sound_and_pictures_are_written_by_the_ending_of_their_names() {
    let dir = workplace();
    let outputs = ["a.wav", "a.svg"].map(|name| dir.path().join(name)).to_vec();
    let args = HarmonizeArgs::of_melody("twinkle", outputs.clone());
    harmonize(&args, &dir.path().join("model"), "m:1").expect("a score");
    let begin = |path: &Path| fs::read(path).expect("a file")[..4].to_vec();
    assert_eq!((begin(&outputs[0]), begin(&outputs[1])), (b"RIFF".to_vec(), b"<svg".to_vec()));
}

#[test]
fn a_seed_makes_the_same_piece_again() {
    let dir = workplace();
    let piece = |name: &str, seed: u64| {
        let output = dir.path().join(name);
        let args = HarmonizeArgs {
            search: Some(SearchKind::Sample),
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
fn variations_are_the_draws_of_seeds_that_follow_each_other() {
    let dir = workplace();
    let path = |name: &str| dir.path().join(name);
    let args = HarmonizeArgs {
        variations: Some(3),
        seed: Some(7),
        ..HarmonizeArgs::of_melody("twinkle", vec![path("v.musicxml"), path("v.txt")])
    };
    let model = path("model");
    let reports = Melody::read(&args).and_then(|melody| melody.harmonize(&model, "m:1")).expect("scores");
    assert_eq!(reports.iter().map(|report| report.seed).collect::<Vec<_>>(), [Some(7), Some(8), Some(9)]);
    assert_eq!(reports[1].outputs, [path("v-2.musicxml"), path("v-2.txt")]);
    let alone = HarmonizeArgs {
        search: Some(SearchKind::Sample),
        seed: Some(8),
        ..HarmonizeArgs::of_melody("twinkle", vec![path("alone.txt")])
    };
    harmonize(&alone, &model, "m:1").expect("a score");
    assert_eq!(fs::read(path("alone.txt")).expect("a file"), fs::read(path("v-2.txt")).expect("a file"));
}

#[test]
fn any_voices_may_be_given_and_stay_as_they_are() {
    let dir = workplace();
    let model = dir.path().join("model");
    let four = dir.path().join("four.musicxml");
    let args = HarmonizeArgs::of_melody("old_hundredth", vec![four.clone()]);
    harmonize(&args, &model, "m:1").expect("a score");
    let melody = four.to_string_lossy().into_owned();
    for given in ["bass", "soprano,bass", "alto,tenor", "soprano,alto,tenor"] {
        let output = dir.path().join("again.musicxml");
        let args = HarmonizeArgs {
            given: given.split(',').map(Into::into).collect(),
            ..HarmonizeArgs::of_melody(&melody, vec![output])
        };
        let report = harmonize(&args, &model, "m:1").expect(given);
        assert_eq!(report.melody_kept, Some(true), "{given}");
    }
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
    check_error(run(|args| args.given = vec!["cantus".into()]), 2, "usage", "cantus");
    check_error(
        run(|args| args.given = "s,a,t,b".split(',').map(Into::into).collect()),
        2,
        "usage",
        "all four",
    );
    check_error(run(|args| args.given = vec!["soprano".into(), "bass".into()]), 2, "bad-melody", "bass");
    check_error(run(|args| args.phrases = Some("every:0".into())), 2, "usage", "every:0");
    check_error(run(|args| args.ranges = Some("60-81,53-74".into())), 2, "usage", "60-81,53-74");
    let beams = |args: &mut HarmonizeArgs| (args.search, args.variations) = (Some(SearchKind::Beam), Some(2));
    check_error(run(beams), 2, "usage", "--variations");
    check_error(run(|args| args.soundfont = Some("no.sf2".into())), 2, "io", "no.sf2");
    check_error(run(|args| args.soundfont = Some("Cargo.toml".into())), 2, "bad-soundfont", "Cargo.toml");
    check_error(run(|args| args.output = vec!["x.pdf".into()]), 2, "usage", ".musicxml");
    check_error(run(|args| args.output = vec!["x.mid".into(), "x.mid".into()]), 2, "usage", "twice");
    check_error(run(|args| args.output = vec!["no/such/folder/x.mid".into()]), 2, "io", "no/such/folder");
    check_error(run(|args| args.key = Some("H".into())), 2, "usage", "no key");
    check_error(run(|args| args.part = Some("Oboe".into())), 2, "bad-melody", "Soprano");
    let sampled = |args: &mut HarmonizeArgs| args.search = Some(SearchKind::Sample);
    let cold =
        |args: &mut HarmonizeArgs| (args.search, args.temperature) = (Some(SearchKind::Sample), Some(0.0));
    let none = |args: &mut HarmonizeArgs| (args.search, args.top_p) = (Some(SearchKind::Sample), Some(0.0));
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
