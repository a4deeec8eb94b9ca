//! Rows 3, 5, 8 and 10 by the thousand: histories of the coordinator's decisions, simulated, each drawn from its seed.

use std::num::NonZero;

use kapell_dispatch::sim::{Counts, Row, run_row};

use crate::options::{Failure, Figure, Options};

/// Histories of the short form: seconds a row.
const SHORT: u64 = 5_000;

pub(crate) fn stale(options: &Options) -> Result<Figure, Failure> {
    let (tries, met) = simulate(options, &Row::STALE, 1_000_000)?;
    let text = format!("0 stale writes took effect in {tries} schedules ({} tried)", met.stale_writes);
    Ok(Figure::zero_in(tries, text))
}

pub(crate) fn deaths(options: &Options) -> Result<Figure, Failure> {
    // The promise counts deaths: a history has several.
    let (tries, met) = simulate(options, &Row::DEATHS, 20_000)?;
    let text = format!("0 trials stuck behind {} deaths in {tries} schedules", met.deaths);
    Ok(Figure::zero_in(met.deaths, text))
}

pub(crate) fn jumps(options: &Options) -> Result<Figure, Failure> {
    let (tries, met) = simulate(options, &Row::CLOCKS, 100_000)?;
    let text = format!("0 early expiries behind {} jumps in {tries} schedules", met.jumps);
    Ok(Figure::zero_in(met.jumps, text))
}

pub(crate) fn network(options: &Options) -> Result<Figure, Failure> {
    let (tries, met) = simulate(options, &Row::PARTITIONS, 100_000)?;
    let faults = met.dropped + met.duplicated + met.late + met.cuts + met.half_open;
    let text = format!("0 broken invariants in {tries} schedules of {faults} faults, {} steps", met.events);
    Ok(Figure::zero_in(tries, text))
}

/// Runs a row's histories on all cores. The seed of the run is where they begin.
fn simulate(options: &Options, row: &Row, long: u64) -> Result<(u64, Counts), Failure> {
    let tries = options.tries(SHORT, long);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let share = tries.div_ceil(cores);
    let first = options.seed << 24;
    let parts: Vec<_> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..cores)
            .map(|n| (first + n * share, share.min(tries.saturating_sub(n * share))))
            .filter(|(_, n)| *n > 0)
            .map(|(start, n)| scope.spawn(move || run_row(row, start..start + n, None)))
            .collect();
        parts.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut met = Counts::default();
    for part in parts {
        let part = part.map_err(|_| Failure("the simulation panicked".into()))?;
        met += part.map_err(|failure| Failure(failure.to_string()))?;
    }
    Ok((tries, met))
}
