//! What a store operation gives instead of a result.

use kapell_rpc::reason;
use thiserror::Error;

/// A request that is refused, with its documented reason (see [`kapell_rpc::reason`]).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("no space left on the coordinator's disk")]
    DiskFull,
    /// Reading or writing the disk failed: what is on it is unknown until recovery has judged it.
    #[error("the store has failed: {0}")]
    Failed(String),
    #[error("the coordinator is ending")]
    Closed,
    /// More waits for the writer than it may.
    #[error("the coordinator has more to write than it can: try again in a moment")]
    Overloaded,
    /// A row that no version of this program writes.
    #[error("the database holds what it should not: {0}")]
    Corrupt(String),
    /// A blob's file could not be read or written.
    #[error("a file of the data folder failed: {0}")]
    File(std::io::Error),
    #[error("unexpected database error: {0}")]
    Sql(sqlx::Error),
}

/// SQLite's primary result codes that matter here (<https://sqlite.org/rescode.html>).
const SQLITE_IOERR: i64 = 10;
const SQLITE_CORRUPT: i64 = 11;
const SQLITE_FULL: i64 = 13;

const SQLITE_NOTADB: i64 = 26;

fn code(error: &sqlx::Error) -> Option<i64> {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code)?;
    Some(code.parse::<i64>().ok()? & 0xff)
}

/// Whether an error while opening comes of a full disk.
pub(crate) fn is_full(error: &sqlx::Error) -> bool {
    code(error) == Some(SQLITE_FULL)
}

/// Whether an error while opening comes of a file that is damaged or no database.
pub(crate) fn is_damaged(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(SQLITE_CORRUPT | SQLITE_NOTADB))
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match code(&error) {
            Some(SQLITE_FULL) => Self::DiskFull,
            Some(SQLITE_IOERR | SQLITE_CORRUPT) => Self::Failed(error.to_string()),
            _ => Self::Sql(error),
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::File(error),
        }
    }
}

impl StoreError {
    /// Has the whole transaction to be given up, and not only this request's savepoint?
    pub(crate) fn spoils_the_batch(&self) -> bool {
        matches!(self, Self::DiskFull | Self::Failed(_))
    }

    /// A copy for each of the requests that share its fate.
    pub(crate) fn share(&self) -> Self {
        match self {
            Self::Refused(r) => Self::Refused(r.clone()),
            Self::DiskFull => Self::DiskFull,
            Self::Closed => Self::Closed,
            Self::Overloaded => Self::Overloaded,
            Self::Corrupt(text) => Self::Corrupt(text.clone()),
            Self::Failed(text) => Self::Failed(text.clone()),
            Self::Sql(error) => Self::Failed(error.to_string()),
            Self::File(error) => Self::Failed(error.to_string()),
        }
    }
}

/// Shorthand: nothing of this name.
pub(crate) fn not_found(what: impl Into<String>) -> StoreError {
    Refusal::new(reason::NOT_FOUND, what).into()
}

/// Shorthand: a request that makes no sense.
pub(crate) fn bad_request(what: impl Into<String>) -> StoreError {
    Refusal::new(reason::BAD_REQUEST, what).into()
}
