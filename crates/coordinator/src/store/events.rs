//! The history of studies: written with the change it tells of, read by whoever watches.

use std::sync::LazyLock;

use serde_json::Value;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};
use sqlx::{FromRow, SqliteConnection};

use super::many::{Many, WIDEST};
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

static INSERT: LazyLock<Many> = LazyLock::new(|| {
    let sql = "INSERT INTO events (study, type, at_ms, trial, attempt, json)
               SELECT m.* FROM (VALUES :rows) m WHERE m.column1 IS NOT NULL";
    Many::new(sql, 6)
});

/// Writes what has been added, in order.
pub(crate) async fn flush(tx: &mut Tx) -> Result<(), StoreError> {
    let events = std::mem::take(&mut tx.events);
    for some in events.chunks(WIDEST) {
        let rows = |query| {
            some.iter().fold(query, |query: Query<'_, Sqlite, SqliteArguments>, e| {
                let query = query.bind(e.study).bind(e.kind).bind(e.at_ms);
                query.bind(e.trial).bind(e.attempt).bind(e.json.as_str())
            })
        };
        let done = INSERT.query(some.len(), |query| query, rows).execute(&mut tx.conn).await?;
        tx.after.push(After::Told { seq: done.last_insert_rowid() });
    }
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
