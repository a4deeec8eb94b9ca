//! Row 19: bugs put in on purpose, each of which must be caught. In the simulation here; in the real sources by
//! `teeth.py` beside this file, which the long form runs.

use kapell_dispatch::sim::{ALL_MIXTURES, Bug, run};

use crate::options::{Failure, Figure, Options};

/// Histories that a bug may take to show, of each mixture: most show within ten.
const SEEDS_MAX: u64 = 3_000;

pub(crate) fn run_row(options: &Options) -> Result<Figure, Failure> {
    let first = options.seed << 24;
    let mut slowest = (0, Bug::ALL[0]);
    for bug in Bug::ALL {
        let seeds = caught(bug, first).ok_or_else(|| {
            Failure(format!("{bug:?} is not caught by {SEEDS_MAX} histories of each mixture"))
        })?;
        if seeds >= slowest.0 {
            slowest = (seeds, bug);
        }
    }
    let n = Bug::ALL.len();
    let (seeds, bug) = slowest;
    let text = format!(
        "{n} of {n} seeded bugs caught in the simulation, the last ({bug:?}) after {seeds} histories"
    );
    if options.long {
        sources()?;
        return Ok(Figure::plain(format!("{text}; and all of teeth.py in the sources")));
    }
    Ok(Figure::plain(text))
}

/// How many histories it took to catch a bug.
fn caught(bug: Bug, first: u64) -> Option<u64> {
    let shows = |seed| ALL_MIXTURES.iter().any(|mixture| run(seed, mixture, Some(bug), false).is_err());
    (1..=SEEDS_MAX).find(|n| shows(first + n))
}

/// The bugs in the real sources: minutes each, since each is a build of its own.
fn sources() -> Result<(), Failure> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/promises/teeth.py");
    let status = std::process::Command::new("python3").arg(script).status();
    let status = status.map_err(|e| Failure(format!("python3 {script}: {e}")))?;
    if status.success() { Ok(()) } else { Err(Failure("a bug in the sources was not caught".into())) }
}
