//! `kapell bench train`: how fast this machine trains.

use kapell_model::{GradClip, LrDecay, TrainConfig, bench};

use crate::args::BenchTrainArgs;
use crate::error::CliError;
use crate::output;

pub(super) fn train(args: &BenchTrainArgs, json: bool) -> Result<(), CliError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = TrainConfig {
        layers: args.layers,
        hidden: args.hidden,
        embedding: args.embedding,
        seq_len: args.seq_len,
        batch_size: args.batch,
        dropout: args.dropout,
        batch_norm: args.batch_norm,
        learning_rate: 2e-3,
        lr_decay: LrDecay { every: 1, factor: 1.0, reset_moments: false },
        grad_clip: GradClip::Norm(5.0),
        epochs: 1,
        seed: 1,
        replicate: 0,
        threads: args.threads.unwrap_or(cores),
    };
    let bad = |e: kapell_model::ConfigError| CliError::usage(e.to_string(), "see kapell bench train --help");
    let report = bench::train(&config, args.steps).map_err(bad)?;
    if json {
        output::json(&report);
    } else {
        output::line(format!("{:.0} tokens/s", report.tokens_per_s));
        let ms = &report.ms_per_step;
        output::line(format!("{:.1} ms an update (min {:.1}, max {:.1})", ms.median, ms.min, ms.max));
        let share = 100.0 * report.gflops / report.peak_gflops;
        output::line(format!(
            "{:.1} GFLOP/s, {share:.0}% of the {:.1} of a large matrix product",
            report.gflops, report.peak_gflops
        ));
        output::line(format!(
            "{} kernels; {:.0} MB for a trial",
            report.kernels,
            f64::from(u32::try_from(report.memory_bytes >> 10).unwrap_or(u32::MAX)) * 1024.0 / 1e6
        ));
    }
    Ok(())
}
