//! Fast recovery: a data folder full of trials and measurements is started, and the first lease answered.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kapell_coordinator::{Config, Running, start};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::house;
use crate::inside::hand::{CORPUS, Hand};
use crate::options::{Failure, Figure, Options};

const READY_MAX: Duration = Duration::from_secs(2);
const SHORT_TRIALS: u64 = 100_000;
const LONG_TRIALS: u64 = 1_000_000;
/// Measurements of every trial that is COMPLETE.
const SHORT_EPOCHS: u64 = 10;
const LONG_EPOCHS: u64 = 50;
/// Trials that run when the coordinator goes down, and that wait.
const RUNNING: u64 = 1000;
const QUEUED: u64 = 1000;
/// Trials that one statement inserts.
const CHUNK: u64 = 20_000;

pub(crate) fn run(options: &Options) -> Result<Figure, Failure> {
    let runtime = house::runtime()?;
    let trials = options.tries(SHORT_TRIALS, LONG_TRIALS).max(RUNNING + QUEUED);
    let epochs = if options.long { LONG_EPOCHS } else { SHORT_EPOCHS };
    let figure = runtime.block_on(async {
        let dir = tempfile::tempdir()?;
        create(dir.path()).await?;
        fill(dir.path(), trials, epochs).await?;
        let bytes = std::fs::metadata(dir.path().join("kapell.db"))?.len();
        let begun = Instant::now();
        let running = start(config(dir.path())).await?;
        let started = begun.elapsed();
        lease_one(&running).await?;
        let ready = begun.elapsed();
        running.shutdown().await;
        let rows = (trials - RUNNING - QUEUED) * epochs;
        let text = format!(
            "{trials} trials, {rows} measurements ({} MiB), {RUNNING} trials running: started in {} ms, first lease \
             answered after {} ms",
            bytes >> 20,
            started.as_millis(),
            ready.as_millis()
        );
        ensure!(ready < READY_MAX, "{text}: that is more than {READY_MAX:?}");
        anyhow::Ok(Figure::plain(text))
    })?;
    Ok(figure)
}

fn config(dir: &std::path::Path) -> Config {
    Config { listen: ([127, 0, 0, 1], 0).into(), min_free_bytes: 0, ..Config::new(dir.to_owned()) }
}

fn hand(running: &Running) -> Result<Hand> {
    Hand::at(&running.url(), "hand", "the only one".into())
}

/// A data folder with a worker and a study of one trial.
async fn create(dir: &std::path::Path) -> Result<()> {
    let running = start(config(dir)).await?;
    let hand = hand(&running)?;
    hand.register().await?;
    hand.upload(CORPUS).await?;
    hand.create("history", 1).await?;
    drop(hand);
    running.shutdown().await;
    Ok(())
}

async fn lease_one(running: &Running) -> Result<()> {
    let works = hand(running)?.lease("the first", 1).await?;
    ensure!(works.len() == 1, "there is something to lease, and {} trials came", works.len());
    Ok(())
}

/// Writes the history of a coordinator that has been at it for long.
async fn fill(dir: &std::path::Path, trials: u64, epochs: u64) -> Result<()> {
    let options = SqliteConnectOptions::new()
        .filename(dir.join("kapell.db"))
        .pragma("synchronous", "OFF")
        .pragma("cache_size", "-400000");
    let mut conn = SqliteConnection::connect_with(&options).await?;
    // Number 1 is the study's own. Trials go COMPLETE, then RUNNING, then QUEUED.
    let (complete, running) = (trials - RUNNING - QUEUED, trials - QUEUED);
    let mut from = 2;
    while from <= trials {
        let to = (from + CHUNK - 1).min(trials);
        let mut tx = conn.begin().await?;
        for sql in [&numbers(from, to, complete, running, epochs)[..], &measured(from, to, epochs)] {
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        from = to + 1;
    }
    conn.close().await?;
    Ok(())
}

/// Trials and their attempts.
fn numbers(from: u64, to: u64, complete: u64, running: u64, epochs: u64) -> String {
    format!(
        "INSERT INTO trials (study, number, config, config_hash, shape_key, replicate, epochs_wanted, state, attempts,
             running_attempt, epochs, objective, train_loss, val_loss, best_val_loss, best_epoch, weights_digest,
             seconds, created_at_ms, started_at_ms, ended_at_ms)
         WITH RECURSIVE n (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to}),
             s (i, state) AS (SELECT i, CASE WHEN i <= {complete} THEN 'COMPLETE' WHEN i <= {running} THEN 'RUNNING'
                 ELSE 'QUEUED' END FROM n)
         SELECT t.study, i, t.config, printf('%064x', i), t.shape_key, 0, {epochs}, s.state,
             s.state <> 'QUEUED', iif(s.state = 'RUNNING', 1, NULL),
             iif(s.state = 'COMPLETE', {epochs}, 0),
             iif(s.state = 'COMPLETE', 1.0 + (i * 7919 % 1000) / 1000.0, NULL), 1.0, 1.0, 1.0,
             iif(s.state = 'COMPLETE', {epochs}, NULL), NULL, 60.0, 0, 0, iif(s.state = 'COMPLETE', 1, NULL)
         FROM s JOIN trials t ON t.number = 1;
         INSERT INTO study_counts (study, state, n)
         SELECT study, state, count(*) FROM trials WHERE number BETWEEN {from} AND {to} GROUP BY study, state
         ON CONFLICT (study, state) DO UPDATE SET n = n + excluded.n;
         INSERT INTO attempts (trial, attempt, worker, incarnation, device, program_version, kind, dtype, start_epoch,
             started_at_ms, ended_at_ms, outcome)
         SELECT id, 1, 'hand', 'the only one', 'a processor', 'kapell 0.1.0', 'cpu-avx2', 'f32', 0, 0, ended_at_ms,
             iif(state = 'COMPLETE', 'COMPLETE', NULL)
         FROM trials WHERE number BETWEEN {from} AND {to} AND state <> 'QUEUED';"
    )
}

fn measured(from: u64, to: u64, epochs: u64) -> String {
    format!(
        "INSERT INTO measurements (trial, attempt, epoch, train_loss, val_loss, seconds, tokens_per_s, weights_digest,
             at_ms)
         WITH RECURSIVE e (epoch) AS (SELECT 1 UNION ALL SELECT epoch + 1 FROM e WHERE epoch < {epochs})
         SELECT t.id, 1, e.epoch, 1.0, 1.0 + 1.0 / e.epoch, 2.0, 100.0, 'sha256:' || t.config_hash, 0
         FROM trials t CROSS JOIN e WHERE t.number BETWEEN {from} AND {to} AND t.state = 'COMPLETE';"
    )
}
