//! `--out DIR`: tables, a line a piece, and a plot.

use std::fs;
use std::path::Path;

use kapell_model::measure::Errors;
use kapell_model::measure::likelihood::{CLASSES, Likelihood};
use serde_json::{Map, json};

use super::plan::{Task, letters};
use super::report::{Report, counted};
use super::subject::Subject;
use super::{Set, plot, tables};
use crate::error::{CliError, file_error};

/// Makes the folder, before hours of work are spent for it.
pub(super) fn prepare(dir: &Path) -> Result<(), CliError> {
    fs::create_dir_all(dir).map_err(|e| file_error(dir, "make the folder", &e))
}

pub(super) fn write(
    dir: &Path,
    report: &Report,
    subject: &Subject,
    likelihoods: &[Likelihood],
    tasks: &[Task],
    outcomes: &[Vec<Set>],
) -> Result<(), CliError> {
    let [likelihood, errors, counterpoint] = tables::tables(report);
    let whole = serde_json::to_string_pretty(report).map_err(anyhow::Error::new)? + "\n";
    let files = [
        ("evaluation.json", whole),
        ("evaluation.md", tables::markdown(report)),
        ("evaluation.svg", plot::plot(report)),
        ("likelihood.csv", tables::csv(&likelihood)),
        ("error_rates.csv", tables::csv(&errors)),
        ("counterpoint.csv", tables::csv(&counterpoint)),
        ("pieces.jsonl", pieces(subject, likelihoods, tasks, outcomes)),
    ];
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|e| file_error(&path, "write", &e))?;
    }
    Ok(())
}

/// A line a piece, and one for each of its settings.
fn pieces(subject: &Subject, likelihoods: &[Likelihood], tasks: &[Task], outcomes: &[Vec<Set>]) -> String {
    let mut lines = String::new();
    for (place, (piece, likelihood)) in subject.pieces.iter().zip(likelihoods).enumerate() {
        let nats: Map<String, serde_json::Value> = CLASSES
            .iter()
            .zip(likelihood.by_class)
            .map(|(name, share)| ((*name).to_owned(), json!({"tokens": share.tokens, "nats": share.nats})))
            .collect();
        let own = json!({
            "piece": piece.name, "setting": "corpus", "frames": likelihood.frames, "tokens": likelihood.all.tokens,
            "nats": likelihood.all.nats, "by_voice": nats, "counts": counted(piece, &piece.frames),
        });
        lines.push_str(&format!("{own}\n"));
        for (task, sets) in tasks.iter().zip(outcomes) {
            let line = match &sets[place] {
                Ok(set) => json!({
                    "piece": piece.name, "setting": task.way.name(), "asked": letters(task.asked),
                    "frames": set.frames.len(), "tokens": set.tokens, "nats": -set.log_likelihood,
                    "errors": Errors::between(&piece.frames, &set.frames, task.asked),
                    "counts": counted(piece, &set.frames),
                }),
                Err(why) => json!({
                    "piece": piece.name, "setting": task.way.name(), "asked": letters(task.asked), "reason": why,
                }),
            };
            lines.push_str(&format!("{line}\n"));
        }
    }
    lines
}
