//! What people, dashboards and CI ask: read-only, on the pool of readers (and inside writes).

use kapell_dispatch::TrialState;
use kapell_rpc::reason;
use kapell_search::options;
use kapell_search::study::Direction;
use kapell_search::{Config, OptionValue};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::error::{bad_request, not_found};
use super::rows::{AttemptRow, FailureRow, MeasurementRow, StudyRow, StudyView, TrialRow};
use super::studies::StudyCore;
use super::{Refusal, Specs, StoreError, Tx, expand};

const TRIAL: &str = "SELECT t.*, s.name AS study_name, s.uuid AS study_uuid, s.corpus_digest,
        a.worker, a.device, a.program_version, a.kind, a.dtype,
        b.digest AS best_digest, b.epoch AS best_at, b.val_loss AS best_loss, b.bytes AS best_bytes,
        l.digest AS last_digest, l.epoch AS last_at, l.val_loss AS last_loss, l.bytes AS last_bytes
    FROM trials t JOIN studies s ON s.id = t.study
    LEFT JOIN attempts a ON a.trial = t.id AND a.attempt = t.attempts
    LEFT JOIN checkpoints b ON b.trial = t.id AND b.role = 'best'
    LEFT JOIN checkpoints l ON l.trial = t.id AND l.role = 'last'";

const STUDY: &str = "SELECT uuid, name, state, reason, spec_toml, corpus, corpus_digest, split_digest,
        configurations, created_at_ms FROM studies";

const BEST: &str =
    "SELECT id FROM trials WHERE study = ? AND state = 'COMPLETE' ORDER BY objective, number LIMIT 1";
const BEST_OF_HIGH: &str = "SELECT id FROM trials WHERE study = ? AND state = 'COMPLETE' ORDER BY objective DESC, number DESC LIMIT 1";

/// The answer that a request was given before, if it was.
pub(crate) async fn answer(
    conn: &mut SqliteConnection,
    kind: &'static str,
    scope: &str,
    id: &str,
) -> Result<Option<String>, StoreError> {
    if id.is_empty() {
        return Err(bad_request("the request has no request_id"));
    }
    let sql = "SELECT kind, scope, answer FROM requests WHERE id = ?";
    let row: Option<(String, String, String)> = sqlx::query_as(sql).bind(id).fetch_optional(conn).await?;
    match row {
        None => Ok(None),
        Some((k, s, answer)) if k == kind && s == scope => Ok(Some(answer)),
        Some((k, s, _)) => {
            let text = format!("the request id {id} was used for another request ({k} of {s})");
            Err(Refusal::new(reason::REQUEST_ID_REUSED, text).into())
        }
    }
}

/// Remembers the answer to a request.
pub(crate) async fn remember(
    tx: &mut Tx,
    kind: &'static str,
    scope: &str,
    id: &str,
    answer: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO requests (id, kind, scope, answer, at_ms) VALUES (?, ?, ?, ?, ?)")
        .bind(id)
        .bind(kind)
        .bind(scope)
        .bind(answer)
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// The id of a study's trial.
pub(crate) async fn trial_id(
    conn: &mut SqliteConnection,
    study: &StudyCore,
    number: u32,
) -> Result<i64, StoreError> {
    if let Some(id) = numbered(conn, study.id, number).await? {
        return Ok(id);
    }
    let last: u32 = sqlx::query_scalar("SELECT configurations FROM studies WHERE id = ?")
        .bind(study.id)
        .fetch_one(&mut *conn)
        .await?;
    if (1..=last).contains(&number) {
        if expand::to_come(conn, study.id).await?.is_some() {
            let text = format!("trial {}/{number} is still being created: try again in a moment", study.name);
            return Err(Refusal::new(reason::OVERLOADED, text).into());
        }
        // It may have come since.
        if let Some(id) = numbered(conn, study.id, number).await? {
            return Ok(id);
        }
    }
    Err(not_found(format!("there is no trial {}/{number}: the study has 1 to {last}", study.name)))
}

async fn numbered(conn: &mut SqliteConnection, study: i64, number: u32) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT id FROM trials WHERE study = ? AND number = ?";
    Ok(sqlx::query_scalar(sql).bind(study).bind(number).fetch_optional(conn).await?)
}

/// A trial with all that a list shows.
pub(crate) async fn trial(conn: &mut SqliteConnection, id: i64) -> Result<TrialRow, StoreError> {
    let sql = format!("{TRIAL} WHERE t.id = ?");
    sqlx::query_as(AssertSqlSafe(sql))
        .bind(id)
        .fetch_optional(conn)
        .await?
        .ok_or_else(|| not_found("the trial is gone"))
}

/// A trial's curve: the rows of its current lineage.
pub(crate) async fn measurements(
    conn: &mut SqliteConnection,
    trial: i64,
) -> Result<Vec<MeasurementRow>, StoreError> {
    let sql =
        "SELECT epoch, attempt, train_loss, val_loss, seconds, tokens_per_s, weights_digest FROM measurements
               WHERE trial = ? AND superseded = 0 ORDER BY epoch";
    Ok(sqlx::query_as(sql).bind(trial).fetch_all(conn).await?)
}

/// A trial's attempts, oldest first.
pub(crate) async fn attempts(conn: &mut SqliteConnection, trial: i64) -> Result<Vec<AttemptRow>, StoreError> {
    let sql =
        "SELECT attempt, worker, started_at_ms, ended_at_ms, outcome, reason, program_version, kind, dtype,
                      start_epoch, start_checkpoint
               FROM attempts WHERE trial = ? ORDER BY attempt";
    Ok(sqlx::query_as(sql).bind(trial).fetch_all(conn).await?)
}

/// The ids of all studies, oldest first.
pub(crate) async fn study_ids(conn: &mut SqliteConnection) -> Result<Vec<i64>, StoreError> {
    Ok(sqlx::query_scalar("SELECT id FROM studies ORDER BY id").fetch_all(conn).await?)
}

/// A study with its counts, best trial, coverage and failures.
pub(crate) async fn study(
    conn: &mut SqliteConnection,
    specs: &Specs,
    id: i64,
) -> Result<StudyView, StoreError> {
    let row: StudyRow = sqlx::query_as(AssertSqlSafe(format!("{STUDY} WHERE id = ?")))
        .bind(id)
        .fetch_optional(&mut *conn)
        .await?
        .ok_or_else(|| not_found("the study is gone"))?;
    let spec = specs.get(conn, id).await?;
    let counts = counts(conn, id).await?;
    let best = match best(conn, id, spec.objective.direction).await? {
        Some(best) => Some(trial(conn, best).await?),
        None => None,
    };
    let duplicates = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT 1 FROM trials WHERE study = ? GROUP BY substr(config_hash, 41), replicate
                               HAVING count(*) > 1)",
    )
    .bind(id)
    .fetch_one(&mut *conn)
    .await?;
    let lost = lost(conn, id, spec.checkpoint.keep.best(), spec.checkpoint.keep.last()).await?;
    let failures = failures(conn, id).await?;
    let last_seq = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM events WHERE study = ?")
        .bind(id)
        .fetch_one(&mut *conn)
        .await?;
    Ok(StudyView { row, spec, counts, best, duplicates, lost, failures, last_seq })
}

/// Its trials by their states, with those that are still to come.
async fn counts(conn: &mut SqliteConnection, study: i64) -> Result<Vec<(String, i64)>, StoreError> {
    let mut counts: Vec<(String, i64)> = sqlx::query_as("SELECT state, n FROM study_counts WHERE study = ?")
        .bind(study)
        .fetch_all(&mut *conn)
        .await?;
    if let Some((state, n)) = expand::to_come(conn, study).await? {
        match counts.iter_mut().find(|count| count.0 == state.name()) {
            Some(count) => count.1 += n,
            None => counts.push((state.name().to_owned(), n)),
        }
    }
    Ok(counts)
}

/// The best COMPLETE trial, by the index.
pub(crate) async fn best(
    conn: &mut SqliteConnection,
    study: i64,
    direction: Direction,
) -> Result<Option<i64>, StoreError> {
    let sql = match direction {
        Direction::Minimize => BEST,
        Direction::Maximize => BEST_OF_HIGH,
    };
    Ok(sqlx::query_scalar(sql).bind(study).fetch_optional(conn).await?)
}

/// COMPLETE trials that miss an epoch of their curve or a checkpoint that the study keeps.
async fn lost(conn: &mut SqliteConnection, study: i64, best: bool, last: bool) -> Result<i64, StoreError> {
    let sql = "SELECT count(*) FROM trials t WHERE t.study = ?1 AND t.state = 'COMPLETE' AND (
                   (SELECT count(*) FROM measurements m WHERE m.trial = t.id AND m.superseded = 0)
                       < t.epochs_wanted
                   OR (?2 AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.trial = t.id AND c.role = 'best'))
                   OR (?3 AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.trial = t.id AND c.role = 'last')))";
    Ok(sqlx::query_scalar(sql).bind(study).bind(best).bind(last).fetch_one(conn).await?)
}

async fn failures(conn: &mut SqliteConnection, study: i64) -> Result<Vec<FailureRow>, StoreError> {
    let sql = "SELECT t.reason AS reason, count(*) AS count, group_concat(DISTINCT a.worker) AS workers,
                      min(t.number) AS example
               FROM trials t LEFT JOIN attempts a ON a.trial = t.id AND a.attempt = t.attempts
               WHERE t.study = ? AND t.state = 'FAILED' GROUP BY t.reason ORDER BY count(*) DESC, t.reason";
    let rows: Vec<FailureRow> = sqlx::query_as(sql).bind(study).fetch_all(conn).await?;
    Ok(merge(rows))
}

/// Groups reasons that differ in their numbers only ("loss became NaN at epoch 3, update 41"); the most frequent
/// one speaks for its group.
fn merge(rows: Vec<FailureRow>) -> Vec<FailureRow> {
    let mut groups: Vec<(String, FailureRow)> = Vec::new();
    for row in rows {
        let kind = without_numbers(&row.reason);
        match groups.iter_mut().find(|g| g.0 == kind) {
            Some((_, group)) => {
                group.count = group.count.saturating_add(row.count);
                group.example = group.example.min(row.example);
                let workers = group.workers.iter().chain(&row.workers).flat_map(|w| w.split(','));
                let workers: std::collections::BTreeSet<&str> = workers.collect();
                group.workers = Some(workers.into_iter().collect::<Vec<_>>().join(","));
            }
            None => groups.push((kind, row)),
        }
    }
    groups.sort_by_key(|g| std::cmp::Reverse(g.1.count));
    groups.into_iter().map(|g| g.1).collect()
}

fn without_numbers(reason: &str) -> String {
    let mut kind = String::with_capacity(reason.len());
    for c in reason.chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        if !(c == '#' && kind.ends_with('#')) {
            kind.push(c);
        }
    }
    kind
}

/// Which trials, in which order.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrialFilter {
    /// Ids; empty: every study.
    pub(crate) studies: Vec<i64>,
    pub(crate) state: Option<TrialState>,
    pub(crate) sort: String,
    pub(crate) descending: bool,
    /// Options that must be equal.
    pub(crate) options: Config,
}

impl TrialFilter {
    /// The query for ids. What a caller gave is bound, never pasted, but for the name of a known option.
    fn sql(&self) -> Result<String, StoreError> {
        let mut sql =
            "SELECT t.id FROM trials t WHERE (?1 = '[]' OR t.study IN (SELECT value FROM json_each(?1)))
            AND (?2 = '' OR t.state = ?2)"
                .to_owned();
        for (i, name) in self.options.options.keys().enumerate() {
            let Some(option) = options::find(name) else { return Err(unknown_option(name)) };
            sql.push_str(&format!(" AND json_extract(t.config, '$.{}') = ?{}", option.name, i + 4));
        }
        let order = if self.descending { "DESC" } else { "ASC" };
        let key = match self.sort.as_str() {
            "" | "number" => {
                sql.push_str(&format!(" ORDER BY t.study, t.number {order} LIMIT ?3"));
                return Ok(sql);
            }
            "objective" => "t.objective".to_owned(),
            "seconds" => "t.seconds".to_owned(),
            name => match options::find(name) {
                Some(option) => format!("json_extract(t.config, '$.{}')", option.name),
                None => return Err(unknown_option(name)),
            },
        };
        sql.push_str(&format!(" ORDER BY {key} IS NULL, {key} {order}, t.study, t.number LIMIT ?3"));
        Ok(sql)
    }
}

fn unknown_option(name: &str) -> StoreError {
    let known = options::OPTIONS.iter().map(|o| o.name).chain(["number", "objective", "seconds"]);
    let near = options::nearest(name, known).map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
    bad_request(format!("there is no option \"{name}\"{near}"))
}

/// The ids of the trials asked for, in order: what a listing goes through, whatever changes meanwhile.
pub(crate) async fn trial_ids(
    conn: &mut SqliteConnection,
    filter: &TrialFilter,
    limit: i64,
) -> Result<Vec<i64>, StoreError> {
    let studies = serde_json::Value::from(filter.studies.clone()).to_string();
    let mut query = sqlx::query_scalar(AssertSqlSafe(filter.sql()?))
        .bind(studies)
        .bind(filter.state.map_or("", TrialState::name))
        .bind(limit);
    for value in filter.options.options.values() {
        query = match value {
            OptionValue::Int(i) => query.bind(*i),
            OptionValue::Float(x) => query.bind(*x),
            OptionValue::Bool(b) => query.bind(*b),
            OptionValue::Text(t) => query.bind(t.as_str()),
        };
    }
    Ok(query.fetch_all(conn).await?)
}

/// Trials in the order of these ids; those that are gone are left out.
pub(crate) async fn trials(conn: &mut SqliteConnection, ids: &[i64]) -> Result<Vec<TrialRow>, StoreError> {
    let sql = format!("{TRIAL} WHERE t.id IN (SELECT value FROM json_each(?1))");
    let wanted = serde_json::Value::from(ids.to_vec()).to_string();
    let rows: Vec<TrialRow> = sqlx::query_as(AssertSqlSafe(sql)).bind(wanted).fetch_all(conn).await?;
    let mut by_id: std::collections::HashMap<i64, TrialRow> = rows.into_iter().map(|r| (r.id, r)).collect();
    Ok(ids.iter().filter_map(|id| by_id.remove(id)).collect())
}

#[cfg(test)]
mod tests {
    use crate::store::tests::{open, plan};

    #[tokio::test]
    async fn the_best_trial_is_the_first_of_an_index() {
        let house = open().await;
        for sql in [super::BEST, super::BEST_OF_HIGH] {
            let plan = plan(&house.store, sql).await;
            assert_eq!(plan, ["SEARCH trials USING COVERING INDEX trials_best (study=?)"]);
        }
    }

    #[test]
    fn failures_that_differ_in_numbers_only_are_one_group() {
        let row = |reason: &str, count, workers: &str, example| super::FailureRow {
            reason: reason.into(),
            count,
            workers: Some(workers.into()),
            example,
        };
        let groups = super::merge(vec![
            row("out of memory", 3, "a", 9),
            row("NaN at epoch 3, update 41", 2, "a,b", 5),
            row("NaN at epoch 12, update 7", 2, "c", 4),
        ]);
        let told: Vec<_> = groups.iter().map(|g| (g.reason.as_str(), g.count, g.example)).collect();
        assert_eq!(told, [("NaN at epoch 3, update 41", 4, 4), ("out of memory", 3, 9)]);
        assert_eq!(groups[0].workers.as_deref(), Some("a,b,c"));
    }
}
