//! A giant grid is refused before anything of it is made; a large one is taken.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use kapell_coordinator::{Config, start};
use kapell_rpc::{REASON_KEY, reason};
use kapell_search::StudySpec;
use stats_alloc::Region;

use crate::ALLOCATOR;
use crate::house;
use crate::inside::hand::{CORPUS, Hand};
use crate::options::{Failure, Figure, Options};

const REFUSED_MAX: Duration = Duration::from_millis(10);
const REFUSED_BYTES_MAX: usize = 1 << 20;
const TAKEN_MAX: Duration = Duration::from_secs(10);
const SHORT_TRIALS: u64 = 100_000;
const LONG_TRIALS: u64 = 1_000_000;

/// The dimensions of a grid: values of `hidden`, and so on.
type Grid<'a> = [(&'a str, u64, fn(u64) -> String)];

fn whole(n: u64) -> String {
    n.to_string()
}

fn tenth(n: u64) -> String {
    format!("{:.6}", n.to_string().parse::<f64>().unwrap_or(0.0) * 1e-6)
}

/// 10^12 combinations: 100 values six times.
const GIANT: &Grid<'_> = &[
    ("hidden", 100, whole),
    ("embedding", 100, whole),
    ("seq_len", 100, whole),
    ("batch_size", 100, whole),
    ("dropout", 100, tenth),
    ("learning_rate", 100, tenth),
];

fn spec(name: &str, grid: &Grid<'_>) -> Result<String> {
    let mut text = format!("name = \"{name}\"\ncorpus = \"exercises\"\n[train]\nepochs = 3\n[space]\n");
    for (option, values, spell) in grid {
        let values: Vec<String> = (1..=*values).map(spell).collect();
        writeln!(text, "{option} = [{}]", values.join(", "))?;
    }
    Ok(text)
}

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let runtime = house::runtime()?;
    let (refused, bytes) = refuse()?;
    let trials = options.tries(SHORT_TRIALS, LONG_TRIALS);
    let (taken, whole) = runtime.block_on(take(trials))?;
    Ok(Figure::plain(format!(
        "10^12 combinations refused in {:.2} ms and {} KiB; {trials} trials taken in {:.3} s, all of them expanded \
         after {:.2} s",
        refused.as_secs_f64() * 1e3,
        bytes >> 10,
        taken.as_secs_f64(),
        whole.as_secs_f64()
    )))
}

/// Time and allocated bytes of the refusal.
fn refuse() -> Result<(Duration, usize)> {
    let text = spec("giant", GIANT)?;
    let region = Region::new(ALLOCATOR);
    let begun = Instant::now();
    let refused = StudySpec::parse(&text);
    let took = begun.elapsed();
    let bytes = region.change().bytes_allocated;
    let Err(errors) = refused else { bail!("a grid of 10^12 trials is taken") };
    ensure!(errors.to_string().contains("1000000000000"), "refused for another reason: {errors}");
    ensure!(took < REFUSED_MAX, "the refusal took {took:?}");
    ensure!(bytes < REFUSED_BYTES_MAX, "the refusal took {bytes} bytes");
    Ok((took, bytes))
}

/// How long a coordinator takes to take a study of so many trials, having refused the giant, and to expand it.
async fn take(trials: u64) -> Result<(Duration, Duration)> {
    let dir = tempfile::tempdir()?;
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        min_free_bytes: 0,
        ..Config::new(dir.path().to_owned())
    };
    let running = start(config).await?;
    let hand = Hand::at(&running.url(), "hand", "the only one".into())?;
    hand.upload(CORPUS).await?;
    let Err(refused) = hand.create_from("giant", spec("giant", GIANT)?).await else {
        bail!("the coordinator takes a grid of 10^12 trials")
    };
    let why = refused.metadata().get(REASON_KEY).map_or("", |v| v.to_str().unwrap_or_default());
    ensure!(why == reason::BAD_SPEC, "refused for another reason: {refused}");
    let grid: &Grid<'_> = &[("hidden", trials.div_ceil(1000), whole), ("learning_rate", 1000, tenth)];
    let begun = Instant::now();
    let study = hand.create_from("large", spec("large", grid)?).await?;
    let took = begun.elapsed();
    let total = study.trials.map_or(0, |t| t.total);
    ensure!(total >= trials, "{total} trials of {trials}");
    ensure!(took < TAKEN_MAX, "{trials} trials took {took:?}");
    let last = u32::try_from(total)?;
    while let Err(status) = hand.trial("large", last).await {
        let why = status.metadata().get(REASON_KEY).map_or("", |v| v.to_str().unwrap_or_default());
        ensure!(why == reason::OVERLOADED, "the last trial: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let whole = begun.elapsed();
    drop(hand);
    running.shutdown().await;
    Ok((took, whole))
}
