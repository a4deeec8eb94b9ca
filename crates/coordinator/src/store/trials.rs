//! Trials in the database: loaded, asked of the state machine, written back where they still are as loaded.

use kapell_dispatch::report::Summary;
use kapell_dispatch::trial::{self, RetryPolicy};
use kapell_dispatch::{Effect, Held, IllegalEvent, Outcome, StudyState, Trial, TrialEvent, TrialState};
use kapell_rpc::reason;
use serde_json::json;
use sqlx::FromRow;

use super::writer::After;
use super::{Refusal, StoreError, Tx, events, studies};

/// The fence, written once: `?1` the trial, `?2` the attempt that holds it (NULL: none), `?3` its state.
/// Every write that a worker causes has it in its own statement. (The plus keeps SQLite from looking at the bound state
/// for a partial index: it would prepare the statement anew each time.)
macro_rules! fenced {
    ($before:literal) => {
        concat!($before, " WHERE id = ?1 AND running_attempt IS ?2 AND +state = ?3")
    };
}
pub(crate) use fenced;

/// The same fence for a statement whose parameters have no numbers: the three are bound last.
macro_rules! fenced_last {
    ($before:literal) => {
        concat!($before, " WHERE id = ? AND running_attempt IS ? AND +state = ?")
    };
}
pub(crate) use fenced_last;

/// The same fence for a statement over the rows `m` of many attempts, whose first two columns are a trial and the
/// attempt that holds it: what joins each to its trial `t`. A row whose attempt holds nothing has no effect, and is
/// missing in the number of rows that had one.
macro_rules! fenced_rows {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "(VALUES :rows) m CROSS JOIN trials t ON t.id = m.column1 AND t.running_attempt IS m.column2 \
             AND +t.state = 'RUNNING' ",
            $after
        )
    };
}
pub(crate) use fenced_rows;

/// What decisions about a trial need to know of it.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct TrialCore {
    pub(crate) id: i64,
    pub(crate) study: i64,
    pub(crate) study_name: String,
    study_state: String,
    pub(crate) number: u32,
    state: String,
    running_attempt: Option<u32>,
    pub(crate) attempts: u32,
    failures: u32,
    pub(crate) losses: u32,
    pub(crate) epochs: u32,
    pub(crate) epochs_wanted: u32,
    pub(crate) objective: Option<f64>,
    pub(crate) val_loss: Option<f64>,
    pub(crate) best_val_loss: Option<f64>,
    pub(crate) best_epoch: Option<u32>,
    pub(crate) worker: Option<String>,
    avoid_worker: Option<String>,
}

impl TrialCore {
    /// As people name it.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.study_name, self.number)
    }

    /// Where its study stands.
    pub(crate) fn study_state(&self) -> Result<StudyState, StoreError> {
        StudyState::parse(&self.study_state)
            .ok_or_else(|| StoreError::Corrupt(format!("study {} is {}", self.study_name, self.study_state)))
    }

    /// Does this attempt hold it?
    pub(crate) fn is_held_by(&self, attempt: u32) -> bool {
        self.running_attempt == Some(attempt)
    }

    /// Did it come back from a worker that should rather not have it again?
    pub(crate) fn is_avoided(&self) -> bool {
        self.avoid_worker.is_some()
    }

    /// What its measurements come to so far, as far as the next one needs to know.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            epochs: self.epochs,
            objective: self.objective,
            best_val_loss: self.best_val_loss,
            best_epoch: self.best_epoch,
            ..Summary::default()
        }
    }

    pub(crate) fn machine(&self) -> Result<Trial, StoreError> {
        let state = TrialState::parse(&self.state, self.running_attempt)
            .ok_or_else(|| StoreError::Corrupt(format!("trial {} is {}", self.name(), self.state)))?;
        Ok(Trial { state, attempts: self.attempts, failures: self.failures, losses: self.losses })
    }
}

/// The columns and tables of a [`TrialCore`]; more columns may be put between, and what says which trials behind.
macro_rules! core {
    ($more:literal) => {
        $crate::store::trials::core!($more, "WHERE t.id = ?")
    };
    ($more:literal, $which:literal) => {
        concat!(
            "SELECT t.id, t.study, s.name AS study_name, s.state AS study_state, t.number, t.state, \
             t.running_attempt, t.attempts, t.failures, t.losses, t.epochs, t.epochs_wanted, t.objective, \
             t.val_loss, t.best_val_loss, t.best_epoch, a.worker, t.avoid_worker",
            $more,
            " FROM trials t JOIN studies s ON s.id = t.study
              LEFT JOIN attempts a ON a.trial = t.id AND a.attempt = t.attempts ",
            $which
        )
    };
}
pub(crate) use core;

/// Loads a trial.
pub(crate) async fn load(tx: &mut Tx, id: i64) -> Result<Option<TrialCore>, StoreError> {
    Ok(sqlx::query_as(core!("")).bind(id).fetch_optional(&mut tx.conn).await?)
}

/// Loads the trial that an attempt holds, or refuses the attempt as stale.
pub(crate) async fn load_held(tx: &mut Tx, held: Held) -> Result<TrialCore, StoreError> {
    let Some(trial) = load(tx, held.trial).await? else {
        let text = format!("attempt {} holds no trial: there is no trial {}", held.attempt, held.trial);
        return Err(Refusal::new(reason::STALE_ATTEMPT, text).into());
    };
    if !trial.is_held_by(held.attempt) {
        return Err(stale(&trial, held.attempt));
    }
    Ok(trial)
}

/// A fenced statement that has met fewer rows than it should: the attempt does not hold its trial.
pub(crate) fn fence_held(met: u64, wanted: usize, held: Held) -> Result<(), StoreError> {
    if usize::try_from(met) == Ok(wanted) {
        return Ok(());
    }
    let text = format!("attempt {} does not hold trial {} any more", held.attempt, held.trial);
    Err(Refusal::new(reason::STALE_ATTEMPT, text).into())
}

/// The refusal of an attempt that does not hold its trial.
pub(crate) fn stale(trial: &TrialCore, attempt: u32) -> StoreError {
    let text = format!("attempt {attempt} does not hold trial {}, which is {}", trial.name(), trial.state);
    Refusal::new(reason::STALE_ATTEMPT, text).into()
}

/// Puts an event to a trial: the only way in which its state changes in the database. `why` is kept as the
/// trial's reason and the attempt's. Gives the state it is in now.
pub(crate) async fn step(
    tx: &mut Tx,
    trial: &TrialCore,
    event: TrialEvent,
    why: &str,
) -> Result<TrialState, StoreError> {
    let before = trial.machine()?;
    let retry = tx.spec(trial.study).await?.retry;
    let policy = RetryPolicy { max_attempts: retry.max_attempts, max_lost: retry.max_lost };
    let change = trial::transition(&before, &event, &policy).map_err(|error| match error {
        IllegalEvent::StaleAttempt { attempt, .. } => stale(trial, attempt),
        IllegalEvent::Illegal { .. } => {
            Refusal::new(reason::ILLEGAL_EVENT, format!("{}: {error}", trial.name())).into()
        }
    })?;
    let order_why = why;
    let why = told(&change, why);
    for effect in &change.effects {
        if let Effect::EndAttempt { attempt, outcome } = *effect {
            end_attempt(tx, trial, attempt, outcome, &why).await?;
        }
    }
    save(tx, trial, &before, &change, &why).await?;
    tx.after.push(After::Stepped {
        study: trial.study_name.clone(),
        trial: trial.number,
        attempt: change.next.attempts,
        from: before.state.name(),
        to: change.next.state.name(),
        reason: why.clone(),
    });
    for effect in &change.effects {
        if let Effect::Order { attempt, order } = *effect {
            let held = Held { trial: trial.id, attempt };
            let (worker, reason) = (trial.worker.clone().unwrap_or_default(), order_why.to_owned());
            tx.after.push(After::Order { held, worker, order, reason });
        }
        follow(tx, trial, *effect, &change.next, &why).await?;
    }
    Ok(change.next.state)
}

/// Ends the attempt that runs as lost with its worker.
pub(crate) async fn lose(tx: &mut Tx, trial: &TrialCore, attempt: u32, why: &str) -> Result<(), StoreError> {
    let last = super::checkpoints::checkpoint(&mut tx.conn, trial.id, "last").await?;
    let advanced = last.is_some_and(|checkpoint| checkpoint.attempt == attempt);
    step(tx, trial, TrialEvent::Lose { attempt, advanced }, why).await.map(drop)
}

/// What is said of a trial that is queued again or has failed for good.
fn told(change: &trial::Transition, why: &str) -> String {
    let next = &change.next;
    let outcome = change.effects.iter().find_map(|e| match *e {
        Effect::EndAttempt { outcome, .. } => Some(outcome),
        _ => None,
    });
    match (next.state, outcome) {
        (TrialState::Queued | TrialState::Running { .. }, None) => String::new(),
        (TrialState::Failed, Some(Outcome::Lost)) => {
            format!("lost {} times without a new checkpoint, at last: {why}", next.losses)
        }
        _ => why.to_owned(),
    }
}

/// Writes the trial as the change has it; with the seconds of all its attempts, where one has ended.
async fn save(
    tx: &mut Tx,
    trial: &TrialCore,
    before: &Trial,
    change: &trial::Transition,
    why: &str,
) -> Result<(), StoreError> {
    let next = &change.next;
    let avoid = change
        .effects
        .iter()
        .any(|e| matches!(e, Effect::EndAttempt { outcome: Outcome::Failed | Outcome::Lost, .. }));
    let sql = fenced!(
        "UPDATE trials SET state = ?4, running_attempt = ?5, attempts = ?6, failures = ?7, losses = ?8, reason = ?9,
             started_at_ms = CASE WHEN ?4 = 'RUNNING' THEN coalesce(started_at_ms, ?10) ELSE started_at_ms END,
             ended_at_ms = CASE WHEN ?11 THEN ?10 END,
             avoid_worker = CASE WHEN ?12 THEN ?13 ELSE avoid_worker END,
             seconds = CASE WHEN ?2 IS NOT NULL AND ?5 IS NOT ?2
                            THEN (SELECT sum(a.seconds) FROM attempts a WHERE a.trial = ?1) ELSE seconds END"
    );
    let done = sqlx::query(sql)
        .bind(trial.id)
        .bind(before.state.attempt())
        .bind(before.state.name())
        .bind(next.state.name())
        .bind(next.state.attempt())
        .bind(next.attempts)
        .bind(next.failures)
        .bind(next.losses)
        .bind(why)
        .bind(tx.at_ms)
        .bind(next.state.ended())
        .bind(avoid)
        .bind(trial.worker.as_deref())
        .execute(&mut tx.conn)
        .await?;
    if done.rows_affected() != 1 {
        return Err(stale(trial, before.attempts));
    }
    Ok(())
}

/// What follows from a change that is written.
async fn follow(
    tx: &mut Tx,
    trial: &TrialCore,
    effect: Effect,
    next: &Trial,
    why: &str,
) -> Result<(), StoreError> {
    match effect {
        // The lease that starts an attempt writes its row: it knows the worker. Orders are sent by the caller.
        Effect::StartAttempt { .. } | Effect::Order { .. } => {}
        Effect::EndAttempt { outcome, .. } => {
            let returned = next.state == TrialState::Queued && outcome != Outcome::Released;
            if returned {
                tx.after.push(After::Returned { trial: trial.id });
            }
        }
        Effect::Wake => {
            tx.after.push(After::Wake);
            let fields = json!({"state": next.state.name(), "reason": why});
            events::add(tx, trial.study, "trial.queued", (trial.number, next.attempts), &fields);
        }
        Effect::JudgeStudy => {
            tell_end(tx, trial, next, why, &trial.summary(), trial.val_loss);
            studies::judge(tx, trial.study).await?;
        }
    }
    Ok(())
}

/// Adds the event of a trial that has ended, with what its measurements come to.
pub(crate) fn tell_end(
    tx: &mut Tx,
    trial: &TrialCore,
    next: &Trial,
    why: &str,
    summary: &Summary,
    val_loss: Option<f64>,
) {
    let fields = json!({
        "state": next.state.name(), "reason": why, "epochs": summary.epochs, "objective": summary.objective,
        "val_loss": val_loss, "best_val_loss": summary.best_val_loss, "best_epoch": summary.best_epoch,
    });
    events::add(tx, trial.study, "trial.ended", (trial.number, next.attempts), &fields);
}

/// Ends the attempt that holds the trial. Its seconds are those it measured, unless its worker has said otherwise.
async fn end_attempt(
    tx: &mut Tx,
    trial: &TrialCore,
    attempt: u32,
    outcome: Outcome,
    why: &str,
) -> Result<(), StoreError> {
    let sql = "UPDATE attempts SET outcome = ?3, reason = ?4, ended_at_ms = ?5,
                   seconds = max(seconds, (SELECT coalesce(sum(m.seconds), 0) FROM measurements m
                                           WHERE m.trial = ?1 AND m.attempt = ?2))
               WHERE trial = ?1 AND attempt = ?2 AND outcome IS NULL
                 AND EXISTS (SELECT 1 FROM trials t WHERE t.id = ?1 AND t.running_attempt = ?2)";
    let done = sqlx::query(sql)
        .bind(trial.id)
        .bind(attempt)
        .bind(outcome.name())
        .bind(why)
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    if done.rows_affected() != 1 {
        return Err(stale(trial, attempt));
    }
    tx.after.push(After::Ended { held: Held { trial: trial.id, attempt } });
    Ok(())
}

/// What a resumed study wants of an attempt that was asked to pause: nothing.
pub(crate) fn unwish(tx: &mut Tx, held: Held) {
    tx.after.push(After::Unwish { held });
}
