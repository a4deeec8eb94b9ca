//! The arguments of `kapell trial`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum TrialCommand {
    /// The trials of studies.
    #[command(
        after_help = "Example:\n  kapell trial list my-study --state complete --sort objective --limit 5 --filter layers=3"
    )]
    List(TrialListArgs),
    /// One trial: STUDY/NUMBER.
    #[command(after_help = "Example:\n  kapell trial show my-study/12 --json")]
    Show { trial: String },
    /// What its worker has written while it ran, the last 256 KiB; of an attempt that runs or was lost, too.
    #[command(
        after_help = "Examples:\n  kapell trial logs my-study/12 --attempt 1\n  kapell trial logs my-study/12 --follow"
    )]
    Logs {
        trial: String,
        /// Of this attempt; by default the newest.
        #[arg(long, value_name = "N", default_value_t = 0)]
        attempt: u32,
        /// Go on printing until the attempt ends.
        #[arg(long)]
        follow: bool,
    },
    /// Queue a FAILED or CANCELED trial again.
    #[command(after_help = "Example:\n  kapell trial retry my-study/12")]
    Retry { trial: String },
    /// Train a trial again on this machine and compare every epoch on record: losses and weights, to the last bit.
    #[command(after_help = REPRODUCE_HELP)]
    Reproduce(ReproduceArgs),
}

const REPRODUCE_HELP: &str = r#"Example:
  kapell trial reproduce my-study/12 --expect-digest sha256:... --json

Only what is on record is trained: of a trial that did not come to its end, the epochs that it measured. Ctrl-C stops it.

Exit codes: 0 the same bytes; 7 other bytes on the same numerics, losses that other numerics do not explain, or not
the expected digest; 4 recorded on other numerics (another instruction set or version), losses agree within
0.02 + 5%; 6 no epoch on record yet.

With --json an object an epoch, then the result:
  {"type":"epoch","epoch":1,"match":"same|close|far|differs","same_numerics":true,"attempt":1,
   "reproduced":{"train_loss":1.26,"val_loss":0.61,"weights_digest":"sha256:..."},"recorded":{...}}
  {"type":"result","trial":"my-study/12","decision":"reproduced|inconclusive|differs","exit_code":0,"epochs":6,"same":6,
   "reason":null,"numerics":"cpu-...","program_version":"...","recorded_numerics":["cpu-..."],
   "recorded_program_versions":["..."],"weights_digest":"sha256:...","best_weights_digest":"sha256:...",
   "expected_digest":null}"#;

#[derive(Debug, Args)]
pub(crate) struct ReproduceArgs {
    /// STUDY/NUMBER
    pub trial: String,
    /// The weights that the last or the best epoch must come to.
    #[arg(long, value_name = "D")]
    pub expect_digest: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TrialListArgs {
    #[arg(required = true)]
    pub study: Vec<String>,
    /// Only this state.
    #[arg(long, value_parser = ["queued", "running", "paused", "complete", "pruned", "failed", "canceled"], ignore_case = true)]
    pub state: Option<String>,
    /// number, objective, seconds, or an option's name.
    #[arg(long, value_name = "KEY", default_value = "number")]
    pub sort: String,
    /// Largest first.
    #[arg(long)]
    pub desc: bool,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub limit: u32,
    /// Only where an option has this value.
    #[arg(long, value_name = "OPTION=VALUE")]
    pub filter: Vec<String>,
}
