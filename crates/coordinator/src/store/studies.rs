//! Studies: created once and expanded, paused, resumed, canceled, deleted; judged whenever a trial has ended.

use kapell_dispatch::study::{self, StudyEffect};
use kapell_dispatch::{Held, StudyEvent, StudyState, TrialEvent, TrialState};
use kapell_rpc::reason;
use kapell_search::StudySpec;
use serde_json::json;
use sqlx::{FromRow, SqliteConnection};

use super::error::not_found;
use super::trials;
use super::writer::After;
use super::{Refusal, StoreError, Tx, events, expand};

/// Why a trial waits that a person's pause of its study has stopped.
pub(crate) const STUDY_PAUSED: &str = "its study is paused";

/// What decisions about a study need to know of it.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct StudyCore {
    pub(crate) id: i64,
    pub(crate) name: String,
    state: String,
    pub(crate) corpus_digest: String,
    pub(crate) split_digest: String,
}

impl StudyCore {
    pub(crate) fn state(&self) -> Result<StudyState, StoreError> {
        StudyState::parse(&self.state)
            .ok_or_else(|| StoreError::Corrupt(format!("study {} is {}", self.name, self.state)))
    }
}

const CORE: &str =
    "SELECT id, name, state, corpus_digest, split_digest FROM studies WHERE name = ?1 OR uuid = ?1";

/// The study of this name or id.
pub(crate) async fn find(conn: &mut SqliteConnection, study: &str) -> Result<StudyCore, StoreError> {
    if let Some(found) = sqlx::query_as(CORE).bind(study).fetch_optional(&mut *conn).await? {
        return Ok(found);
    }
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM studies").fetch_all(conn).await?;
    let near = kapell_search::options::nearest(study, names.iter().map(String::as_str));
    let hint = near.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
    Err(not_found(format!("there is no study \"{study}\"{hint}")))
}

/// What creates a study.
#[derive(Debug, Clone)]
pub(crate) struct NewStudy {
    pub(crate) spec: StudySpec,
    pub(crate) spec_toml: String,
    pub(crate) corpus_digest: String,
    pub(crate) split_digest: String,
    pub(crate) vocabulary: u32,
}

/// Creates a study, or finds the same one. Gives its id and whether it is new. The trials of a large one are
/// still to come (see [`expand`]).
pub(crate) async fn create(tx: &mut Tx, new: &NewStudy) -> Result<(i64, bool), StoreError> {
    let found: Option<StudyCore> =
        sqlx::query_as(CORE).bind(&new.spec.name).fetch_optional(&mut tx.conn).await?;
    if let Some(found) = found {
        same(tx, &found, new).await?;
        return Ok((found.id, false));
    }
    let there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ? AND damaged = 0)")
            .bind(&new.corpus_digest)
            .fetch_one(&mut tx.conn)
            .await?;
    if !there {
        let text = format!("the corpus {} is not here: upload it first", new.corpus_digest);
        return Err(Refusal::new(reason::MISSING_BLOB, text).into());
    }
    let id = insert(tx, new).await?;
    let trials = u32::try_from(new.spec.trials()).unwrap_or(u32::MAX);
    if trials > expand::PIECE {
        expand::begin(tx, id).await?;
    } else {
        let pen = new.spec.pen(&new.corpus_digest, &new.split_digest);
        let all: Vec<_> = (1..=trials).map(|number| pen.write(number)).collect();
        expand::insert(tx, id, &all).await?;
    }
    let name = &new.spec.name;
    events::add(tx, id, "study.created", (0, 0), &json!({"name": name, "trials": trials}));
    tracing::info!(study = name, trials, "study created");
    Ok((id, true))
}

/// Refuses a study that differs from the one that has its name.
async fn same(tx: &mut Tx, found: &StudyCore, new: &NewStudy) -> Result<(), StoreError> {
    let mut differences = tx.spec(found.id).await?.difference(&new.spec);
    for (what, old, new) in [
        ("the corpus's content", &found.corpus_digest, &new.corpus_digest),
        ("the corpus's split", &found.split_digest, &new.split_digest),
    ] {
        if old != new {
            differences.push(format!("{what}: {old} -> {new}"));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    let list = differences.join("\n  ");
    let text = format!("study \"{}\" exists with other content:\n  {list}", new.spec.name);
    Err(Refusal::new(reason::STUDY_DIFFERS, text).into())
}

async fn insert(tx: &mut Tx, new: &NewStudy) -> Result<i64, StoreError> {
    let sql =
        "INSERT INTO studies (uuid, name, state, spec_toml, corpus, corpus_digest, split_digest, vocabulary,
                   weight, device, configurations, max_hours, created_at_ms)
               VALUES (?, ?, 'ACTIVE', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let done = sqlx::query(sql)
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(&new.spec.name)
        .bind(&new.spec_toml)
        .bind(&new.spec.corpus)
        .bind(&new.corpus_digest)
        .bind(&new.split_digest)
        .bind(new.vocabulary)
        .bind(new.spec.weight)
        .bind(new.spec.require.device.as_deref())
        .bind(i64::try_from(new.spec.trials()).unwrap_or(i64::MAX))
        .bind(new.spec.limits.max_hours)
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    Ok(done.last_insert_rowid())
}

/// Puts an event to a study and does what follows. `why` is kept as its reason.
pub(crate) async fn step(
    tx: &mut Tx,
    study: i64,
    event: StudyEvent,
    why: &str,
) -> Result<StudyState, StoreError> {
    let core: StudyCore =
        sqlx::query_as("SELECT id, name, state, corpus_digest, split_digest FROM studies WHERE id = ?")
            .bind(study)
            .fetch_one(&mut tx.conn)
            .await?;
    let before = core.state()?;
    let (next, effects) = study::transition(before, event)
        .map_err(|e| Refusal::new(reason::ILLEGAL_EVENT, format!("study \"{}\": {e}", core.name)))?;
    if next != before {
        // A limit's reason stays when the study, having nothing open any more, is then complete.
        let sql = "UPDATE studies SET state = ?3, ended_at_ms = CASE WHEN ?4 THEN ?5 END,
                       reason = CASE WHEN ?6 <> '' OR ?3 = 'ACTIVE' THEN ?6 ELSE reason END
                   WHERE id = ?1 AND state = ?2";
        let done = sqlx::query(sql)
            .bind(study)
            .bind(before.name())
            .bind(next.name())
            .bind(next.ended())
            .bind(tx.at_ms)
            .bind(why)
            .execute(&mut tx.conn)
            .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Corrupt(format!("study {} changed under a transaction", core.name)));
        }
        tracing::info!(study = core.name, from = before.name(), to = next.name(), reason = why, "study");
    }
    for effect in effects {
        match effect {
            StudyEffect::PauseRunning => pause_running(tx, study).await?,
            StudyEffect::RequeuePaused => requeue_paused(tx, study).await?,
            StudyEffect::CancelOpen => cancel_open(tx, study, why).await?,
            StudyEffect::Announce(kind) => {
                events::add(tx, study, kind, (0, 0), &json!({"state": next.name(), "reason": why}));
            }
        }
    }
    Ok(next)
}

/// Is the study complete? Asked whenever one of its trials has ended.
pub(crate) async fn judge(tx: &mut Tx, study: i64) -> Result<(), StoreError> {
    let sql = "SELECT s.state, coalesce(sum(c.n), 0) FROM studies s
               LEFT JOIN study_counts c ON c.study = s.id AND c.state IN ('QUEUED', 'RUNNING', 'PAUSED')
               WHERE s.id = ?";
    let (state, mut open): (String, i64) = sqlx::query_as(sql).bind(study).fetch_one(&mut tx.conn).await?;
    if let Some((TrialState::Queued, n)) = expand::to_come(&mut tx.conn, study).await? {
        open = open.saturating_add(n);
    }
    let event = StudyEvent::Judge { open: u64::try_from(open).unwrap_or(0) };
    // Nearly always nothing follows, which is known without another look at the study.
    let nothing = |state| {
        study::transition(state, event).is_ok_and(|(next, effects)| next == state && effects.is_empty())
    };
    if StudyState::parse(&state).is_some_and(nothing) {
        return Ok(());
    }
    Box::pin(step(tx, study, event, "")).await.map(drop)
}

async fn running(tx: &mut Tx, study: i64) -> Result<Vec<i64>, StoreError> {
    let sql = "SELECT id FROM trials WHERE study = ? AND state = 'RUNNING' ORDER BY number";
    Ok(sqlx::query_scalar(sql).bind(study).fetch_all(&mut tx.conn).await?)
}

async fn pause_running(tx: &mut Tx, study: i64) -> Result<(), StoreError> {
    for id in running(tx, study).await? {
        if let Some(trial) = trials::load(tx, id).await? {
            trials::step(tx, &trial, TrialEvent::Pause, STUDY_PAUSED).await?;
        }
    }
    Ok(())
}

async fn requeue_paused(tx: &mut Tx, study: i64) -> Result<(), StoreError> {
    let sql = "SELECT id FROM trials WHERE study = ? AND state = 'PAUSED' AND reason = ? ORDER BY number";
    let paused: Vec<i64> =
        sqlx::query_scalar(sql).bind(study).bind(STUDY_PAUSED).fetch_all(&mut tx.conn).await?;
    for id in paused {
        if let Some(trial) = trials::load(tx, id).await? {
            trials::step(tx, &trial, TrialEvent::Resume, "").await?;
        }
    }
    for id in running(tx, study).await? {
        if let Some(attempt) = trials::load(tx, id).await?.and_then(|t| t.machine().ok()?.state.attempt()) {
            trials::unwish(tx, Held { trial: id, attempt });
        }
    }
    tx.after.push(After::Wake);
    Ok(())
}

/// Ends every open trial. Those that nobody holds are alike, so one statement does what the machine says of one.
async fn cancel_open(tx: &mut Tx, study: i64, why: &str) -> Result<(), StoreError> {
    for id in running(tx, study).await? {
        if let Some(trial) = trials::load(tx, id).await? {
            trials::step(tx, &trial, TrialEvent::Cancel, why).await?;
        }
    }
    for state in [TrialState::Queued, TrialState::Paused] {
        cancel_alike(tx, study, state, 1, why).await?;
    }
    expand::cancel(tx, study, why).await?;
    judge(tx, study).await
}

/// Cancels the trials in a state that nobody holds, from a number on.
pub(super) async fn cancel_alike(
    tx: &mut Tx,
    study: i64,
    state: TrialState,
    from: u32,
    why: &str,
) -> Result<(), StoreError> {
    use kapell_dispatch::trial::{RetryPolicy, Trial, transition};
    let policy = RetryPolicy { max_attempts: 1, max_lost: 1 };
    let next = transition(&Trial { state, ..Trial::NEW }, &TrialEvent::Cancel, &policy)
        .map_err(|e| StoreError::Corrupt(e.to_string()))?
        .next
        .state;
    let events = "INSERT INTO events (study, type, at_ms, trial, attempt, json)
                  SELECT study, 'trial.ended', ?3, number, attempts, json_object('state', ?4, 'reason', ?5)
                  FROM trials WHERE study = ?1 AND state = ?2 AND number >= ?6 ORDER BY number";
    let update = "UPDATE trials SET state = ?4, ended_at_ms = ?3, reason = ?5
         WHERE study = ?1 AND state = ?2 AND number >= ?6";
    events::flush(tx).await?;
    for sql in [events, update] {
        let done = sqlx::query(sql)
            .bind(study)
            .bind(state.name())
            .bind(tx.at_ms)
            .bind(next.name())
            .bind(why)
            .bind(from)
            .execute(&mut tx.conn)
            .await?;
        if sql == events && done.rows_affected() > 0 {
            tx.newest_event = Some(done.last_insert_rowid());
            tx.after.push(After::Told { seq: done.last_insert_rowid() });
        }
    }
    Ok(())
}

/// Queues a FAILED or CANCELED trial again; a COMPLETE study is ACTIVE again by it.
pub(crate) async fn retry(tx: &mut Tx, study: &str, number: u32) -> Result<i64, StoreError> {
    let core = find(&mut tx.conn, study).await?;
    let id = super::query::trial_id(&mut tx.conn, &core, number).await?;
    let trial = trials::load(tx, id).await?.ok_or_else(|| not_found("the trial is gone"))?;
    trials::step(tx, &trial, TrialEvent::Retry, "").await?;
    step(tx, core.id, StudyEvent::Reopen, "").await?;
    events::add(tx, core.id, "trial.retried", (number, trial.machine()?.attempts), &json!({}));
    Ok(id)
}

/// Deletes a study that has ended, with its trials, measurements and history; models that came of it stay. Gives
/// the number of its trials.
pub(crate) async fn delete(tx: &mut Tx, study: &str) -> Result<u64, StoreError> {
    let core = find(&mut tx.conn, study).await?;
    step(tx, core.id, StudyEvent::Delete, "").await?;
    let trials: i64 = sqlx::query_scalar("SELECT count(*) FROM trials WHERE study = ?")
        .bind(core.id)
        .fetch_one(&mut tx.conn)
        .await?;
    events::flush(tx).await?;
    // Checkpoints refer to attempts: they go first, the rest follows by the schema.
    for sql in [
        "DELETE FROM checkpoints WHERE trial IN (SELECT id FROM trials WHERE study = ?)",
        "DELETE FROM requests WHERE kind = 'create' AND scope = (SELECT name FROM studies WHERE id = ?)",
        "DELETE FROM studies WHERE id = ?",
    ] {
        sqlx::query(sql).bind(core.id).execute(&mut tx.conn).await?;
    }
    tx.specs.forget(core.id);
    tx.after.push(After::Told { seq: 0 });
    tracing::info!(study = core.name, trials, "study deleted");
    Ok(u64::try_from(trials).unwrap_or(0))
}
