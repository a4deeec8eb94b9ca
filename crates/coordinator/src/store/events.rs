//! The history of studies: written with the change it tells of, read by whoever watches.

use serde_json::{Value, json};
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

/// An event that its batch has yet to write.
#[derive(Debug)]
pub(crate) struct Pending {
    study: i64,
    kind: &'static str,
    at_ms: i64,
    trial: u32,
    attempt: u32,
    json: String,
}

/// Adds an event of a trial (its number and attempt), or of the study itself (0, 0). It is written with the request's
/// transaction, all of them in one statement, and falls with the request's savepoint.
pub(crate) fn add(tx: &mut Tx, study: i64, kind: &'static str, (trial, attempt): (u32, u32), fields: &Value) {
    let (at_ms, json) = (tx.at_ms, fields.to_string());
    tx.events.push(Pending { study, kind, at_ms, trial, attempt, json });
}

/// Writes what has been added, in order.
pub(crate) async fn flush(tx: &mut Tx) -> Result<(), StoreError> {
    if tx.events.is_empty() {
        return Ok(());
    }
    let row = |e: Pending| json!([e.study, e.kind, e.at_ms, e.trial, e.attempt, e.json]);
    let rows = Value::Array(std::mem::take(&mut tx.events).into_iter().map(row).collect());
    let sql = "INSERT INTO events (study, type, at_ms, trial, attempt, json)
               SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(?)";
    let done = sqlx::query(sql).bind(rows.to_string()).execute(&mut tx.conn).await?;
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
