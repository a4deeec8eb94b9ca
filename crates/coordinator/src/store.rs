//! The store: all SQL of the coordinator. SQLite is the truth; what is here and not there has not happened.
//!
//! One writer (see [`writer`]) and a pool of read-only connections. A change is: load the row, ask `dispatch` what
//! may happen, update it where it is still as loaded, commit, and only then tell anybody.

pub(crate) mod backup;
pub(crate) mod blobs;
pub(crate) mod checkpoints;
#[cfg(test)]
mod conformance;
pub(crate) mod divergence;
pub(crate) mod doctor;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod expand;
pub(crate) mod finish;
pub(crate) mod grant;
pub(crate) mod lease;
pub(crate) mod logs;
mod many;
pub(crate) mod models;
pub(crate) mod open;
pub(crate) mod promote;
pub(crate) mod quarantine;
pub(crate) mod query;
pub(crate) mod report;
pub(crate) mod rows;
pub(crate) mod studies;
#[cfg(test)]
mod tests;
pub(crate) mod together;
pub(crate) mod trials;
pub(crate) mod upkeep;
pub(crate) mod workers;
pub(crate) mod writer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kapell_search::StudySpec;
use sqlx::sqlite::SqlitePool;

pub(crate) use error::{Refusal, StoreError, bad_request};
pub(crate) use open::{OpenError, open};
pub(crate) use writer::{Tx, Writer};

/// The store of a coordinator.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) writer: Writer,
    pub(crate) readers: SqlitePool,
    pub(crate) specs: Specs,
    /// Which life of the store this is: a restore begins another.
    pub(crate) life: u32,
}

/// The parsed study files, by study: they never change once a study is created.
#[derive(Clone, Default)]
pub(crate) struct Specs(Arc<Mutex<HashMap<i64, Arc<StudySpec>>>>);

impl Specs {
    /// The study file of a study, parsed once.
    pub(crate) async fn get(
        &self,
        conn: &mut sqlx::SqliteConnection,
        study: i64,
    ) -> Result<Arc<StudySpec>, StoreError> {
        if let Some(spec) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&study) {
            return Ok(Arc::clone(spec));
        }
        let text: String = sqlx::query_scalar("SELECT spec_toml FROM studies WHERE id = ?")
            .bind(study)
            .fetch_one(conn)
            .await?;
        let spec = StudySpec::parse(&text)
            .map_err(|e| StoreError::Corrupt(format!("the study file of study {study}: {e}")))?;
        let spec = Arc::new(spec);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(study, Arc::clone(&spec));
        Ok(spec)
    }

    /// Forgets everything: a transaction that was given up may have created studies whose numbers come again.
    pub(crate) fn forget_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A deleted study's file is of no use any more.
    pub(crate) fn forget(&self, study: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&study);
    }
}

/// Wall-clock milliseconds, for people to read. No decision compares them.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
