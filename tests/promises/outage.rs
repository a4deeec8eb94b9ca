//! Row 4: the coordinator is away for many leases' time. Workers train on, what they measure waits on their disks,
//! and nothing is trained twice.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sqlx::SqliteConnection;

use crate::dice::Dice;
use crate::house::ledger::Ledger;
use crate::house::{House, PATIENCE, Training, audit, block_on, witness};
use crate::options::{Failure, Figure, Options};

const LEASE: &[(&str, &str)] = &[("--lease", "600ms"), ("--heartbeat", "100ms"), ("--outage-grace", "5s")];
const WORKERS: u64 = 2;
/// More than the workers hold, so that some wait in the queue.
const TRIALS: u64 = 3;

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let away = if options.long { Duration::from_secs(30 * 60) } else { Duration::from_secs(4) };
    let outages = options.tries(1, 1);
    let mut dice = Dice::new(options.seed);
    let mut queued = 0;
    for _ in 0..outages {
        queued += block_on(outage(&mut dice, away))??;
    }
    let text = format!(
        "0 epochs trained twice, curves without a gap behind {outages} outage(s) of {} s with leases of 0.6 s; \
         {queued} measurements waited on the workers' disks",
        away.as_secs()
    );
    Ok(Figure::plain(text))
}

/// One outage. Gives the measurements that waited.
async fn outage(dice: &mut Dice, away: Duration) -> Result<usize> {
    let house = House::new(dice, LEASE)?;
    let ledger = Ledger::default();
    let mut coordinator = house.coordinator().await?;
    let workers: Vec<_> = (0..WORKERS).map(|n| format!("worker-{n}")).collect();
    let _living =
        workers.iter().map(|name| house.worker(name, &house.url(), &[])).collect::<Result<Vec<_>>>()?;
    let client = witness::client(&house.url())?;
    house.create(&ledger, &Training { name: "probe", trials: 2, hidden: 16, epochs: 4 })?;
    witness::completed(&client, "probe").await?;
    let mut conn = audit::database(&house.data).await?;
    let epochs = epochs_for(&mut conn, away).await?;
    house.create(&ledger, &Training { name: "study", trials: TRIALS, hidden: 16, epochs })?;
    while running(&mut conn).await? < WORKERS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(dice.millis(100..600)).await;
    coordinator.kill()?;
    let begun = Instant::now();
    tokio::time::sleep(away.saturating_sub(begun.elapsed())).await;
    let mut queued = 0;
    for worker in &workers {
        let waiting = waiting(&house.cache(worker))?;
        ensure!(waiting > 0, "nothing waits on the disk of {worker}: {}", house.log(worker));
        queued += waiting;
    }
    let coordinator = house.coordinator().await?;
    // The last trial takes as long as the outage once more, or longer where others use the machine.
    witness::completed_within(&client, "study", PATIENCE.saturating_add(away.saturating_mul(4))).await?;
    coordinator.leave().await?;
    audit::audit(&house.data, &ledger).await?;
    let twice: i64 = sqlx::query_scalar("SELECT count(*) FROM measurements WHERE superseded = 1")
        .fetch_one(&mut conn)
        .await?;
    ensure!(twice == 0, "{twice} epochs were trained twice");
    let attempts: i64 = sqlx::query_scalar("SELECT count(*) FROM attempts").fetch_one(&mut conn).await?;
    ensure!(attempts == i64::try_from(2 + TRIALS)?, "{attempts} attempts of {} trials", 2 + TRIALS);
    Ok(queued)
}

/// As many as are trained in somewhat more than the outage. A worker holds 100,000 measurements at most.
async fn epochs_for(conn: &mut SqliteConnection, away: Duration) -> Result<u64> {
    let least: f64 = sqlx::query_scalar("SELECT min(seconds) FROM measurements").fetch_one(conn).await?;
    let epochs = Duration::from_secs(2)
        .saturating_add(away)
        .div_duration_f64(Duration::from_secs_f64(least.max(1e-4)));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number of epochs")]
    Ok((epochs as u64).clamp(10, 90_000))
}

async fn running(conn: &mut SqliteConnection) -> Result<u64> {
    let sql = "SELECT count(DISTINCT m.trial) FROM measurements m JOIN trials t ON t.id = m.trial
               WHERE t.state = 'RUNNING'";
    let running: i64 = sqlx::query_scalar(sql).fetch_one(conn).await?;
    Ok(u64::try_from(running)?)
}

/// Measurements in the outboxes of a worker: records of a little-endian length and that many bytes.
fn waiting(cache: &Path) -> Result<usize> {
    let mut records = 0;
    for process in std::fs::read_dir(cache.join("attempts"))?.filter_map(Result::ok) {
        for attempt in std::fs::read_dir(process.path()).into_iter().flatten().filter_map(Result::ok) {
            let bytes = std::fs::read(attempt.path().join("outbox")).context("an outbox")?;
            let mut rest = bytes.as_slice();
            while let Some((length, behind)) = rest.split_first_chunk::<4>() {
                let length = usize::try_from(u32::from_le_bytes(*length))?;
                rest = behind.get(length..).context("an outbox ends within a record")?;
                records += 1;
            }
        }
    }
    Ok(records)
}
