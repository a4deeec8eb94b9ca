//! What a worker writes about the attempt that it holds: measurements, checkpoints, how it ended.

use kapell_dispatch::report::{Measurement, ReportError, Verdict, judge};
use kapell_dispatch::trial::Ending;
use kapell_dispatch::{Held, Outcome, StudyEvent, StudyState, TrialEvent, TrialState};
use kapell_rpc::reason;
use kapell_search::study::{At, Metric, Objective};
use serde_json::json;
use sqlx::SqliteConnection;

use super::error::bad_request;
use super::rows::{CheckpointRow, MeasurementRow};
use super::studies::STUDY_PAUSED;
use super::trials::{self, TrialCore, fenced};
use super::{Refusal, StoreError, Tx, blobs, events, studies};

/// Bytes that are kept of an attempt's log.
const LOG_BYTES_MAX: usize = 256 * 1024;

/// What the measurements of a lineage come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Summary {
    epochs: u32,
    objective: Option<f64>,
    train_loss: Option<f64>,
    val_loss: Option<f64>,
    best_val_loss: Option<f64>,
    best_epoch: Option<u32>,
    weights_digest: Option<String>,
}

impl Summary {
    fn of(trial: &TrialCore) -> Self {
        Self {
            epochs: trial.epochs,
            objective: trial.objective,
            best_val_loss: trial.best_val_loss,
            best_epoch: trial.best_epoch,
            ..Self::default()
        }
    }

    /// Goes on with the next epoch.
    pub(crate) fn add(
        &mut self,
        rule: &Objective,
        epoch: u32,
        train_loss: f64,
        val_loss: f64,
        weights: String,
    ) {
        self.epochs = epoch;
        self.train_loss = Some(train_loss);
        self.val_loss = Some(val_loss);
        self.weights_digest = Some(weights);
        if self.best_val_loss.is_none_or(|best| rule.better(val_loss, best)) {
            self.best_val_loss = Some(val_loss);
            self.best_epoch = Some(epoch);
        }
        let value = match rule.metric {
            Metric::ValLoss => val_loss,
            Metric::TrainLoss => train_loss,
        };
        if rule.at == At::Last || self.objective.is_none_or(|best| rule.better(value, best)) {
            self.objective = Some(value);
        }
    }
}

/// Writes a summary to the trial that the attempt holds.
pub(crate) async fn save_summary(tx: &mut Tx, held: Held, s: &Summary) -> Result<(), StoreError> {
    let sql = fenced!(
        "UPDATE trials SET epochs = ?4, objective = ?5, train_loss = ?6, val_loss = ?7, best_val_loss = ?8,
             best_epoch = ?9, weights_digest = ?10"
    );
    let done = sqlx::query(sql)
        .bind(held.trial)
        .bind(held.attempt)
        .bind(TrialState::Running { attempt: held.attempt }.name())
        .bind(s.epochs)
        .bind(s.objective)
        .bind(s.train_loss)
        .bind(s.val_loss)
        .bind(s.best_val_loss)
        .bind(s.best_epoch)
        .bind(s.weights_digest.as_deref())
        .execute(&mut tx.conn)
        .await?;
    fence_held(done.rows_affected(), held)
}

fn fence_held(rows: u64, held: Held) -> Result<(), StoreError> {
    if rows == 1 {
        return Ok(());
    }
    let text = format!("attempt {} does not hold trial {} any more", held.attempt, held.trial);
    Err(Refusal::new(reason::STALE_ATTEMPT, text).into())
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reported {
    /// Everything is on disk; the newest epoch of this attempt.
    Taken(u32),
    /// A loss was not finite: the trial has failed by it, and the report is refused.
    NotFinite(String),
}

/// Adds measurements. Repeating one with equal content is fine.
pub(crate) async fn report(tx: &mut Tx, held: Held, rows: &[Measurement]) -> Result<Reported, StoreError> {
    let trial = trials::load_held(tx, held).await?;
    let spec = tx.spec(trial.study).await?;
    let mut summary = Summary::of(&trial);
    let mut added = false;
    for m in rows {
        let known = measured(&mut tx.conn, held, m.epoch).await?;
        match judge(m, known.as_ref(), summary.epochs, trial.epochs_wanted) {
            Ok(Verdict::Known) => {}
            Ok(Verdict::New) => {
                insert(tx, held, m).await?;
                flag_other_bytes(tx, &trial, held, m).await?;
                summary.add(&spec.objective, m.epoch, m.train_loss, m.val_loss, m.weights_digest.clone());
                added = true;
                let fields = json!({"epoch": m.epoch, "train_loss": m.train_loss, "val_loss": m.val_loss,
                    "seconds": m.seconds, "tokens_per_s": m.tokens_per_s});
                events::write(tx, trial.study, "trial.measured", (trial.number, held.attempt), &fields)
                    .await?;
            }
            Err(error @ ReportError::NotFinite { .. }) => {
                return not_finite(tx, &trial, held, error.to_string()).await;
            }
            Err(error) => return Err(refused(&trial, error)),
        }
    }
    if added {
        save_summary(tx, held, &summary).await?;
    }
    Ok(Reported::Taken(summary.epochs))
}

fn refused(trial: &TrialCore, error: ReportError) -> StoreError {
    let reason = match error {
        ReportError::Differs { .. } => reason::EPOCH_DIFFERS,
        ReportError::Gap { .. } | ReportError::Beyond { .. } => reason::EPOCH_GAP,
        ReportError::NotFinite { .. } => reason::NOT_FINITE,
        ReportError::Absurd { .. } => reason::BAD_REQUEST,
    };
    Refusal::new(reason, format!("trial {}: {error}", trial.name())).into()
}

/// It would come again: the trial fails for good.
async fn not_finite(tx: &mut Tx, trial: &TrialCore, held: Held, why: String) -> Result<Reported, StoreError> {
    let ending = Ending::Failed { last: true };
    trials::step(tx, trial, TrialEvent::Finish { attempt: held.attempt, ending }, &why).await?;
    Ok(Reported::NotFinite(format!("trial {}: {why}", trial.name())))
}

async fn measured(
    conn: &mut SqliteConnection,
    held: Held,
    epoch: u32,
) -> Result<Option<Measurement>, StoreError> {
    let sql =
        "SELECT epoch, attempt, train_loss, val_loss, seconds, tokens_per_s, weights_digest FROM measurements
               WHERE trial = ? AND attempt = ? AND epoch = ?";
    let row: Option<MeasurementRow> =
        sqlx::query_as(sql).bind(held.trial).bind(held.attempt).bind(epoch).fetch_optional(conn).await?;
    Ok(row.map(Into::into))
}

async fn insert(tx: &mut Tx, held: Held, m: &Measurement) -> Result<(), StoreError> {
    let sql = fenced!(
        "INSERT INTO measurements (trial, attempt, epoch, train_loss, val_loss, seconds, tokens_per_s,
             weights_digest, at_ms)
         SELECT ?1, ?2, ?4, ?5, ?6, ?7, ?8, ?9, ?10 FROM trials"
    );
    let done = sqlx::query(sql)
        .bind(held.trial)
        .bind(held.attempt)
        .bind(TrialState::Running { attempt: held.attempt }.name())
        .bind(m.epoch)
        .bind(m.train_loss)
        .bind(m.val_loss)
        .bind(m.seconds)
        .bind(m.tokens_per_s)
        .bind(&m.weights_digest)
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    fence_held(done.rows_affected(), held)
}

/// The same numerics promise the same bytes: an older attempt's row of this epoch that has others is flagged.
async fn flag_other_bytes(
    tx: &mut Tx,
    trial: &TrialCore,
    held: Held,
    m: &Measurement,
) -> Result<(), StoreError> {
    if held.attempt == 1 {
        return Ok(());
    }
    let sql = "SELECT o.attempt FROM measurements o
               JOIN attempts a ON a.trial = o.trial AND a.attempt = o.attempt
               JOIN attempts b ON b.trial = o.trial AND b.attempt = ?2
               WHERE o.trial = ?1 AND o.epoch = ?3 AND o.attempt < ?2 AND o.weights_digest <> ?4
                 AND (a.program_version, a.kind, a.dtype) = (b.program_version, b.kind, b.dtype)
               LIMIT 1";
    let other: Option<u32> = sqlx::query_scalar(sql)
        .bind(held.trial)
        .bind(held.attempt)
        .bind(m.epoch)
        .bind(&m.weights_digest)
        .fetch_optional(&mut tx.conn)
        .await?;
    if let Some(other) = other {
        tracing::warn!(
            study = trial.study_name,
            trial = trial.number,
            attempt = held.attempt,
            other,
            epoch = m.epoch,
            "same numerics, other bytes"
        );
        let fields = json!({"epoch": m.epoch, "other_attempt": other});
        events::write(tx, trial.study, "trial.diverged", (trial.number, held.attempt), &fields).await?;
    }
    Ok(())
}

/// A checkpoint as a worker announces it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewCheckpoint {
    pub(crate) role: &'static str,
    pub(crate) digest: String,
    pub(crate) epoch: u32,
    pub(crate) val_loss: Option<f64>,
    /// The files of its manifest, which the caller has read and checked.
    pub(crate) manifest: kapell_rpc::manifest::Manifest,
}

/// Records checkpoints whose blobs are here; an equal one again changes nothing.
pub(crate) async fn record(tx: &mut Tx, held: Held, new: &[NewCheckpoint]) -> Result<(), StoreError> {
    let trial = trials::load_held(tx, held).await?;
    for checkpoint in new {
        blobs::add_manifest(tx, &checkpoint.digest, &checkpoint.manifest).await?;
        if checkpoint.epoch > trial.epochs {
            let text = format!(
                "trial {}: a checkpoint of epoch {} before that epoch is measured (newest: {})",
                trial.name(),
                checkpoint.epoch,
                trial.epochs
            );
            return Err(Refusal::new(reason::EPOCH_GAP, text).into());
        }
        put(tx, &trial, held, checkpoint).await?;
    }
    Ok(())
}

async fn put(tx: &mut Tx, trial: &TrialCore, held: Held, new: &NewCheckpoint) -> Result<(), StoreError> {
    let known: Option<(String, u32)> =
        sqlx::query_as("SELECT digest, epoch FROM checkpoints WHERE trial = ? AND role = ?")
            .bind(held.trial)
            .bind(new.role)
            .fetch_optional(&mut tx.conn)
            .await?;
    if known == Some((new.digest.clone(), new.epoch)) {
        return Ok(());
    }
    let sql = concat!(
        fenced!(
            "INSERT INTO checkpoints (trial, attempt, role, digest, epoch, val_loss, bytes, created_at_ms)
             SELECT ?1, ?2, ?4, ?5, ?6, ?7, ?8, ?9 FROM trials"
        ),
        " ON CONFLICT (trial, role) DO UPDATE SET attempt = excluded.attempt, digest = excluded.digest,
             epoch = excluded.epoch, val_loss = excluded.val_loss, bytes = excluded.bytes,
             created_at_ms = excluded.created_at_ms"
    );
    let done = sqlx::query(sql)
        .bind(held.trial)
        .bind(held.attempt)
        .bind(TrialState::Running { attempt: held.attempt }.name())
        .bind(new.role)
        .bind(&new.digest)
        .bind(new.epoch)
        .bind(new.val_loss)
        .bind(i64::try_from(new.manifest.total_bytes()).unwrap_or(i64::MAX))
        .bind(tx.at_ms)
        .execute(&mut tx.conn)
        .await?;
    fence_held(done.rows_affected(), held)?;
    let fields = json!({"role": new.role, "epoch": new.epoch, "digest": new.digest});
    events::write(tx, trial.study, "trial.checkpointed", (trial.number, held.attempt), &fields).await
}

/// A trial's checkpoint of this role.
pub(crate) async fn checkpoint(
    conn: &mut SqliteConnection,
    trial: i64,
    role: &'static str,
) -> Result<Option<CheckpointRow>, StoreError> {
    let sql = "SELECT digest, epoch, attempt, val_loss, bytes FROM checkpoints WHERE trial = ? AND role = ?";
    Ok(sqlx::query_as(sql).bind(trial).bind(role).fetch_optional(conn).await?)
}

/// How a worker ends its attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finish {
    pub(crate) held: Held,
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
    /// With FAILED: trying again would end the same way.
    pub(crate) last: bool,
    pub(crate) seconds: f64,
    pub(crate) log_tail: String,
    pub(crate) checkpoints: Vec<NewCheckpoint>,
}

impl Finish {
    fn ending(&self) -> Result<Ending, StoreError> {
        Ok(match self.outcome {
            Outcome::Complete => Ending::Complete,
            Outcome::Pruned => Ending::Pruned,
            Outcome::Paused => Ending::Paused,
            Outcome::Failed => Ending::Failed { last: self.last },
            Outcome::Released => Ending::Released,
            Outcome::Canceled => Ending::Canceled,
            Outcome::Lost => return Err(bad_request("a worker does not finish an attempt as LOST")),
        })
    }
}

/// Ends the attempt. What has ended so already is acknowledged again. Gives what the trial became.
pub(crate) async fn finish(tx: &mut Tx, finish: &Finish) -> Result<TrialState, StoreError> {
    let (held, ending) = (finish.held, finish.ending()?);
    if let Some(state) = finished(tx, finish).await? {
        keep_log(tx, finish).await?;
        return Ok(state);
    }
    if !finish.checkpoints.is_empty() {
        record(tx, held, &finish.checkpoints).await?;
    }
    let trial = trials::load_held(tx, held).await?;
    let spec = tx.spec(trial.study).await?;
    if ending == Ending::Complete {
        complete(tx, &trial, spec.checkpoint.keep).await?;
    }
    keep_log(tx, finish).await?;
    let study = study_state(tx, trial.study).await?;
    let why = if ending == Ending::Paused && study != StudyState::Canceled {
        STUDY_PAUSED
    } else {
        finish.reason.as_str()
    };
    let event = TrialEvent::Finish { attempt: held.attempt, ending };
    let mut state = trials::step(tx, &trial, event, why).await?;
    // The study was resumed while its worker was pausing.
    if state == TrialState::Paused && study == StudyState::Active {
        let paused = trials::load(tx, held.trial).await?.ok_or(StoreError::Closed)?;
        state = trials::step(tx, &paused, TrialEvent::Resume, "").await?;
    }
    let reached = trial.objective.zip(spec.limits.target).filter(|(value, target)| {
        state == TrialState::Complete && (value == target || spec.objective.better(*value, *target))
    });
    if let Some((value, target)) = reached {
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

async fn study_state(tx: &mut Tx, study: i64) -> Result<StudyState, StoreError> {
    let name: String = sqlx::query_scalar("SELECT state FROM studies WHERE id = ?")
        .bind(study)
        .fetch_one(&mut tx.conn)
        .await?;
    StudyState::parse(&name).ok_or_else(|| StoreError::Corrupt(format!("study {study} is {name}")))
}

/// The trial's state, if the attempt has ended with this outcome before.
async fn finished(tx: &mut Tx, finish: &Finish) -> Result<Option<TrialState>, StoreError> {
    let outcome: Option<Option<String>> =
        sqlx::query_scalar("SELECT outcome FROM attempts WHERE trial = ? AND attempt = ?")
            .bind(finish.held.trial)
            .bind(finish.held.attempt)
            .fetch_optional(&mut tx.conn)
            .await?;
    if outcome.flatten().as_deref() != Some(finish.outcome.name()) {
        return Ok(None);
    }
    match trials::load(tx, finish.held.trial).await? {
        Some(trial) => Ok(Some(trial.machine()?.state)),
        None => Ok(None),
    }
}

/// COMPLETE means: every epoch measured, and the checkpoints there that the study keeps. Others go.
async fn complete(
    tx: &mut Tx,
    trial: &TrialCore,
    keep: kapell_search::study::Keep,
) -> Result<(), StoreError> {
    let incomplete = |what: String| {
        let text = format!("trial {} is not complete: {what}", trial.name());
        StoreError::from(Refusal::new(reason::INCOMPLETE, text))
    };
    if trial.epochs < trial.epochs_wanted {
        return Err(incomplete(format!("{} of {} epochs are measured", trial.epochs, trial.epochs_wanted)));
    }
    for (role, kept) in [("best", keep.best()), ("last", keep.last())] {
        let there = checkpoint(&mut tx.conn, trial.id, role).await?.is_some();
        if kept && !there {
            return Err(incomplete(format!("its {role} checkpoint is not here")));
        }
        if !kept && there {
            sqlx::query("DELETE FROM checkpoints WHERE trial = ? AND role = ?")
                .bind(trial.id)
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
    if finish.log_tail.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO logs (trial, attempt, log) SELECT trial, attempt, ?3 FROM attempts
               WHERE trial = ?1 AND attempt = ?2 ON CONFLICT (trial, attempt) DO UPDATE SET log = excluded.log";
    sqlx::query(sql)
        .bind(finish.held.trial)
        .bind(finish.held.attempt)
        .bind(tail(&finish.log_tail))
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// The last 256 KiB, from a whole character on.
fn tail(log: &str) -> &str {
    let mut start = log.len().saturating_sub(LOG_BYTES_MAX);
    while !log.is_char_boundary(start) {
        start += 1;
    }
    log.get(start..).unwrap_or_default()
}
