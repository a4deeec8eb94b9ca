//! How an attempt ends: what must be there for COMPLETE, what is kept of its log, and what it means for the study.

use kapell_dispatch::report::Measurement;
use kapell_dispatch::trial::Ending;
use kapell_dispatch::{Held, Outcome, StudyEvent, StudyState, TrialEvent, TrialState, finish};
use kapell_rpc::reason;

use super::checkpoints::{self, NewCheckpoint};
use super::error::bad_request;
use super::report::{self, Reported};
use super::studies::STUDY_PAUSED;
use super::together::Heard;
use super::trials::{self, TrialCore};
use super::{Refusal, StoreError, Tx, logs, quarantine, studies};

/// How a worker ends its attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finish {
    pub(crate) held: Held,
    /// Measurements that are left: taken before the end is judged.
    pub(crate) rows: Vec<Measurement>,
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    /// With FAILED: trying again would end the same way.
    pub(crate) last: bool,
    pub(crate) seconds: f64,
    pub(crate) log_tail: String,
    /// Of the whole log; 0: the tail is all.
    pub(crate) log_bytes: i64,
    pub(crate) checkpoints: Vec<NewCheckpoint>,
}

/// Ends the attempt. What has ended so already is acknowledged again. Gives what the trial became.
pub(crate) async fn finish(tx: &mut Tx, finish: &Finish) -> Result<Heard, StoreError> {
    let held = finish.held;
    let ending = finish::ending(finish.outcome, finish.last)
        .ok_or_else(|| bad_request("a worker does not finish an attempt as LOST"))?;
    let trial = trials::load(tx, held.trial).await?;
    let Some(mut trial) = trial.filter(|trial| trial.is_held_by(held.attempt)) else {
        return again(tx, finish).await;
    };
    if !finish.rows.is_empty() {
        if let Reported::NotFinite(why) = report::report(tx, held, &finish.rows).await? {
            return Ok(Heard { epochs: 0, state: TrialState::Failed, not_finite: Some(why) });
        }
        trial = trials::load_held(tx, held).await?;
    }
    let state = end(tx, finish, ending, &trial).await?;
    Ok(Heard { epochs: trial.epochs, state, not_finite: None })
}

/// Ends the attempt that holds the trial.
async fn end(
    tx: &mut Tx,
    finish: &Finish,
    ending: Ending,
    trial: &TrialCore,
) -> Result<TrialState, StoreError> {
    let held = finish.held;
    checkpoints::record_of(tx, trial, held, &finish.checkpoints).await?;
    let spec = tx.spec(trial.study).await?;
    match ending {
        Ending::Complete => complete(tx, trial, spec.checkpoint.keep).await?,
        Ending::Pruned => retain(tx, trial.id, spec.checkpoint.keep).await?,
        _ => {}
    }
    keep_log(tx, finish).await?;
    let study = trial.study_state()?;
    let why = if ending == Ending::Paused && study != StudyState::Canceled {
        STUDY_PAUSED
    } else if ending == (Ending::Failed { last: finish.last }) && finish.reason.is_empty() {
        "its worker gave no reason"
    } else {
        finish.reason.as_str()
    };
    let event = TrialEvent::Finish { attempt: held.attempt, ending };
    let mut state = trials::step(tx, trial, event, why).await?;
    quarantine::note(tx, trial, finish).await?;
    // The study was resumed while its worker was pausing.
    if finish::goes_on(state, study) {
        let paused = trials::load(tx, held.trial).await?.ok_or(StoreError::Closed)?;
        state = trials::step(tx, &paused, TrialEvent::Resume, "").await?;
    }
    let reached = finish::reached(state, trial.objective, &spec.objective, spec.limits.target);
    if let Some((value, target)) = reached.zip(spec.limits.target) {
        let why = format!("trial {} reached the target: {value} (wanted {target})", trial.name());
        limit(tx, trial.study, &why).await?;
    }
    Ok(state)
}

/// Ends a study by one of its limits: what is open is canceled, and the study complete.
pub(crate) async fn limit(tx: &mut Tx, study: i64, why: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE studies SET reason = ? WHERE id = ?")
        .bind(why)
        .bind(study)
        .execute(&mut tx.conn)
        .await?;
    studies::step(tx, study, StudyEvent::Limit, why).await.map(drop)
}

/// The end of an attempt that does not hold its trial: fine, if it has ended with this outcome before.
async fn again(tx: &mut Tx, finish: &Finish) -> Result<Heard, StoreError> {
    let outcome: Option<Option<String>> =
        sqlx::query_scalar("SELECT outcome FROM attempts WHERE trial = ? AND attempt = ?")
            .bind(finish.held.trial)
            .bind(finish.held.attempt)
            .fetch_optional(&mut tx.conn)
            .await?;
    if outcome.flatten().as_deref() != Some(finish.outcome.name()) {
        return match trials::load_held(tx, finish.held).await {
            Ok(trial) => Err(trials::stale(&trial, finish.held.attempt)),
            Err(error) => Err(error),
        };
    }
    keep_log(tx, finish).await?;
    let trial = trials::load(tx, finish.held.trial).await?.ok_or(StoreError::Closed)?;
    let epochs = "SELECT coalesce(max(epoch), 0) FROM measurements WHERE trial = ? AND attempt = ?";
    let epochs: u32 = sqlx::query_scalar(epochs)
        .bind(finish.held.trial)
        .bind(finish.held.attempt)
        .fetch_one(&mut tx.conn)
        .await?;
    Ok(Heard { epochs, state: trial.machine()?.state, not_finite: None })
}

/// Refuses what is not COMPLETE, and drops the checkpoints that the study does not keep.
async fn complete(
    tx: &mut Tx,
    trial: &TrialCore,
    keep: kapell_search::study::Keep,
) -> Result<(), StoreError> {
    let there = checkpoints::roles(&mut tx.conn, trial.id).await?;
    let surplus = finish::complete(trial.epochs, trial.epochs_wanted, keep, there).map_err(|what| {
        let text = format!("trial {} is not complete: {what}", trial.name());
        StoreError::from(Refusal::new(reason::INCOMPLETE, text))
    })?;
    drop_checkpoints(tx, trial.id, surplus).await
}

/// Drops the checkpoints that the study does not keep.
async fn retain(tx: &mut Tx, trial: i64, keep: kapell_search::study::Keep) -> Result<(), StoreError> {
    let there = checkpoints::roles(&mut tx.conn, trial).await?;
    drop_checkpoints(tx, trial, finish::surplus(keep, there)).await
}

async fn drop_checkpoints(tx: &mut Tx, trial: i64, roles: finish::Roles) -> Result<(), StoreError> {
    for (role, goes) in [("best", roles.best), ("last", roles.last)] {
        if goes {
            sqlx::query("DELETE FROM checkpoints WHERE trial = ? AND role = ?")
                .bind(trial)
                .bind(role)
                .execute(&mut tx.conn)
                .await?;
        }
    }
    Ok(())
}

/// Keeps the end of the attempt's log and the seconds it took.
async fn keep_log(tx: &mut Tx, finish: &Finish) -> Result<(), StoreError> {
    if finish.seconds.is_finite() && finish.seconds > 0.0 {
        sqlx::query("UPDATE attempts SET seconds = ? WHERE trial = ? AND attempt = ? AND outcome IS NULL")
            .bind(finish.seconds)
            .bind(finish.held.trial)
            .bind(finish.held.attempt)
            .execute(&mut tx.conn)
            .await?;
    }
    logs::keep(tx, finish.held, &finish.log_tail, finish.log_bytes).await
}
