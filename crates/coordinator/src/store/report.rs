//! Measurements: taken once each, in order, and summed up on the trial they are of.

use kapell_dispatch::report::{Measurement, ReportError, Verdict, judge};
use kapell_dispatch::trial::Ending;
use kapell_dispatch::{Held, TrialEvent, TrialState};
use kapell_rpc::reason;
use kapell_search::study::{At, Metric, Objective};
use serde_json::json;
use sqlx::SqliteConnection;

use super::rows::MeasurementRow;
use super::trials::{self, TrialCore, fence_held, fenced};
use super::{Refusal, StoreError, Tx, divergence, events};

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
                divergence::flag(tx, &trial, held, m.epoch).await?;
                summary.add(&spec.objective, m.epoch, m.train_loss, m.val_loss, m.weights_digest.clone());
                added = true;
                let fields = json!({"epoch": m.epoch, "train_loss": m.train_loss, "val_loss": m.val_loss,
                    "seconds": m.seconds, "tokens_per_s": m.tokens_per_s});
                events::write(tx, trial.study, "trial.measured", (trial.number, held.attempt), &fields)
                    .await?;
            }
            Err(error @ ReportError::NotFinite { .. }) => {
                // The epochs before it stand: the trial's summary must know of them.
                if added {
                    save_summary(tx, held, &summary).await?;
                }
                return not_finite(tx, held, error.to_string()).await;
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
async fn not_finite(tx: &mut Tx, held: Held, why: String) -> Result<Reported, StoreError> {
    let trial = trials::load_held(tx, held).await?;
    let ending = Ending::Failed { last: true };
    trials::step(tx, &trial, TrialEvent::Finish { attempt: held.attempt, ending }, &why).await?;
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
