//! The trials of a new study. A small one is whole with the transaction that creates it; a large one is expanded in
//! pieces, so that nobody waits for long behind it. Until it is whole nothing of it is leased, and no person's order to
//! it is taken. What a crash interrupts goes on with the next start (see [`crate::expansion`]).

use std::sync::LazyLock;

use kapell_rpc::reason;
use kapell_search::study::{Pen, Written};
use serde_json::json;
use sqlx::SqliteConnection;

use super::many::{Many, Script, WIDEST};
use super::studies::StudyCore;
use super::writer::After;
use super::{Refusal, Specs, StoreError, Tx, events};

/// Trials that one transaction inserts.
pub(crate) const PIECE: u32 = 20_000;

static INSERT: LazyLock<Many> = LazyLock::new(|| {
    let sql = "INSERT INTO trials (created_at_ms, study, number, config, config_hash, shape_key, replicate,
                   epochs_wanted)
               SELECT ?, ?, m.* FROM (VALUES :rows) m WHERE m.column1 IS NOT NULL";
    Many::new(sql, 6)
});

/// Inserts trials of a study.
pub(super) async fn insert(tx: &mut Tx, study: i64, trials: &[Written]) -> Result<(), StoreError> {
    let at_ms = tx.at_ms;
    // A message must not be too large.
    for some in trials.chunks(4 * WIDEST) {
        let script = Script::default().write(
            &INSERT,
            some,
            |query| query.bind(at_ms).bind(study),
            |query, t| {
                let query = query.bind(t.number).bind(t.config.as_str()).bind(t.hash.as_str());
                query.bind(t.shape_key.as_str()).bind(t.replicate).bind(t.epochs)
            },
        );
        script.run_all(tx).await?;
    }
    Ok(())
}

/// Notes that a study has to be expanded.
pub(super) async fn begin(tx: &mut Tx, study: i64) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO expansions (study, next) VALUES (?, 1)")
        .bind(study)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// A study that is not whole yet.
pub(crate) struct Expansion {
    pub(crate) study: i64,
    /// The number of the next trial, and that of the last.
    pub(crate) next: u32,
    pub(crate) last: u32,
    pub(crate) pen: Pen,
}

/// The studies that are not whole yet.
pub(crate) async fn open(conn: &mut SqliteConnection) -> Result<Vec<i64>, StoreError> {
    Ok(sqlx::query_scalar("SELECT study FROM expansions ORDER BY study").fetch_all(conn).await?)
}

/// What is left to expand of a study; nothing, if it is whole, or gone.
pub(crate) async fn find(
    conn: &mut SqliteConnection,
    specs: &Specs,
    study: i64,
) -> Result<Option<Expansion>, StoreError> {
    let sql =
        "SELECT e.next, s.corpus_digest, s.split_digest FROM expansions e JOIN studies s ON s.id = e.study
               WHERE e.study = ?";
    let row: Option<(u32, String, String)> =
        sqlx::query_as(sql).bind(study).fetch_optional(&mut *conn).await?;
    let Some((next, corpus, split)) = row else { return Ok(None) };
    let spec = specs.get(conn, study).await?;
    let last = u32::try_from(spec.trials()).unwrap_or(u32::MAX);
    Ok(Some(Expansion { study, next, last, pen: spec.pen(&corpus, &split) }))
}

/// Inserts the next trials, which must be those that are next; the last ones make the study whole. False: they are not
/// next, or there is nothing left to expand.
pub(crate) async fn add(tx: &mut Tx, study: i64, trials: &[Written], last: u32) -> Result<bool, StoreError> {
    let next: Option<u32> = sqlx::query_scalar("SELECT next FROM expansions WHERE study = ?")
        .bind(study)
        .fetch_optional(&mut tx.conn)
        .await?;
    let Some(end) = trials.last().filter(|_| next == trials.first().map(|t| t.number)).map(|t| t.number)
    else {
        return Ok(false);
    };
    insert(tx, study, trials).await?;
    if end < last {
        let sql = "UPDATE expansions SET next = ? WHERE study = ?";
        sqlx::query(sql).bind(end + 1).bind(study).execute(&mut tx.conn).await?;
        return Ok(true);
    }
    for sql in [
        "DELETE FROM expansions WHERE study = ?1",
        "INSERT INTO study_counts (study, state, n) VALUES (?1, 'QUEUED', ?2)",
    ] {
        sqlx::query(sql).bind(study).bind(last).execute(&mut tx.conn).await?;
    }
    let name = tx.spec(study).await?.name.clone();
    created(tx, study, &name, u64::from(last));
    Ok(true)
}

/// What follows when a study is whole.
pub(super) fn created(tx: &mut Tx, study: i64, name: &str, trials: u64) {
    events::add(tx, study, "study.created", (0, 0), &json!({"name": name, "trials": trials}));
    tx.after.push(After::Wake);
    tracing::info!(study = name, trials, "study created");
}

/// Refuses what a person wants of a study that is not whole yet.
pub(crate) async fn must_be_whole(conn: &mut SqliteConnection, study: &StudyCore) -> Result<(), StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM expansions WHERE study = ?)";
    if sqlx::query_scalar(sql).bind(study.id).fetch_one(conn).await? {
        let text = format!("study \"{}\" is still being created: try again in a moment", study.name);
        return Err(Refusal::new(reason::OVERLOADED, text).into());
    }
    Ok(())
}
