//! The audit: what was acknowledged against what is on disk, and what is on disk against itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kapell_rpc::digest;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, FromRow, SqliteConnection};

use super::ledger::{Entries, Ledger};

/// Opens the database of a data folder, to read.
pub(crate) async fn database(data: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(data.join("kapell.db")).read_only(true);
    Ok(SqliteConnection::connect_with(&options.busy_timeout(Duration::from_secs(10))).await?)
}

/// Audits a data folder that no coordinator holds: ledger, coverage, database, blobs, and what the sweep leaves.
pub(crate) async fn audit(data: &Path, ledger: &Ledger) -> Result<()> {
    audit_over_jumps(data, ledger).await?;
    no_late_rows(&mut database(data).await?).await
}

/// The same of a coordinator whose clock was not the same all along.
pub(crate) async fn audit_over_jumps(data: &Path, ledger: &Ledger) -> Result<()> {
    sweep(data).await.context("the sweep")?;
    let mut conn = database(data).await?;
    whole(&mut conn).await?;
    let expected = copy(&ledger.open());
    let complaints = expected.complaints.join("\n");
    ensure!(complaints.is_empty(), "refusals that must not be:\n{complaints}");
    acknowledged(&mut conn, &expected).await?;
    for (study, configurations) in &expected.studies {
        coverage(&mut conn, study, *configurations).await.with_context(|| format!("study {study}"))?;
    }
    blobs(&mut conn, data).await
}

fn copy(entries: &Entries) -> Entries {
    Entries {
        studies: entries.studies.clone(),
        complaints: entries.complaints.clone(),
        leases: entries.leases.clone(),
        measurements: entries.measurements.clone(),
        checkpoints: entries.checkpoints.clone(),
        complete: entries.complete.clone(),
        ..Entries::default()
    }
}

/// A start and a sweep: what a crash has left behind is gone afterwards.
async fn sweep(data: &Path) -> Result<()> {
    let listen = ([127, 0, 0, 1], 0).into();
    let config = kapell_coordinator::Config { listen, ..kapell_coordinator::Config::new(data.to_owned()) };
    let running = kapell_coordinator::start(config).await?;
    let swept = running.sweep_blobs(Duration::ZERO).await;
    running.shutdown().await;
    swept.map_err(anyhow::Error::msg)?;
    Ok(())
}

async fn whole(conn: &mut SqliteConnection) -> Result<()> {
    let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut *conn).await?;
    ensure!(found == ["ok"], "integrity_check: {}", found.join("; "));
    let broken = sqlx::query("PRAGMA foreign_key_check").fetch_all(conn).await?;
    ensure!(broken.is_empty(), "{} rows refer to nothing", broken.len());
    Ok(())
}

#[derive(FromRow)]
struct Measured {
    train_loss: f64,
    val_loss: f64,
    seconds: f64,
    tokens_per_s: f64,
    weights_digest: String,
}

async fn acknowledged(conn: &mut SqliteConnection, expected: &Entries) -> Result<()> {
    for (&(trial, attempt, epoch), m) in &expected.measurements {
        let sql = "SELECT train_loss, val_loss, seconds, tokens_per_s, weights_digest FROM measurements
                   WHERE trial = ? AND attempt = ? AND epoch = ?";
        let row: Option<Measured> =
            sqlx::query_as(sql).bind(trial).bind(attempt).bind(epoch).fetch_optional(&mut *conn).await?;
        let name = format!("trial {trial}, attempt {attempt}, epoch {epoch}");
        let row = row.with_context(|| format!("an acknowledged measurement is lost: {name}"))?;
        let same = [row.train_loss, row.val_loss, row.seconds, row.tokens_per_s].map(f64::to_bits)
            == [m.train_loss, m.val_loss, m.seconds, m.tokens_per_s].map(f64::to_bits)
            && row.weights_digest == m.weights_digest;
        ensure!(same, "an acknowledged measurement has other content: {name}");
    }
    for &(trial, attempt) in &expected.leases {
        let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM attempts WHERE trial = ? AND attempt = ?")
            .bind(trial)
            .bind(attempt)
            .fetch_optional(&mut *conn)
            .await?;
        ensure!(found.is_some(), "an acknowledged lease is lost: trial {trial}, attempt {attempt}");
    }
    for &(trial, attempt) in &expected.complete {
        let found: Option<String> =
            sqlx::query_scalar("SELECT outcome FROM attempts WHERE trial = ? AND attempt = ?")
                .bind(trial)
                .bind(attempt)
                .fetch_one(&mut *conn)
                .await?;
        ensure!(
            found.as_deref() == Some("COMPLETE"),
            "an acknowledged end is lost: trial {trial}, attempt {attempt} is {found:?}"
        );
    }
    checkpoints(conn, expected).await
}

/// What is acknowledged of an attempt's checkpoints, a later attempt goes on from, and the end keeps.
async fn checkpoints(conn: &mut SqliteConnection, expected: &Entries) -> Result<()> {
    for (&(trial, attempt), (epoch, digest)) in &expected.checkpoints {
        let earliest: Option<u32> =
            sqlx::query_scalar("SELECT min(start_epoch) FROM attempts WHERE trial = ? AND attempt > ?")
                .bind(trial)
                .bind(attempt)
                .fetch_one(&mut *conn)
                .await?;
        let last: (String, u32) =
            sqlx::query_as("SELECT digest, epoch FROM checkpoints WHERE trial = ? AND role = 'last'")
                .bind(trial)
                .fetch_optional(&mut *conn)
                .await?
                .with_context(|| format!("trial {trial} has lost its last checkpoint"))?;
        let name = format!("trial {trial}, attempt {attempt}, epoch {epoch}");
        ensure!(earliest.is_none_or(|start| start >= *epoch), "an acknowledged checkpoint is lost: {name}");
        ensure!(
            last.1 > *epoch || (last.1 == *epoch && last.0 == *digest),
            "an acknowledged checkpoint is lost: {name}; the last is of epoch {}",
            last.1
        );
    }
    Ok(())
}

/// Every configuration complete exactly once, each with a curve of one row an epoch.
pub(crate) async fn coverage(conn: &mut SqliteConnection, study: &str, configurations: u64) -> Result<()> {
    let sql = "SELECT t.id, t.state, t.epochs_wanted,
                   (SELECT count(*) FROM attempts a WHERE a.trial = t.id AND a.outcome = 'COMPLETE'),
                   (SELECT count(*) FROM measurements m WHERE m.trial = t.id AND m.superseded = 0),
                   (SELECT coalesce(max(epoch), 0) FROM measurements m WHERE m.trial = t.id AND m.superseded = 0)
               FROM trials t JOIN studies s ON s.id = t.study WHERE s.name = ?";
    type Trial = (i64, String, i64, i64, i64, i64);
    let trials: Vec<Trial> = sqlx::query_as(sql).bind(study).fetch_all(conn).await?;
    ensure!(trials.len() as u64 == configurations, "{} trials of {configurations}", trials.len());
    for (id, state, wanted, complete, rows, newest) in trials {
        ensure!(state == "COMPLETE", "trial {id} is {state}");
        ensure!(complete == 1, "trial {id} is complete {complete} times");
        ensure!(
            rows == wanted && newest == wanted,
            "trial {id} has {rows} of {wanted} epochs, up to {newest}"
        );
    }
    Ok(())
}

/// Nothing was written by an attempt behind its end. (Both times are of one clock: the coordinator's.)
async fn no_late_rows(conn: &mut SqliteConnection) -> Result<()> {
    let sql =
        "SELECT count(*) FROM measurements m JOIN attempts a ON a.trial = m.trial AND a.attempt = m.attempt
               WHERE m.at_ms > a.ended_at_ms";
    let late: i64 = sqlx::query_scalar(sql).fetch_one(&mut *conn).await?;
    ensure!(late == 0, "{late} measurements were written behind the end of their attempt");
    let sql =
        "SELECT count(*) FROM checkpoints c JOIN attempts a ON a.trial = c.trial AND a.attempt = c.attempt
               WHERE c.created_at_ms > a.ended_at_ms";
    let late: i64 = sqlx::query_scalar(sql).fetch_one(conn).await?;
    ensure!(late == 0, "{late} checkpoints were recorded behind the end of their attempt");
    Ok(())
}

/// Every row has its file, every file its row, and every file the digest that names it.
async fn blobs(conn: &mut SqliteConnection, data: &Path) -> Result<()> {
    let rows: Vec<(String, i64, bool)> =
        sqlx::query_as("SELECT digest, size, damaged FROM blobs").fetch_all(&mut *conn).await?;
    let mut known = BTreeSet::new();
    for (name, size, damaged) in rows {
        let hex = digest::hex_part(&name).with_context(|| format!("{name} is no digest"))?;
        let (head, tail) = hex.split_at(2);
        let path = data.join("blobs").join(head).join(tail);
        ensure!(!damaged, "{name} is marked as damaged");
        let (found, bytes) = digest::of_file(&path).with_context(|| format!("the file of {name}"))?;
        ensure!(found == name && i64::try_from(bytes)? == size, "{} has other bytes", path.display());
        known.insert(path);
    }
    for folder in std::fs::read_dir(data.join("blobs"))? {
        for file in std::fs::read_dir(folder?.path())? {
            let path = file?.path();
            ensure!(known.contains(&path), "an orphan: {}", path.display());
        }
    }
    let loose: Vec<String> = sqlx::query_scalar(
        "SELECT digest FROM blobs b WHERE digest NOT IN (SELECT corpus_digest FROM studies)
           AND digest NOT IN (SELECT digest FROM checkpoints) AND digest NOT IN (SELECT digest FROM manifest_files)",
    )
    .fetch_all(conn)
    .await?;
    ensure!(loose.is_empty(), "{} blobs that nothing refers to outlived the sweep", loose.len());
    Ok(())
}
