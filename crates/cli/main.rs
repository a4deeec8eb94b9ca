//! `kapell`: arguments, wiring, output.

mod args;
mod backup;
mod bench;
mod corpus;
mod daemon;
mod doctor;
mod error;
mod estimate;
mod logging;
mod model;
mod music;
mod output;
mod paths;
mod progress;
mod resolve;
mod run;
mod serve;
mod study;
mod trial;
mod watch;
mod workers;

use std::process::ExitCode;

use args::{Command, Global};
use error::{CliError, exit};

/// What a command that did its work ends with: 0, or the contract's code for what it found.
type Outcome = Result<u8, CliError>;

fn main() -> ExitCode {
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error),
    };
    let json = cli.global.json;
    match dispatch(cli.command, &cli.global) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error, json);
            ExitCode::from(error.exit)
        }
    }
}

fn dispatch(command: Command, global: &Global) -> Outcome {
    kapell_model::select_kernels(&global.kernels).map_err(|e| {
        CliError::usage(e.to_string(), "leave out --kernels (or KAPELL_KERNELS) for the widest")
    })?;
    match command {
        Command::Run(args) => with_runtime(run::run(args, global)),
        Command::Coordinator(args) => with_runtime(daemon::coordinator(args, global)),
        Command::Doctor(args) => with_runtime(doctor::run(args, global)),
        Command::Worker(args) => with_runtime(daemon::worker(args, global)),
        Command::Workers { command } => with_runtime(workers::run(command, global)),
        Command::Study { command } => with_runtime(study::run(command, global)),
        Command::Trial { command } => with_runtime(trial::run(command, global)),
        Command::Model { command } => with_runtime(model::run(command, global)),
        Command::Harmonize(args) => resolve::harmonize(&args, global),
        Command::Compose(args) => resolve::compose(&args, global),
        Command::Serve(args) => with_runtime(serve::run(args, global)),
        Command::Corpus { command } => Ok(corpus::run(command, global.json).map(|()| 0)?),
        Command::Bench { command } => with_runtime(bench::run(command, global)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut args::command(), "kapell", &mut std::io::stdout().lock());
            Ok(0)
        }
    }
}

/// The coordinator's client; connects when first used.
fn connect(global: &Global) -> Result<kapell_rpc::Client, CliError> {
    Ok(kapell_rpc::Client::connect(&global.coordinator, None)?)
}

fn with_runtime<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| {
        CliError::new(exit::UNEXPECTED, "io", format!("cannot start the event loop: {e}"), "")
    })?;
    let result = runtime.block_on(work);
    // What still runs then was left on purpose: a download after Ctrl-C.
    runtime.shutdown_background();
    result
}

/// Tells an error: prose for people, one JSON object for scripts.
fn report(error: &CliError, json: bool) {
    if json {
        output::remark(error.to_json().to_string());
    } else if error.exit == exit::INTERRUPTED {
        output::remark(&error.hint);
    } else {
        output::remark(format!("error: {}", error.message));
        if !error.hint.is_empty() {
            output::remark(format!("hint: {}", error.hint));
        }
    }
}

fn usage_error(error: &clap::Error) -> ExitCode {
    let variable = std::env::var("KAPELL_JSON").is_ok_and(|v| v == "true" || v == "1");
    let json = variable || std::env::args_os().any(|a| a == "--json");
    if error.use_stderr() && json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        report(&CliError::usage(message, "see kapell --help"), true);
        return ExitCode::from(exit::USAGE);
    }
    // Nobody is left to tell where the terminal is gone.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS }
}
