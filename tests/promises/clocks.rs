//! Row 8: the wall clocks of coordinator and worker jump by ten years either way while trials run. Nothing expires.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::watch;

use crate::dice::Dice;
use crate::house::ledger::Ledger;
use crate::house::witness::{self, Witness};
use crate::house::{House, Training, audit, block_on, preloaded};
use crate::options::{Failure, Figure, Options};

/// Ten years, with three leap days.
const JUMP_S: i64 = (10 * 365 + 3) * 24 * 3600;
/// Long enough that a busy machine loses none of them; looked at (every eighth of it) more often than they are renewed,
/// so that a lease by the wall clock would be seen to expire.
const LEASE: &[(&str, &str)] = &[("--lease", "6s"), ("--heartbeat", "3s")];
const WITNESSES: usize = 3;
/// The preloaded library: the source is in `house`.
const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/promises/house/clock.c");

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let jumps = options.tries(40, 1000);
    let mut dice = Dice::new(options.seed);
    let built = tempfile::tempdir().context("a folder")?;
    let Some(shim) = preloaded(built.path(), Path::new(SHIM))? else {
        return Ok(Figure::skipped("there is no C compiler to build the clock with"));
    };
    let trials = block_on(jump(&mut dice, jumps, &shim))??;
    let text =
        format!("0 early expiries in {jumps} jumps of ten years, {trials} trials complete in one attempt");
    Ok(Figure::zero_in(jumps, text))
}

async fn jump(dice: &mut Dice, jumps: u64, shim: &Path) -> Result<usize> {
    let mut house = House::new(dice, LEASE)?;
    let ledger = Ledger::default();
    let clocks = [house.path("clock-coordinator"), house.path("clock-worker")];
    let with_clock = |house: &mut House, clock: &Path| {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        house.environment = vec![("LD_PRELOAD".into(), text(shim)), ("PROMISES_CLOCK".into(), text(clock))];
    };
    with_clock(&mut house, &clocks[0]);
    let coordinator = house.coordinator().await?;
    house.environment.clear();
    let (enough, fed) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let client = witness::client(&house.url())?;
    // The worker trains; the witnesses are for the rest of the traffic.
    house.create(&ledger, &Training { name: "trained", trials: 12, hidden: 24, epochs: 10 })?;
    with_clock(&mut house, &clocks[1]);
    let _worker = house.worker("worker", &house.url(), &["--study", "trained"])?;
    let mut load = tokio::task::JoinSet::new();
    for n in 0..WITNESSES {
        let witness = Witness::new(&format!("w{n}"), &house.url(), &ledger, dice.fork())?;
        load.spawn(witness.serve(stopped.clone()));
    }
    let feeder = tokio::spawn(witness::feed(client.clone(), ledger.clone(), fed));
    let mut seen = [false; 2];
    for _ in 0..jumps {
        let clock = &clocks[usize::from(dice.one_in(3))];
        let by = [0, JUMP_S, -JUMP_S][usize::try_from(dice.from(0..3))?];
        std::fs::write(clock, by.to_string())?;
        tokio::time::sleep(dice.millis(100..400)).await;
        seen = [seen[0] || by > 0, seen[1] || by < 0];
    }
    enough.send_replace(true);
    feeder.await??;
    witness::completed(&client, "trained").await?;
    stop.send_replace(true);
    while let Some(ended) = load.join_next().await {
        ended??;
    }
    coordinator.leave().await?;
    audit::audit_over_jumps(&house.data, &ledger).await?;
    let mut conn = audit::database(&house.data).await?;
    let lost: i64 = sqlx::query_scalar("SELECT count(*) FROM attempts WHERE outcome <> 'COMPLETE'")
        .fetch_one(&mut conn)
        .await?;
    ensure!(lost == 0, "{lost} attempts did not come to their end");
    jumped(&mut conn, seen).await?;
    let complete: i64 = sqlx::query_scalar("SELECT count(*) FROM trials").fetch_one(&mut conn).await?;
    Ok(usize::try_from(complete)?)
}

/// The jumps have reached the coordinator: its records are of three decades.
async fn jumped(conn: &mut sqlx::SqliteConnection, seen: [bool; 2]) -> Result<()> {
    let (first, last): (i64, i64) =
        sqlx::query_as("SELECT min(at_ms), max(at_ms) FROM measurements").fetch_one(conn).await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let now = i64::try_from(now.as_millis())?;
    let year = Duration::from_secs(365 * 24 * 3600);
    let near = |at: i64| (at - now).unsigned_abs() < u64::try_from(year.as_millis()).unwrap_or(u64::MAX);
    ensure!(
        !(seen[0] && near(last) || seen[1] && near(first)),
        "the clock did not jump: that proves nothing"
    );
    Ok(())
}
