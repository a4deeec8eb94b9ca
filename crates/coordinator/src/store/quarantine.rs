//! Bad nodes in the database: what is held against a worker, and giving back what it has spoilt.

use kapell_dispatch::quarantine::{self, Ended, Others, Streak};
use kapell_dispatch::{Held, Outcome, StudyEvent, TrialEvent, TrialState};
use serde_json::json;
use sqlx::SqliteConnection;

use super::finish::Finish;
use super::trials::{self, TrialCore};
use super::writer::After;
use super::{StoreError, Tx, events, studies};

/// Notes what the end of an attempt says about its worker, which may be quarantined by it.
pub(crate) async fn note(tx: &mut Tx, trial: &TrialCore, finish: &Finish) -> Result<(), StoreError> {
    let Some(worker) = trial.worker.as_deref() else { return Ok(()) };
    match ended(tx, trial, worker, finish).await? {
        Ended::Otherwise => Ok(()),
        Ended::Measured => {
            let sql = "UPDATE workers SET early_failures = '{}' WHERE name = ? AND early_failures <> '{}'";
            sqlx::query(sql).bind(worker).execute(&mut tx.conn).await?;
            Ok(())
        }
        early => blame(tx, trial, worker, early, &finish.reason).await,
    }
}

async fn ended(tx: &mut Tx, trial: &TrialCore, worker: &str, finish: &Finish) -> Result<Ended, StoreError> {
    if finish.outcome == Outcome::Complete || measured(tx, finish.held).await? {
        return Ok(Ended::Measured);
    }
    if finish.outcome != Outcome::Failed || finish.last {
        return Ok(Ended::Otherwise);
    }
    let elsewhere = "SELECT EXISTS (SELECT 1 FROM attempts a WHERE a.trial = ?1 AND a.worker <> ?2
        AND a.outcome = 'FAILED'
        AND NOT EXISTS (SELECT 1 FROM measurements m WHERE m.trial = a.trial AND m.attempt = a.attempt))";
    let elsewhere: bool =
        sqlx::query_scalar(elsewhere).bind(trial.id).bind(worker).fetch_one(&mut tx.conn).await?;
    let Held { trial, attempt } = finish.held;
    Ok(if elsewhere { Ended::Otherwise } else { Ended::Early { trial, attempt } })
}

async fn measured(tx: &mut Tx, held: Held) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM measurements WHERE trial = ? AND attempt = ?)")
        .bind(held.trial)
        .bind(held.attempt)
        .fetch_one(&mut tx.conn)
        .await?)
}

async fn blame(
    tx: &mut Tx,
    trial: &TrialCore,
    worker: &str,
    ended: Ended,
    why: &str,
) -> Result<(), StoreError> {
    let row: Option<(String, String)> =
        sqlx::query_as("SELECT state, early_failures FROM workers WHERE name = ?")
            .bind(worker)
            .fetch_optional(&mut tx.conn)
            .await?;
    let Some((state, known)) = row else { return Ok(()) };
    let streak: Streak = serde_json::from_str(&known).unwrap_or_default();
    let streak = quarantine::after(&streak, ended, measuring(&mut tx.conn, worker).await?);
    let text = serde_json::to_string(&streak).unwrap_or_else(|_| "{}".into());
    sqlx::query("UPDATE workers SET early_failures = ?2 WHERE name = ?1")
        .bind(worker)
        .bind(text)
        .execute(&mut tx.conn)
        .await?;
    let bad = quarantine::is_bad(&streak, others(tx, worker).await?);
    if bad && state == "ready" {
        let reason = format!(
            "{} different trials in a row failed on it before their first epoch, at last {}: {why}",
            streak.failed.len(),
            trial.name()
        );
        quarantine_worker(tx, trial, worker, &reason).await?;
        give_back(tx, &streak).await?;
    }
    Ok(())
}

/// Attempts of a worker that run and have measured an epoch.
async fn measuring(conn: &mut SqliteConnection, worker: &str) -> Result<u32, StoreError> {
    let sql = "SELECT count(*) FROM attempts a WHERE a.worker = ? AND a.outcome IS NULL
               AND EXISTS (SELECT 1 FROM measurements m WHERE m.trial = a.trial AND m.attempt = a.attempt)";
    Ok(sqlx::query_scalar(sql).bind(worker).fetch_one(conn).await?)
}

/// The other workers that are connected.
async fn others(tx: &mut Tx, worker: &str) -> Result<Others, StoreError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, state FROM workers WHERE name <> ? AND state IN ('ready', 'quarantined')",
    )
    .bind(worker)
    .fetch_all(&mut tx.conn)
    .await?;
    let mut others = Others { healthy: 0, quarantined: 0 };
    for (name, state) in rows {
        if tx.live.seen(&name).is_some_and(|(_, gone)| !gone) {
            match state.as_str() {
                "ready" => others.healthy += 1,
                _ => others.quarantined += 1,
            }
        }
    }
    Ok(others)
}

async fn quarantine_worker(
    tx: &mut Tx,
    trial: &TrialCore,
    worker: &str,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE workers SET state = 'quarantined', reason = ?2 WHERE name = ?1 AND state = 'ready'")
        .bind(worker)
        .bind(reason)
        .execute(&mut tx.conn)
        .await?;
    let fields = json!({"worker": worker, "reason": reason});
    events::add(tx, trial.study, "worker.quarantined", (0, 0), &fields);
    tx.after.push(After::Quarantined { worker: worker.to_owned(), reason: reason.to_owned() });
    Ok(())
}

/// The failures that the worker has caused do not count: what FAILED by one is queued again.
async fn give_back(tx: &mut Tx, streak: &Streak) -> Result<(), StoreError> {
    for &(trial, attempt) in &streak.failed {
        let Some(trial) = trials::load(tx, trial).await? else { continue };
        let failed = match trial.machine()?.state {
            TrialState::Failed if trial.attempts == attempt => true,
            TrialState::Queued | TrialState::Running { .. } | TrialState::Paused => false,
            _ => continue,
        };
        trials::step(tx, &trial, TrialEvent::Forgive { attempt }, "").await?;
        if failed {
            studies::step(tx, trial.study, StudyEvent::Reopen, "").await?;
        }
    }
    Ok(())
}

/// Who is quarantined, and why.
pub(crate) async fn list(conn: &mut SqliteConnection) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT name, reason FROM workers WHERE state = 'quarantined' ORDER BY name";
    Ok(sqlx::query_as(sql).fetch_all(conn).await?)
}
