//! What nobody asks for and must happen all the same: adopting leases at a start, losing those that have run out,
//! the limits of studies.

use std::time::Duration;

use kapell_dispatch::lease::restart_grace;
use kapell_dispatch::{Held, StudyState};
use sqlx::SqliteConnection;

use super::{StoreError, Tx, finish, trials};

/// An attempt that has not ended, with its study's state and what people call its trial.
#[derive(sqlx::FromRow)]
struct Running {
    trial: i64,
    attempt: u32,
    worker: String,
    study: i64,
    grace_ms: i64,
    state: String,
    name: String,
    number: u32,
}

/// Adopts the attempts that ran when the last process ended: each has `grace` to be heard of, bounded in total.
pub(crate) async fn adopt(tx: &mut Tx, grace: Duration) -> Result<usize, StoreError> {
    let sql = "SELECT a.trial, a.attempt, a.worker, t.study, a.grace_ms, s.state, s.name, t.number
               FROM attempts a JOIN trials t ON t.id = a.trial JOIN studies s ON s.id = t.study
               WHERE a.outcome IS NULL";
    let running: Vec<Running> = sqlx::query_as(sql).fetch_all(&mut tx.conn).await?;
    let n = running.len();
    for Running { trial, attempt, worker, study, grace_ms, state, name, number } in running {
        let held = Held { trial, attempt };
        let used = Duration::from_millis(u64::try_from(grace_ms).unwrap_or(u64::MAX));
        let given = restart_grace(used, grace);
        sqlx::query("UPDATE attempts SET grace_ms = grace_ms + ?3 WHERE trial = ?1 AND attempt = ?2")
            .bind(trial)
            .bind(attempt)
            .bind(i64::try_from(given.as_millis()).unwrap_or(i64::MAX))
            .execute(&mut tx.conn)
            .await?;
        tx.live.adopt(held, &worker, study, given, StudyState::parse(&state).and_then(StudyState::wish));
        tx.live.named(held, (name, number));
    }
    Ok(n)
}

/// Notes that adopted attempts have been heard of: a next restart gives them the whole grace again.
pub(crate) async fn heard(tx: &mut Tx, held: &[Held]) -> Result<(), StoreError> {
    for held in held {
        sqlx::query("UPDATE attempts SET grace_ms = 0 WHERE trial = ? AND attempt = ?")
            .bind(held.trial)
            .bind(held.attempt)
            .execute(&mut tx.conn)
            .await?;
    }
    Ok(())
}

/// Ends an attempt whose lease has run out. One that has ended otherwise meanwhile is left alone.
pub(crate) async fn lose(tx: &mut Tx, held: Held, worker: &str) -> Result<(), StoreError> {
    match trials::load_held(tx, held).await {
        Ok(trial) => {
            let why = format!("worker {worker} was not heard of for too long");
            trials::lose(tx, &trial, held.attempt, &why).await
        }
        Err(StoreError::Refused(_)) => {
            tx.after.push(super::writer::After::Ended { held });
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Is there an active study with a limit of its time?
pub(crate) async fn any_ages(conn: &mut SqliteConnection) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM studies WHERE state = 'ACTIVE' AND max_hours IS NOT NULL)";
    Ok(sqlx::query_scalar(sql).fetch_one(conn).await?)
}

/// Adds to the time of active studies that have a limit of it, and ends those that have reached it.
pub(crate) async fn age(tx: &mut Tx, by: Duration) -> Result<(), StoreError> {
    let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    sqlx::query(
        "UPDATE studies SET elapsed_ms = elapsed_ms + ? WHERE state = 'ACTIVE' AND max_hours IS NOT NULL",
    )
    .bind(by_ms)
    .execute(&mut tx.conn)
    .await?;
    let sql = "SELECT id, max_hours FROM studies
               WHERE state = 'ACTIVE' AND max_hours IS NOT NULL AND elapsed_ms >= max_hours * 3600000";
    let over: Vec<(i64, f64)> = sqlx::query_as(sql).fetch_all(&mut tx.conn).await?;
    for (study, hours) in over {
        finish::limit(tx, study, &format!("its time of {hours} hours is over")).await?;
    }
    Ok(())
}
