//! The history of studies: written with the change it tells of, read by whoever watches.

use std::sync::LazyLock;

use kapell_dispatch::report::Measurement;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{FromRow, SqliteConnection};

use super::many::{Bound, Many, Script};
use super::rows::MeasurementRow;
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
    /// Numbers that it takes: it stands for so many events.
    numbers: u32,
}

/// What is told of an epoch that is measured.
const MEASURED: &str = "trial.measured";

/// Epochs that one row tells of: what was measured is read where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Epochs {
    epochs: (u32, u32),
}

/// Adds an event of a trial (its number and attempt), or of the study itself (0, 0). It is written with the request's
/// transaction, all of them in one statement, and falls with the request's savepoint.
pub(crate) fn add(tx: &mut Tx, study: i64, kind: &'static str, (trial, attempt): (u32, u32), fields: &Value) {
    let (at_ms, json) = (tx.at_ms, fields.to_string());
    tx.events.push(Pending { study, kind, at_ms, trial, attempt, json, numbers: 1 });
}

/// Adds an event for each epoch of an attempt that is measured now: one row, whatever their number, that takes a number
/// for each of them and has the last.
pub(crate) fn add_measured(tx: &mut Tx, study: i64, (trial, attempt): (u32, u32), new: &[&Measurement]) {
    let ([first, ..], [.., last]) = (new, new) else { return };
    let json = json!(Epochs { epochs: (first.epoch, last.epoch) }).to_string();
    let (at_ms, numbers) = (tx.at_ms, u32::try_from(new.len()).unwrap_or(u32::MAX));
    tx.events.push(Pending { study, kind: MEASURED, at_ms, trial, attempt, json, numbers });
}

static INSERT: LazyLock<Many> = LazyLock::new(|| {
    let sql = "INSERT INTO events (seq, study, type, at_ms, trial, attempt, json)
               SELECT m.* FROM (VALUES :rows) m WHERE m.column1 IS NOT NULL";
    Many::new(sql, 7)
});

/// Writes what has been added, in order.
pub(crate) async fn flush(tx: &mut Tx) -> Result<(), StoreError> {
    flush_and(tx, "").await
}

/// Writes what has been added, in order, and then does this, all in one message.
pub(crate) async fn flush_and(tx: &mut Tx, then: &'static str) -> Result<(), StoreError> {
    if tx.events.is_empty() {
        return Script::default().then(then).run(tx).await.map(drop);
    }
    let mut seq = match tx.newest_event {
        Some(seq) => seq,
        None => newest(&mut tx.conn).await?,
    };
    let events = std::mem::take(&mut tx.events);
    let mut numbered = Vec::with_capacity(events.len());
    for event in &events {
        seq += i64::from(event.numbers);
        numbered.push((seq, event));
    }
    let bind = |query: Bound, (seq, e): &(i64, &Pending)| {
        let query = query.bind(*seq).bind(e.study).bind(e.kind).bind(e.at_ms);
        query.bind(e.trial).bind(e.attempt).bind(e.json.as_str())
    };
    Script::default().write(&INSERT, &numbered, |query| query, bind).then(then).run(tx).await?;
    tx.newest_event = Some(seq);
    tx.after.push(After::Told { seq });
    Ok(())
}

/// The largest number that an event was ever given.
async fn newest(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'";
    Ok(sqlx::query_scalar(sql).fetch_one(conn).await?)
}

/// Events of a study, in order.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) events: Vec<EventRow>,
    /// There may be more.
    pub(crate) is_full: bool,
}

/// Events of a study after `after`, in order: those that up to `limit` rows tell of.
pub(crate) async fn after(
    conn: &mut SqliteConnection,
    study: i64,
    after: i64,
    limit: i64,
) -> Result<Page, StoreError> {
    let sql = "SELECT seq, type, at_ms, trial, attempt, json FROM events
               WHERE study = ? AND seq > ? ORDER BY seq LIMIT ?";
    let rows: Vec<EventRow> =
        sqlx::query_as(sql).bind(study).bind(after).bind(limit).fetch_all(&mut *conn).await?;
    let is_full = i64::try_from(rows.len()) == Ok(limit);
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        match serde_json::from_str(&row.json) {
            Ok(Epochs { epochs }) if row.kind == MEASURED => {
                let told = measured(conn, study, &row, epochs).await?;
                events.extend(told.into_iter().filter(|event| event.seq > after));
            }
            _ => events.push(row),
        }
    }
    Ok(Page { events, is_full })
}

/// The events of a row that tells of measured epochs: the last of them has the row's number.
async fn measured(
    conn: &mut SqliteConnection,
    study: i64,
    row: &EventRow,
    (first, last): (u32, u32),
) -> Result<Vec<EventRow>, StoreError> {
    let sql = "SELECT m.epoch, m.attempt, m.train_loss, m.val_loss, m.seconds, m.tokens_per_s, m.weights_digest
               FROM trials t JOIN measurements m ON m.trial = t.id AND m.attempt = ?3 AND m.epoch BETWEEN ?4 AND ?5
               WHERE t.study = ?1 AND t.number = ?2 ORDER BY m.epoch";
    let rows: Vec<MeasurementRow> = sqlx::query_as(sql)
        .bind(study)
        .bind(row.trial)
        .bind(row.attempt)
        .bind(first)
        .bind(last)
        .fetch_all(conn)
        .await?;
    let event = |m: MeasurementRow| EventRow {
        seq: row.seq - i64::from(last.saturating_sub(m.epoch)),
        json: json!({"epoch": m.epoch, "train_loss": m.train_loss, "val_loss": m.val_loss,
            "seconds": m.seconds, "tokens_per_s": m.tokens_per_s})
        .to_string(),
        ..row.clone()
    };
    Ok(rows.into_iter().map(event).collect())
}
