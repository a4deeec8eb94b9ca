//! The command on a small model that has learnt nothing, and on exercises, which need no network.

use std::sync::Arc;

use clap::Parser;
use kapell_model::{TrainConfig, Trainer};
use kapell_music::exercises;

use super::*;
use crate::error::exit;
use crate::resolve::Local;

/// A folder with a model of the exercises, as training writes it.
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
    let corpus = exercises::corpus(exercises::SEED, exercises::PIECES).expect("the exercises");
    let trainer = Trainer::new(config, Arc::new(corpus)).expect("a trainer");
    trainer.save(&dir.path().join("model")).expect("a writable folder");
    dir
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: EvaluateArgs,
}

fn args(words: &[&str]) -> EvaluateArgs {
    let line = ["evaluate", "model"].iter().chain(words);
    Line::try_parse_from(line).expect("arguments of the contract").args
}

fn local(dir: &tempfile::TempDir) -> Local {
    Local { dir: dir.path().join("model"), label: "m:1".to_owned() }
}

fn evaluated(dir: &tempfile::TempDir, args: &EvaluateArgs, threads: usize) -> (Subject, Report) {
    let subject = Subject::load(&local(dir), args).expect("a subject");
    let tasks = plan::tasks(args);
    let likelihoods = likelihoods(&subject, threads).expect("known tokens");
    let outcomes = set_all(&subject, &tasks, threads);
    let report = Report::new(&subject, args, &likelihoods, &tasks, &outcomes, 1.0);
    if let Some(out) = &args.out {
        files::prepare(out).expect("a folder");
        files::write(out, &report, &subject, &likelihoods, &tasks, &outcomes).expect("files");
    }
    (subject, report)
}

fn refused(dir: &tempfile::TempDir, words: &[&str]) -> CliError {
    Subject::load(&local(dir), &args(words)).map(|_| ()).expect_err("refused")
}

#[test]
fn an_evaluation_has_likelihood_error_rates_and_counterpoint() {
    let dir = workplace();
    let (subject, report) = evaluated(&dir, &args(&["--pieces", "2", "--search", "greedy"]), 2);
    assert_eq!((subject.pieces.len(), report.pieces, report.on), (2, 2, "test"));
    let json = serde_json::to_value(&report).expect("JSON");
    let nats = |class: &str| json["by_voice"][class]["nats_per_frame"].as_f64().expect("a number");
    let classes = ["soprano", "alto", "tenor", "bass", "frame_end", "fermata"];
    let sum: f64 = classes.iter().map(|class| nats(class)).sum();
    assert!((sum - report.nats_per_frame).abs() < 1e-9);
    let asked: Vec<&str> = report.error_rates.iter().map(|view| view.asked.as_str()).collect();
    assert_eq!(asked, ["S", "A", "T", "B", "AT", "ATB", "SATB"]);
    assert!(report.error_rates.iter().all(|view| view.pieces == 2 && view.token_error_rate > 0.0));
    let settings: Vec<&str> = report.counterpoint.iter().map(|view| view.setting.as_str()).collect();
    assert_eq!(settings, ["corpus", "greedy, rules"]);
    // The exercises keep the rules of counterpoint; the model has learnt nothing.
    let faults =
        |at: usize| report.counterpoint[at].counts.parallel_fifths + report.counterpoint[at].counts.crossings;
    assert_eq!(faults(0), 0);
    assert!(report.remarks.is_empty(), "{:?}", report.remarks);
}

#[test]
fn figures_do_not_depend_on_the_number_of_threads() {
    let dir = workplace();
    let args = args(&["--pieces", "3", "--search", "greedy", "--no-rules"]);
    let figures = |threads: usize| serde_json::to_string(&evaluated(&dir, &args, threads).1).expect("JSON");
    assert_eq!(figures(1), figures(3));
}

#[test]
fn to_compare_is_to_set_the_melodies_in_six_ways() {
    let tasks = plan::tasks(&args(&["--compare"]));
    let ways: Vec<String> =
        tasks.iter().filter(|task| task.in_counterpoint).map(|task| task.way.name()).collect();
    assert_eq!(
        ways,
        [
            "beam 5, rules",
            "greedy, rules",
            "beam 5, rules, look-ahead 4",
            "greedy, no rules",
            "beam 5, no rules",
            "beam 5, no rules, look-ahead 4"
        ]
    );
    assert_eq!(tasks.iter().filter(|task| task.in_errors).count(), 7);
    let ahead = plan::tasks(&args(&["--compare", "--look-ahead", "3", "--no-rules"]));
    assert_eq!(ahead.iter().filter(|task| task.in_counterpoint).count(), 6);
}

#[test]
fn files_are_written_with_a_line_a_piece_and_setting() {
    let dir = workplace();
    let out = dir.path().join("a/b");
    let path = out.display().to_string();
    let args = args(&["--pieces", "1", "--search", "greedy", "--out", &path]);
    let (_, report) = evaluated(&dir, &args, 1);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).expect("a file");
    let whole: serde_json::Value = serde_json::from_str(&read("evaluation.json")).expect("JSON");
    assert_eq!(whole["tokens"], report.tokens);
    assert_eq!(read("pieces.jsonl").lines().count(), 1 + 7);
    assert_eq!(read("error_rates.csv").lines().count(), 1 + 7);
    assert!(read("counterpoint.csv").starts_with("per 100 chords,corpus,\"greedy, rules\"\n"));
    assert!(read("evaluation.md").contains("| ATB | S |"));
    let svg = read("evaluation.svg");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("SATB</text>"));
}

#[test]
fn a_corpus_that_is_not_the_models_is_told() {
    let dir = workplace();
    let config = dir.path().join("model/config.json");
    let text = std::fs::read_to_string(&config).expect("a file");
    let digest = exercises::corpus(exercises::SEED, exercises::PIECES).expect("the exercises").digest();
    std::fs::write(&config, text.replace(&digest, "sha256:0")).expect("a writable file");
    let other = refused(&dir, &[]);
    assert_eq!((other.exit, other.code.as_str()), (exit::USAGE, "corpus-mismatch"));
    assert!(other.hint.contains("--corpus exercises"), "{}", other.hint);
    let all_the_same = Subject::load(&local(&dir), &args(&["--corpus", "exercises"])).expect("a subject");
    assert!(all_the_same.remarks[0].contains("may have seen"), "{:?}", all_the_same.remarks);
    std::fs::write(&config, text.replace("\"exercises\"", "\"nobodys\"")).expect("a writable file");
    let missing = refused(&dir, &[]);
    assert_eq!((missing.exit, missing.code.as_str()), (exit::USAGE, "corpus-not-found"));
    assert!(missing.hint.contains("kapell corpus add nobodys DIR"), "{}", missing.hint);
}

#[test]
fn a_folder_without_a_model_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let error = refused(&dir, &[]);
    assert_eq!((error.exit, error.code.as_str()), (exit::USAGE, "not-found"));
}
