//! What is promised, row by row, each proven with a figure: `cargo test --release --test promises -- --help`.
#![expect(clippy::print_stdout, reason = "a program that prints its figures")]

mod backup;
mod clocks;
mod dice;
mod disk;
mod faults;
mod full_disk;
mod fuzz;
mod giant;
mod house;
mod inside;
mod kills;
mod options;
mod outage;
mod partitions;
mod power;
mod recovery;
mod simulated;
mod stalls;
mod syncs;
mod teeth;
mod uploads;

use std::alloc::System;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use options::{Asked, Failure, Figure, Options, USAGE};

/// Counts, for the promises that bound memory.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A promise and what proves it.
struct Row {
    /// Of the table in README.md. Two rows may prove one promise in different ways.
    number: u32,
    name: &'static str,
    promise: &'static str,
    run: fn(&Options) -> Result<Figure, Failure>,
}

const ROWS: &[Row] = &[
    Row { number: 1, name: "kills", promise: "no acknowledged result is lost", run: kills::run },
    Row { number: 2, name: "power", promise: "it survives power loss", run: power::run },
    Row { number: 2, name: "syncs", promise: "it asks the system to sync", run: syncs::run },
    Row { number: 3, name: "stalls", promise: "a stale worker never wins", run: stalls::run },
    Row { number: 3, name: "stale", promise: "a stale worker never wins, simulated", run: simulated::stale },
    Row { number: 4, name: "outage", promise: "workers ride out the coordinator's death", run: outage::run },
    Row { number: 5, name: "deaths", promise: "no job is stuck, simulated", run: simulated::deaths },
    Row { number: 7, name: "recovery", promise: "fast recovery", run: recovery::run },
    Row { number: 8, name: "clocks", promise: "clocks do not matter", run: clocks::run },
    Row { number: 8, name: "jumps", promise: "clocks do not matter, simulated", run: simulated::jumps },
    Row { number: 9, name: "full-disk", promise: "a full disk is clean", run: full_disk::run },
    Row { number: 9, name: "faults", promise: "a disk that is full or fails is clean", run: faults::run },
    Row { number: 10, name: "partitions", promise: "partitions heal", run: partitions::run },
    Row { number: 10, name: "network", promise: "partitions heal, simulated", run: simulated::network },
    Row { number: 11, name: "uploads", promise: "uploads resume exactly", run: uploads::run },
    Row { number: 12, name: "giant", promise: "a giant grid is refused", run: giant::run },
    Row { number: 13, name: "fuzz", promise: "parsers never panic", run: fuzz::run },
    Row { number: 15, name: "backup", promise: "backups restore", run: backup::run },
    Row { number: 19, name: "teeth", promise: "the tests have teeth", run: teeth::run_row },
];

fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Asked::Run(options)) => options,
        Ok(Asked::Help) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Asked::List) => {
            ROWS.iter().for_each(|row| println!("{}: test", row.name));
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            println!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let rows: Vec<&Row> = ROWS.iter().filter(|row| options.wants(row.number, row.name)).collect();
    println!("\nrunning {} of {} promises, seed {}", rows.len(), ROWS.len(), options.seed);
    let begun = Instant::now();
    let failed: Vec<&str> = rows.iter().filter(|row| !proves(row, &options)).map(|row| row.name).collect();
    let verdict = if failed.is_empty() { "ok".to_owned() } else { format!("FAILED: {}", failed.join(", ")) };
    println!("promises: {verdict} in {:.1} s\n", begun.elapsed().as_secs_f64());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a row and prints its line; false if the promise did not hold.
fn proves(row: &Row, options: &Options) -> bool {
    let begun = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (row.run)(options)));
    let took = begun.elapsed().as_secs_f64();
    let head = format!("row {:<3} {:<10} {}", row.number, row.name, row.promise);
    let failure = match result {
        Ok(Ok(figure)) => {
            println!("{head}: {figure} [{took:.1} s]");
            return true;
        }
        Ok(Err(failure)) => failure.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
        }
    };
    println!("{head}: FAILED [{took:.1} s]\n{failure}");
    println!("again: cargo test --release --test promises -- {} {}", row.name, options.replay());
    false
}
