//! The history of studies: written with the change it tells of, read by whoever watches.

use serde_json::Value;
use sqlx::{FromRow, SqliteConnection};

use super::writer::After;
use super::{StoreError, Tx};

/// A line of a study's history.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct EventRow {
    pub(crate) seq: i64,
    #[sqlx(rename = "type")]
    pub(crate) kind: String,
    pub(crate) at_ms: i64,
    pub(crate) trial: u32,
    pub(crate) attempt: u32,
    pub(crate) json: String,
}

/// Writes an event of a trial (its number and attempt), or of the study itself (0, 0).
pub(crate) async fn write(
    tx: &mut Tx,
    study: i64,
    kind: &'static str,
    (trial, attempt): (u32, u32),
    fields: &Value,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO events (study, type, at_ms, trial, attempt, json) VALUES (?, ?, ?, ?, ?, ?)";
    let done = sqlx::query(sql)
        .bind(study)
        .bind(kind)
        .bind(tx.at_ms)
        .bind(trial)
        .bind(attempt)
        .bind(fields.to_string())
        .execute(&mut tx.conn)
        .await?;
    tx.after.push(After::Told { seq: done.last_insert_rowid() });
    Ok(())
}

/// Up to `limit` events of a study after `after`, in order.
pub(crate) async fn after(
    conn: &mut SqliteConnection,
    study: i64,
    after: i64,
    limit: i64,
) -> Result<Vec<EventRow>, StoreError> {
    let sql = "SELECT seq, type, at_ms, trial, attempt, json FROM events
               WHERE study = ? AND seq > ? ORDER BY seq LIMIT ?";
    Ok(sqlx::query_as(sql).bind(study).bind(after).bind(limit).fetch_all(conn).await?)
}
