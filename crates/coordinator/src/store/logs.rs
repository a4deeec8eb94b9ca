//! The logs of attempts: in pieces while they run, as one when they have ended; the last 256 KiB of each are kept.

use kapell_dispatch::Held;
use sqlx::SqliteConnection;

use super::error::bad_request;
use super::{StoreError, Tx, trials};

/// Bytes that are kept of an attempt's log.
const BYTES_MAX: i64 = 256 * 1024;
/// Bytes of one piece.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// What an attempt has logged, as far as it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) attempt: u32,
    pub(crate) text: String,
    /// Byte of the whole log at which the text ends.
    pub(crate) end: i64,
    /// Has the attempt not ended yet?
    pub(crate) running: bool,
}

/// Adds a piece that begins at byte `start` of the attempt's log; what is here already is not added again. Gives where
/// the log ends now.
pub(crate) async fn append(tx: &mut Tx, held: Held, start: i64, text: &str) -> Result<i64, StoreError> {
    if text.len() > PIECE_BYTES_MAX || start < 0 {
        return Err(bad_request(format!("a piece of a log has at most {PIECE_BYTES_MAX} bytes")));
    }
    trials::load_held(tx, held).await?;
    let sql = "SELECT start + length(CAST(text AS BLOB)) FROM log_pieces WHERE trial = ? AND attempt = ?
               ORDER BY start DESC LIMIT 1";
    let end: Option<i64> =
        sqlx::query_scalar(sql).bind(held.trial).bind(held.attempt).fetch_optional(&mut tx.conn).await?;
    let end = end.unwrap_or(0);
    let known = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let new = from_byte(text, known);
    if new.is_empty() {
        return Ok(end);
    }
    let skipped = i64::try_from(text.len() - new.len()).unwrap_or(0);
    let end = start + skipped + i64::try_from(new.len()).unwrap_or(0);
    sqlx::query("INSERT INTO log_pieces (trial, attempt, start, text) VALUES (?, ?, ?, ?)")
        .bind(held.trial)
        .bind(held.attempt)
        .bind(start + skipped)
        .bind(new)
        .execute(&mut tx.conn)
        .await?;
    let old =
        "DELETE FROM log_pieces WHERE trial = ? AND attempt = ? AND start + length(CAST(text AS BLOB)) <= ?";
    sqlx::query(old).bind(held.trial).bind(held.attempt).bind(end - BYTES_MAX).execute(&mut tx.conn).await?;
    Ok(end)
}

/// Keeps the end of a whole log, in place of the pieces that came before. `bytes` is the length of the whole; 0: `tail`
/// is all of it.
pub(crate) async fn keep(tx: &mut Tx, held: Held, tail: &str, bytes: i64) -> Result<(), StoreError> {
    if tail.is_empty() {
        return Ok(());
    }
    let length = i64::try_from(tail.len()).unwrap_or(i64::MAX);
    let kept = from_byte(tail, usize::try_from(length - BYTES_MAX).unwrap_or(0));
    let sql = "INSERT INTO logs (trial, attempt, log, bytes) SELECT trial, attempt, ?3, ?4 FROM attempts
               WHERE trial = ?1 AND attempt = ?2
               ON CONFLICT (trial, attempt) DO UPDATE SET log = excluded.log, bytes = excluded.bytes";
    sqlx::query(sql)
        .bind(held.trial)
        .bind(held.attempt)
        .bind(kept)
        .bind(bytes.max(length))
        .execute(&mut tx.conn)
        .await?;
    sqlx::query("DELETE FROM log_pieces WHERE trial = ? AND attempt = ?")
        .bind(held.trial)
        .bind(held.attempt)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// The log of an attempt (0: the newest that has one), behind byte `after` of the whole.
pub(crate) async fn read(
    conn: &mut SqliteConnection,
    trial: i64,
    attempt: u32,
    after: i64,
) -> Result<Option<Logged>, StoreError> {
    let sql = "SELECT a.attempt, a.outcome IS NULL FROM attempts a WHERE a.trial = ?1 AND (?2 = 0 OR a.attempt = ?2)
               AND (EXISTS (SELECT 1 FROM logs l WHERE l.trial = a.trial AND l.attempt = a.attempt)
                 OR EXISTS (SELECT 1 FROM log_pieces p WHERE p.trial = a.trial AND p.attempt = a.attempt))
               ORDER BY a.attempt DESC LIMIT 1";
    let found: Option<(u32, bool)> =
        sqlx::query_as(sql).bind(trial).bind(attempt).fetch_optional(&mut *conn).await?;
    let Some((attempt, running)) = found else { return Ok(None) };
    let whole: Option<(String, i64)> =
        sqlx::query_as("SELECT log, bytes FROM logs WHERE trial = ? AND attempt = ?")
            .bind(trial)
            .bind(attempt)
            .fetch_optional(&mut *conn)
            .await?;
    let (text, end) = match whole {
        Some((log, bytes)) => {
            let end = bytes.max(i64::try_from(log.len()).unwrap_or(0));
            (log, end)
        }
        None => pieces(conn, trial, attempt).await?,
    };
    let begin = end - i64::try_from(text.len()).unwrap_or(0);
    let skip = after.saturating_sub(begin).max(end - BYTES_MAX - begin);
    let text = from_byte(&text, usize::try_from(skip).unwrap_or(0)).to_owned();
    Ok(Some(Logged { attempt, text, end, running }))
}

async fn pieces(conn: &mut SqliteConnection, trial: i64, attempt: u32) -> Result<(String, i64), StoreError> {
    let sql = "SELECT start, text FROM log_pieces WHERE trial = ? AND attempt = ? ORDER BY start";
    let pieces: Vec<(i64, String)> = sqlx::query_as(sql).bind(trial).bind(attempt).fetch_all(conn).await?;
    let end = pieces.last().map_or(0, |(start, text)| start + i64::try_from(text.len()).unwrap_or(0));
    Ok((pieces.into_iter().map(|p| p.1).collect(), end))
}

/// A text from a byte on, or the next whole character.
fn from_byte(text: &str, byte: usize) -> &str {
    text.get(text.ceil_char_boundary(byte)..).unwrap_or_default()
}
