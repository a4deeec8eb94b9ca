//! Runs simulated histories: `simulate --seeds 100000 [--start S] [--mixture NAME]`, or one again: `--seed N --trace`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the command line")]

use std::process::ExitCode;
use std::time::Instant;

use kapell_dispatch::sim::{ALL_MIXTURES, Bug, Counts, Mixture, run};

struct Args {
    seeds: u64,
    start: u64,
    mixture: Mixture,
    bug: Option<Bug>,
    trace: bool,
}

fn args() -> Result<Args, String> {
    let mut args = Args { seeds: 10_000, start: 0, mixture: Mixture::ALL, bug: None, trace: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
        match word.as_str() {
            "--seeds" => args.seeds = number(value()?)?,
            "--start" => args.start = number(value()?)?,
            "--seed" => (args.start, args.seeds) = (number(value()?)?, 1),
            "--trace" => args.trace = true,
            "--mixture" => {
                let name = value()?;
                let found = ALL_MIXTURES.into_iter().find(|m| m.name == name);
                args.mixture = found.ok_or(format!("there is no mixture {name}"))?;
            }
            "--bug" => {
                let name = value()?;
                let found = Bug::ALL.into_iter().find(|b| format!("{b:?}") == name);
                args.bug = Some(found.ok_or(format!("there is no bug {name}: {:?}", Bug::ALL))?);
            }
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let begun = Instant::now();
    let mut counts = Counts::default();
    for seed in args.start..args.start.saturating_add(args.seeds) {
        match run(seed, &args.mixture, args.bug, args.trace) {
            Ok(met) => counts += met,
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    let elapsed_s = begun.elapsed().as_secs_f64();
    println!("{counts}");
    println!(
        "{:.1} s, {:.0} seeds a minute, {} events a seed",
        elapsed_s,
        60.0 * args.seeds as f64 / elapsed_s,
        counts.events / args.seeds.max(1)
    );
    ExitCode::SUCCESS
}
