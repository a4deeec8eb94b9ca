//! What a doctor asks of the database, and what he changes. Looks work on any schema that this program knows, since
//! they come before its migration.

use kapell_dispatch::Held;
use sqlx::SqliteConnection;

use super::{StoreError, Tx, studies, trials};

/// A blob on record.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct BlobRow {
    pub(crate) digest: String,
    pub(crate) size: i64,
    pub(crate) damaged: bool,
}

/// Every blob on record.
pub(crate) async fn blobs(conn: &mut SqliteConnection) -> Result<Vec<BlobRow>, StoreError> {
    Ok(sqlx::query_as("SELECT digest, size, damaged FROM blobs ORDER BY digest").fetch_all(conn).await?)
}

/// Is this blob on record (still)?
pub(crate) async fn has_blob(conn: &mut SqliteConnection, digest: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ?)")
        .bind(digest)
        .fetch_one(conn)
        .await?)
}

/// Who needs a blob, and whether it is lost to them: "the last checkpoint of demo/3", "the model demo:2".
pub(crate) async fn users(
    conn: &mut SqliteConnection,
    digest: &str,
) -> Result<Vec<(String, bool)>, StoreError> {
    let sql = "WITH named (digest) AS (
            SELECT ?1 UNION SELECT manifest FROM manifest_files WHERE digest = ?1)
        SELECT 'the corpus of ' || name, 1 FROM studies WHERE corpus_digest = ?1
        UNION ALL
        SELECT 'the ' || c.role || ' checkpoint of ' || s.name || '/' || t.number, t.state IN ('COMPLETE', 'PRUNED')
            FROM checkpoints c JOIN trials t ON t.id = c.trial JOIN studies s ON s.id = t.study
            WHERE c.digest IN (SELECT digest FROM named)
        UNION ALL
        SELECT 'the model ' || m.name || ':' || v.version, 1 FROM versions v JOIN models m ON m.id = v.model
            WHERE v.digest IN (SELECT digest FROM named)";
    Ok(sqlx::query_as(sql).bind(digest).fetch_all(conn).await?)
}

/// Trials that would go on from a checkpoint with this blob: (trial, name).
pub(crate) async fn resumers(
    conn: &mut SqliteConnection,
    digest: &str,
) -> Result<Vec<(i64, String)>, StoreError> {
    let sql = "SELECT t.id, s.name || '/' || t.number
        FROM checkpoints c JOIN trials t ON t.id = c.trial JOIN studies s ON s.id = t.study
        WHERE t.state IN ('QUEUED', 'RUNNING', 'PAUSED', 'FAILED', 'CANCELED')
          AND (c.digest = ?1 OR c.digest IN (SELECT manifest FROM manifest_files WHERE digest = ?1))
        GROUP BY t.id ORDER BY t.id";
    Ok(sqlx::query_as(sql).bind(digest).fetch_all(conn).await?)
}

/// Studies whose count of trials in a state is not what is counted: (study, name, state, on record, counted).
pub(crate) async fn miscounts(
    conn: &mut SqliteConnection,
) -> Result<Vec<(i64, String, String, i64, i64)>, StoreError> {
    let sql = "WITH counted (study, state, n) AS (SELECT study, state, count(*) FROM trials GROUP BY study, state),
             pairs (study, state) AS (SELECT study, state FROM counted UNION SELECT study, state FROM study_counts)
        SELECT p.study, s.name, p.state, coalesce(k.n, 0), coalesce(c.n, 0)
        FROM pairs p JOIN studies s ON s.id = p.study
        LEFT JOIN study_counts k ON k.study = p.study AND k.state = p.state
        LEFT JOIN counted c ON c.study = p.study AND c.state = p.state
        WHERE coalesce(k.n, 0) <> coalesce(c.n, 0) ORDER BY p.study, p.state";
    Ok(sqlx::query_as(sql).fetch_all(conn).await?)
}

/// COMPLETE trials that miss an epoch, or that have neither checkpoint: (name, what).
pub(crate) async fn hollow(conn: &mut SqliteConnection) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT s.name || '/' || t.number, CASE
            WHEN m.n < t.epochs_wanted THEN 'has ' || m.n || ' of ' || t.epochs_wanted || ' epochs on record'
            ELSE 'has no checkpoint' END
        FROM trials t JOIN studies s ON s.id = t.study
        JOIN (SELECT t.id, (SELECT count(*) FROM measurements m WHERE m.trial = t.id AND m.superseded = 0) AS n,
                     EXISTS (SELECT 1 FROM checkpoints c WHERE c.trial = t.id) AS kept
              FROM trials t WHERE t.state = 'COMPLETE') m ON m.id = t.id
        WHERE m.n < t.epochs_wanted OR NOT m.kept ORDER BY t.id";
    Ok(sqlx::query_as(sql).fetch_all(conn).await?)
}

/// An attempt that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct OpenAttempt {
    pub(crate) trial: i64,
    pub(crate) attempt: u32,
    pub(crate) name: String,
    pub(crate) worker: String,
    /// Its trial is RUNNING, and held by it.
    pub(crate) holds: bool,
    /// The process that took it is the one on record under its worker's name.
    pub(crate) known: bool,
    pub(crate) last_seen_ms: Option<i64>,
}

/// Every attempt that has not ended.
pub(crate) async fn open_attempts(conn: &mut SqliteConnection) -> Result<Vec<OpenAttempt>, StoreError> {
    let sql = "SELECT a.trial, a.attempt, s.name || '/' || t.number AS name, a.worker,
            t.state = 'RUNNING' AND t.running_attempt = a.attempt AS holds,
            coalesce(w.incarnation = a.incarnation, 0) AS known, w.last_seen_ms
        FROM attempts a JOIN trials t ON t.id = a.trial JOIN studies s ON s.id = t.study
        LEFT JOIN workers w ON w.name = a.worker WHERE a.outcome IS NULL ORDER BY a.trial, a.attempt";
    Ok(sqlx::query_as(sql).fetch_all(conn).await?)
}

/// RUNNING trials whose attempt has ended or was never there: (trial, attempt, name).
pub(crate) async fn unheld(conn: &mut SqliteConnection) -> Result<Vec<(i64, u32, String)>, StoreError> {
    let sql = "SELECT t.id, t.running_attempt, s.name || '/' || t.number
        FROM trials t JOIN studies s ON s.id = t.study
        WHERE t.state = 'RUNNING' AND NOT EXISTS (SELECT 1 FROM attempts a
            WHERE a.trial = t.id AND a.attempt = t.running_attempt AND a.outcome IS NULL) ORDER BY t.id";
    Ok(sqlx::query_as(sql).fetch_all(conn).await?)
}

/// Studies whose trials are not all there yet. Schemas before 4 have none.
pub(crate) async fn expanding(conn: &mut SqliteConnection, schema: i64) -> Result<Vec<i64>, StoreError> {
    if schema < 4 {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar("SELECT study FROM expansions").fetch_all(conn).await?)
}

/// COMPLETE studies with trials that are open: (study, name, open trials).
pub(crate) async fn unfinished(conn: &mut SqliteConnection) -> Result<Vec<(i64, String, i64)>, StoreError> {
    let sql = "SELECT s.id, s.name, count(*) FROM studies s JOIN trials t ON t.study = s.id
        WHERE s.state = 'COMPLETE' AND t.state IN ('QUEUED', 'RUNNING', 'PAUSED') GROUP BY s.id ORDER BY s.id";
    Ok(sqlx::query_as(sql).fetch_all(conn).await?)
}

/// Studies that should be COMPLETE, having nothing open: (study, name).
pub(crate) async fn overdue(conn: &mut SqliteConnection) -> Result<Vec<(i64, String)>, StoreError> {
    let sql = "SELECT s.id, s.name FROM studies s WHERE s.state IN ('ACTIVE', 'PAUSED') AND NOT EXISTS (
            SELECT 1 FROM trials t WHERE t.study = s.id AND t.state IN ('QUEUED', 'RUNNING', 'PAUSED')) ORDER BY s.id";
    Ok(sqlx::query_as(sql).fetch_all(conn).await?)
}

/// What mends a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mend {
    /// The blob counts as absent until it is uploaded again; trials that would go on from it begin anew.
    Damaged { digest: String, resumers: Vec<i64> },
    /// The counts of a study are counted again.
    Recount { study: i64 },
    /// The attempt is lost, its trial queued again.
    Lose { held: Held, why: String },
    /// An attempt of a trial that somebody else holds, or nobody, is ended.
    EndLeftOver { held: Held },
    /// A RUNNING trial that no attempt holds is queued again.
    Requeue { held: Held },
    /// The study is judged.
    Judge { study: i64 },
}

/// Mends one finding.
pub(crate) async fn mend(tx: &mut Tx, mend: &Mend) -> Result<(), StoreError> {
    match mend {
        Mend::Damaged { digest, resumers } => {
            super::blobs::damaged(tx, digest).await?;
            for trial in resumers {
                let sql = "DELETE FROM checkpoints WHERE trial = ?1 AND (digest = ?2 OR digest IN (
                               SELECT manifest FROM manifest_files WHERE digest = ?2))";
                sqlx::query(sql).bind(trial).bind(digest).execute(&mut tx.conn).await?;
            }
            Ok(())
        }
        Mend::Recount { study } => {
            for sql in [
                "DELETE FROM study_counts WHERE study = ?",
                "INSERT INTO study_counts (study, state, n)
                     SELECT study, state, count(*) FROM trials WHERE study = ? GROUP BY state",
            ] {
                sqlx::query(sql).bind(study).execute(&mut tx.conn).await?;
            }
            Ok(())
        }
        Mend::Lose { held, why } => {
            let trial = trials::load_held(tx, *held).await?;
            trials::lose(tx, &trial, held.attempt, why).await?;
            studies::judge(tx, trial.study).await
        }
        Mend::EndLeftOver { held } => {
            sqlx::query(
                "UPDATE attempts SET outcome = 'LOST', reason = 'left open', ended_at_ms = ?3
                         WHERE trial = ?1 AND attempt = ?2 AND outcome IS NULL",
            )
            .bind(held.trial)
            .bind(held.attempt)
            .bind(tx.at_ms)
            .execute(&mut tx.conn)
            .await?;
            Ok(())
        }
        Mend::Requeue { held } => {
            let sql = trials::fenced!("UPDATE trials SET state = 'QUEUED', running_attempt = NULL");
            sqlx::query(sql)
                .bind(held.trial)
                .bind(held.attempt)
                .bind("RUNNING")
                .execute(&mut tx.conn)
                .await?;
            match trials::load(tx, held.trial).await? {
                Some(trial) => studies::judge(tx, trial.study).await,
                None => Ok(()),
            }
        }
        Mend::Judge { study } => studies::judge(tx, *study).await,
    }
}
