//! The flags of `kapell bench`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct BenchTrainArgs {
    #[arg(long, default_value_t = 3)]
    pub layers: usize,
    #[arg(long, default_value_t = 256)]
    pub hidden: usize,
    #[arg(long, default_value_t = 32)]
    pub embedding: usize,
    #[arg(long, default_value_t = 128)]
    pub seq_len: usize,
    #[arg(long, default_value_t = 50)]
    pub batch: usize,
    #[arg(long, default_value_t = 0.3)]
    pub dropout: f64,
    /// Threads; by default one a core.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Timed updates, after two that are not.
    #[arg(long, default_value_t = 8)]
    pub steps: usize,
    /// With batch normalisation.
    #[arg(long)]
    pub batch_norm: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BenchDispatchArgs {
    /// Trials of the study.
    #[arg(long, default_value_t = 8640, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub trials: u64,
    /// Workers, each of which asks, reports and finishes as a real one does.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub workers: u32,
    /// Measurements that a trial reports.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub reports: u32,
    /// Trials that a worker has at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub slots: u32,
    /// Stop after so many trials; the others stay in the queue.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Keep every trial for so long, with heartbeats as usual; the workers' first requests are spread over it.
    #[arg(long, value_name = "D", default_value = "0s", value_parser = super::values::duration)]
    pub hold: std::time::Duration,
    /// Where the store is made for the time of the measurement; by default beside the data folder, on its disk.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
