//! The command line, as clap sees it. Commands, flags and exit codes are a contract: others script against it.

mod bench;
mod evaluate;
mod operations;
mod serve;
mod trial;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::logging::LogFormat;
use crate::{corpus, music};
pub(crate) use bench::{BenchDispatchArgs, BenchTrainArgs};
pub(crate) use evaluate::{EvaluateArgs, EvaluateSearch};
use operations::DOCTOR_HELP;
pub(crate) use operations::{CoordinatorCommand, DoctorArgs};
use serve::SERVE_HELP;
pub(crate) use serve::ServeArgs;
pub(crate) use trial::{ReproduceArgs, TrialCommand, TrialListArgs};
use values::{byte_size, duration};

#[derive(Debug, Parser)]
#[command(
    name = "kapell",
    version,
    about = "Distributed hyperparameter search for LSTM language models, and four-part harmonisation",
    after_help = "Start here:\n  kapell run                      search, promote and harmonise on this machine\n  kapell study schema             every key of a study file"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Where the coordinator listens.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:7070",
        help_heading = "Global options"
    )]
    pub coordinator: String,
    /// Print JSON, one object a line; errors too, on standard error.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Instruction set to compute with: auto (the widest), portable, avx2 or avx512.
    #[arg(long, global = true, default_value = "auto", value_name = "SET", help_heading = "Global options")]
    pub kernels: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole search on this machine: coordinator, workers, promotion, a harmonised melody.
    #[command(
        after_help = "Examples:\n  kapell run                      the demo: eight trials on Bach's chorales\n  kapell run my-study.toml --workers 2"
    )]
    Run(RunArgs),
    /// Run the coordinator: it keeps the studies and hands out trials.
    #[command(
        after_help = "Examples:\n  kapell coordinator --data-dir /var/lib/kapell --listen 0.0.0.0:7070\n  kapell coordinator backup /backups/kapell"
    )]
    Coordinator(CoordinatorArgs),
    /// Look for damage in a data folder, and mend it.
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Run a worker: it leases trials from the coordinator and trains them.
    #[command(after_help = "Example:\n  kapell worker --coordinator http://head:7070")]
    Worker(WorkerArgs),
    /// See and steer the workers.
    #[command(after_help = "Example:\n  kapell workers list")]
    Workers {
        #[command(subcommand)]
        command: WorkersCommand,
    },
    /// Create, follow and steer studies.
    #[command(after_help = "Example:\n  kapell study create examples/bachbot-table-1.toml --dry-run")]
    Study {
        #[command(subcommand)]
        command: StudyCommand,
    },
    /// See trials and try failed ones again.
    #[command(after_help = "Example:\n  kapell trial list my-study --sort objective --limit 10")]
    Trial {
        #[command(subcommand)]
        command: TrialCommand,
    },
    /// Promote the best checkpoint, and get models out.
    #[command(after_help = "Example:\n  kapell model promote my-study --max-val-loss 0.45")]
    Model {
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// Set a melody in four parts.
    #[command(
        after_help = "Examples:\n  kapell harmonize twinkle\n  kapell harmonize hymn.musicxml -o hymn-satb.musicxml --model demo@champion"
    )]
    Harmonize(music::HarmonizeArgs),
    /// Compose a piece from nothing.
    #[command(after_help = "Example:\n  kapell compose -o new.musicxml --temperature 0.9 --seed 7")]
    Compose(music::ComposeArgs),
    /// Serve the promoted model: HTTP for programs, a page for people.
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// See, fetch and add corpora. Works without a coordinator.
    #[command(
        after_help = "Examples:\n  kapell corpus show chorales\n  kapell corpus add hymns ~/scores/hymns"
    )]
    Corpus {
        #[command(subcommand)]
        command: corpus::CorpusCommand,
    },
    /// Measure this machine.
    #[command(
        after_help = "Example:\n  kapell bench train --layers 3 --hidden 256 --threads 2 --steps 8 --json"
    )]
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  kapell completions bash > /etc/bash_completion.d/kapell")]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// The study file; without it, the built-in demo.
    pub study: Option<PathBuf>,
    /// Worker processes, which share the cores; by default one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: Option<u32>,
    /// Where everything is kept.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Override a key of the study file, for example epochs=2 or layers=[1,2].
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// How the logs under DIR/logs are written: text, or a JSON object a line.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    #[command(subcommand)]
    pub command: Option<CoordinatorCommand>,
    /// Where everything is kept; a local disk, never a network file system.
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Where workers and clients connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// How long a lease lives without a heartbeat.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub lease: Duration,
    /// How often workers beat.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub heartbeat: Duration,
    /// How long running attempts are left alone after the coordinator's own restart.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub outage_grace: Duration,
    /// Below this much free disk no work is handed out.
    #[arg(long, default_value = "10GiB", value_parser = byte_size)]
    pub min_free: u64,
    /// Connections at once; a worker has up to three. Others are told to come back later.
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    pub max_connections: usize,
    /// How the log is written: text, or a JSON object a line (as with --json).
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Its name; by default the host's.
    #[arg(long)]
    pub name: Option<String>,
    /// auto or cpu.
    #[arg(long, default_value = "auto", value_parser = ["auto", "cpu"])]
    pub device: String,
    /// Trials at once, which share the cores; by default what trains fastest, measured once. Never more than cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    /// Use no more than so many cores; by default all that this process may use.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub cores: Option<u32>,
    /// Corpora, checkpoints and unsent measurements are kept here.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Serve only this study.
    #[arg(long, value_name = "ID")]
    pub study: Option<String>,
    /// Leave when there has been no work for this long.
    #[arg(long, value_name = "D", value_parser = duration)]
    pub exit_when_idle: Option<Duration>,
    /// Leave after this long, as if told to.
    #[arg(long, value_name = "D", value_parser = duration)]
    pub max_runtime: Option<Duration>,
    /// On leaving, how long to take for checkpoints.
    #[arg(long, value_name = "D", default_value = "20s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// How the log is written: text, or a JSON object a line (as with --json).
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// End with the process that started this one.
    #[arg(long, hide = true)]
    pub die_with_parent: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// All workers that the coordinator knows.
    #[command(after_help = "Example:\n  kapell workers list --json")]
    List,
    /// One worker.
    #[command(after_help = "Example:\n  kapell workers show node-3")]
    Show { name: String },
    /// Give it no new work.
    #[command(after_help = "Example:\n  kapell workers cordon node-3")]
    Cordon { name: String },
    /// Give it work again, also after a quarantine.
    #[command(after_help = "Example:\n  kapell workers uncordon node-3")]
    Uncordon { name: String },
    /// Let it checkpoint, release what it holds, and leave.
    #[command(after_help = "Example:\n  kapell workers drain node-3")]
    Drain { name: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StudyCommand {
    /// Create a study from a file and expand its grid.
    #[command(
        after_help = "Example:\n  kapell study create grid.toml --set epochs=10 --tag git_sha=$(git rev-parse HEAD) --wait"
    )]
    Create(CreateArgs),
    /// All studies.
    #[command(after_help = "Example:\n  kapell study list --json")]
    List,
    /// One study, its coverage, its best trial and its failures.
    #[command(after_help = "Example:\n  kapell study show my-study --json")]
    Show { study: String },
    /// Follow a study until it ends. Exit code 3 if trials FAILED, 4 if it was canceled.
    #[command(after_help = "Example:\n  kapell study watch my-study --json --after 1200")]
    Watch {
        study: String,
        /// Only events after this sequence number.
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: u64,
    },
    /// Stop handing out trials; running ones checkpoint and wait.
    #[command(after_help = "Example:\n  kapell study pause my-study")]
    Pause { study: String },
    /// Go on with a paused study.
    #[command(after_help = "Example:\n  kapell study resume my-study")]
    Resume { study: String },
    /// End a study; running trials stop within seconds.
    #[command(after_help = "Example:\n  kapell study cancel my-study")]
    Cancel { study: String },
    /// Remove a study that is not active, its trials, and checkpoints that nothing else needs.
    #[command(after_help = "Example:\n  kapell study delete my-study")]
    Delete { study: String },
    /// Every key of a study file with its default.
    #[command(after_help = "Example:\n  kapell study schema > my-study.toml")]
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The study file, or - for standard input.
    pub file: PathBuf,
    /// Say what would be created: trials, parameters, time and disk.
    #[arg(long)]
    pub dry_run: bool,
    /// Follow it until it ends.
    #[arg(long)]
    pub wait: bool,
    /// Override a key of the file, for example epochs=2 or layers=[1,2].
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Add a tag.
    #[arg(long = "tag", value_name = "K=V")]
    pub tag: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Make the best trial's checkpoint (or another's) a version, and point an alias at it.
    #[command(
        after_help = "Example, for CI:\n  kapell model promote my-study --max-val-loss 0.45 --expect-generation 3 --json\nExit codes: 0 promoted or already so, 3 a gate said no, 5 lost a race, 6 the study is not done"
    )]
    Promote(PromoteArgs),
    /// All versions of all models.
    #[command(after_help = "Example:\n  kapell model list")]
    List,
    /// One version: NAME, NAME@ALIAS, NAME:VERSION, a digest, or a bare alias.
    #[command(after_help = "Example:\n  kapell model show my-study@champion --lineage")]
    Show {
        #[arg(value_name = "REF")]
        model: String,
        /// Back to data, configuration, code and every attempt.
        #[arg(long)]
        lineage: bool,
    },
    /// What its aliases pointed at, and when.
    #[command(after_help = "Example:\n  kapell model history my-study")]
    History {
        #[arg(value_name = "REF")]
        model: String,
    },
    /// Measure a model on held-out pieces: nats by voice, wrong notes, counterpoint beside the composer's.
    #[command(
        after_help = "Examples:\n  kapell model evaluate demo@champion --on test\n  kapell model evaluate ./champion --on val --search greedy --pieces 5 --json\n  kapell model evaluate demo@champion --compare --out results\nThe corpus that the model was trained on must be in this machine's library; see `kapell corpus list`."
    )]
    Evaluate(EvaluateArgs),
    /// Copy a version's files into a folder.
    #[command(after_help = "Example:\n  kapell model pull my-study@champion ./champion")]
    Pull {
        #[arg(value_name = "REF")]
        model: String,
        dir: PathBuf,
    },
    /// Read all of a version's bytes and compare them with its digest.
    #[command(after_help = "Example:\n  kapell model verify my-study:2")]
    Verify {
        #[arg(value_name = "REF")]
        model: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    pub study: String,
    /// This trial's number, instead of the best.
    #[arg(long, value_name = "T")]
    pub trial: Option<u32>,
    /// The model's name; by default the study's.
    #[arg(long)]
    pub name: Option<String>,
    #[arg(long, default_value = "champion")]
    pub alias: String,
    /// Refuse a validation loss above this, in nats per token.
    #[arg(long, value_name = "X")]
    pub max_val_loss: Option<f64>,
    /// Only if the alias is at this generation (0: it does not exist yet).
    #[arg(long, value_name = "N")]
    pub expect_generation: Option<u64>,
    /// Only if the alias points at the version of this digest now.
    #[arg(long, value_name = "D")]
    pub expect_digest: Option<String>,
    /// Accept a study with FAILED, CANCELED or unfinished trials.
    #[arg(long)]
    pub allow_partial: bool,
    /// Decide, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until the study is done.
    #[arg(long)]
    pub wait: bool,
    /// With --wait, for how long.
    #[arg(long, value_name = "D", value_parser = duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Time whole training updates: forward, loss, backward, clip, optimiser.
    #[command(
        after_help = "Example:\n  kapell bench train --layers 3 --hidden 256 --embedding 32 --seq-len 128 --batch 50 --dropout 0.3 --threads 2 --steps 8 --json"
    )]
    Train(BenchTrainArgs),
    /// Run trials that do nothing through the real gRPC service and the real on-disk store.
    #[command(after_help = "Example:\n  kapell bench dispatch --trials 8640 --workers 2 --reports 30 --json")]
    Dispatch(BenchDispatchArgs),
}

/// Reads the command line; every flag may come from `KAPELL_<FLAG>` instead.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
}

/// The whole command, with an environment variable on every flag.
pub(crate) fn command() -> clap::Command {
    with_environment(Cli::command())
}

fn with_environment(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_long() {
        Some(long) if !matches!(long, "help" | "version") => {
            let name = format!("KAPELL_{}", long.to_uppercase().replace('-', "_"));
            arg.env(name).hide_env(true)
        }
        _ => arg,
    });
    command.mut_subcommands(with_environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_every_flag_has_its_variable() {
        command().debug_assert();
        fn check(command: &clap::Command) {
            for arg in command
                .get_arguments()
                .filter(|a| a.get_long().is_some_and(|l| l != "help" && l != "version"))
            {
                let long = arg.get_long().map(|l| l.to_uppercase().replace('-', "_"));
                assert_eq!(
                    arg.get_env().and_then(|e| e.to_str()),
                    long.map(|l| format!("KAPELL_{l}")).as_deref()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("kapell "), "{} shows no example", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }
}
