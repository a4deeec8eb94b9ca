//! What a study would cost: trials, parameters, time and disk, before any of it is spent.

use kapell_model::{bench, parameter_count};
use kapell_music::corpus::{Corpus, PartOfSplit};
use kapell_search::{Config, StudySpec};
use kapell_worker::training::train_config;

use crate::error::CliError;
use crate::output;

/// Bytes of a parameter, f32.
const PARAMETER_BYTES: u64 = 4;
/// Copies of the parameters in a finished trial's two checkpoints: the best with its moments, the last with its.
const COPIES: u64 = 6;

/// The work of one trial, in floating-point operations.
pub(crate) fn trial_flop(config: &Config, vocabulary: usize, tokens: usize) -> f64 {
    let train = train_config(config, 0, 1);
    bench::flops_per_token(&train, vocabulary) * tokens as f64 * f64::from(train.epochs)
}

/// Prints the estimate. Time comes from a short measurement of the trial in the middle of the grid on this machine.
pub(crate) fn print(spec: &StudySpec, corpus: &Corpus, json: bool) -> Result<(), CliError> {
    let vocabulary = corpus.vocabulary.len();
    let tokens: usize =
        corpus.pieces.iter().filter(|p| p.part == PartOfSplit::Train).map(|p| p.tokens.len()).sum();
    let (mut least, mut most, mut bytes, mut flop) = (u64::MAX, 0, 0_u64, 0.0);
    for planned in spec.expand() {
        let config = train_config(&planned.config, planned.replicate, 1);
        let parameters = parameter_count(&config, vocabulary);
        least = least.min(parameters);
        most = most.max(parameters);
        bytes = bytes.saturating_add(parameters.saturating_mul(PARAMETER_BYTES * COPIES));
        flop += trial_flop(&planned.config, vocabulary, tokens);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let flops = measured_flops(&spec.planned(u32::try_from(spec.trials() / 2 + 1).unwrap_or(1)).config)?
        * cores as f64;
    // Starting and evaluating take their time, too.
    let seconds = (flop / flops).max(1.0);
    if json {
        output::json(&serde_json::json!({
            "study": spec.name, "corpus": corpus.name, "trials": spec.trials(), "parameters": {"min": least, "max": most},
            "train_tokens": tokens, "flop": flop, "seconds": seconds, "cores": cores, "disk_bytes": bytes,
        }));
        return Ok(());
    }
    let axes: Vec<String> =
        spec.space.axes.iter().map(|a| format!("{} {}", a.values.len(), a.name)).collect();
    output::line(format!(
        "{} would have {} trials ({} x {} replicates)",
        spec.name,
        spec.trials(),
        axes.join(" x "),
        spec.replicates
    ));
    output::line(format!("  parameters  {least} to {most}"));
    output::line(format!(
        "  corpus      {} ({tokens} training tokens, {vocabulary} in the vocabulary)",
        corpus.name
    ));
    output::line(format!(
        "  time        about {} on this machine's {cores} cores ({flop:.1e} FLOP at {:.0} GFLOP/s)",
        output::seconds(seconds),
        flops / 1e9
    ));
    output::line(format!(
        "  disk        about {}, best and last checkpoint of each trial",
        output::bytes(bytes)
    ));
    output::line("nothing was created; leave out --dry-run to create it");
    Ok(())
}

/// Floating-point operations a second of one core in training.
fn measured_flops(config: &Config) -> Result<f64, CliError> {
    let middle = train_config(config, 0, 1);
    let report = bench::train(&middle, 1).map_err(|e| CliError::from(anyhow::Error::new(e)))?;
    Ok(report.gflops * 1e9)
}
