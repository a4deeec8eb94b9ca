//! Measurements: taken once each, in order, and summed up on the trial they are of.

use std::sync::LazyLock;

use kapell_dispatch::report::{Measurement, ReportError, Summary, Verdict, judge};
use kapell_dispatch::trial::Ending;
use kapell_dispatch::{Held, TrialEvent, TrialState};
use kapell_rpc::reason;
use sqlx::SqliteConnection;

use super::many::{Many, WIDEST};
use super::rows::MeasurementRow;
use super::trials::{self, TrialCore, fence_held, fenced, fenced_last};
use super::{Refusal, StoreError, Tx, divergence, events};

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
    fence_held(done.rows_affected(), 1, held)
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
    let known = measured(&mut tx.conn, held, rows, trial.epochs).await?;
    let mut summary = trial.summary();
    let mut new: Vec<&Measurement> = Vec::new();
    let mut not_finite = None;
    for m in rows {
        let known = known.iter().chain(new.iter().copied()).find(|k| k.epoch == m.epoch);
        match judge(m, known, summary.epochs, trial.epochs_wanted) {
            Ok(Verdict::Known) => {}
            Ok(Verdict::New) => {
                summary.add(&spec.objective, m.epoch, m.train_loss, m.val_loss, m.weights_digest.clone());
                new.push(m);
            }
            // The epochs before it stand.
            Err(error @ ReportError::NotFinite { .. }) => {
                not_finite = Some(error.to_string());
                break;
            }
            Err(error) => return Err(refused(&trial, error)),
        }
    }
    if !new.is_empty() {
        write(tx, &trial, held, &new).await?;
        save_summary(tx, held, &summary).await?;
    }
    match not_finite {
        None => Ok(Reported::Taken(summary.epochs)),
        Some(why) => fail(tx, held, why).await,
    }
}

async fn write(tx: &mut Tx, trial: &TrialCore, held: Held, new: &[&Measurement]) -> Result<(), StoreError> {
    for chunk in new.chunks(WIDEST) {
        insert(tx, held, chunk).await?;
    }
    events::add_measured(tx, trial.study, (trial.number, held.attempt), new);
    for m in new {
        divergence::flag(tx, trial, held, m.epoch).await?;
    }
    Ok(())
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
async fn fail(tx: &mut Tx, held: Held, why: String) -> Result<Reported, StoreError> {
    let trial = trials::load_held(tx, held).await?;
    let ending = Ending::Failed { last: true };
    trials::step(tx, &trial, TrialEvent::Finish { attempt: held.attempt, ending }, &why).await?;
    Ok(Reported::NotFinite(format!("trial {}: {why}", trial.name())))
}

/// What is on record of the epochs that the attempt reports: nothing, where all of them are new to the trial.
async fn measured(
    conn: &mut SqliteConnection,
    held: Held,
    rows: &[Measurement],
    newest: u32,
) -> Result<Vec<Measurement>, StoreError> {
    let Some(first) = rows.iter().map(|m| m.epoch).min().filter(|first| *first <= newest) else {
        return Ok(Vec::new());
    };
    let sql =
        "SELECT epoch, attempt, train_loss, val_loss, seconds, tokens_per_s, weights_digest FROM measurements
               WHERE trial = ? AND attempt = ? AND epoch >= ?";
    let known: Vec<MeasurementRow> =
        sqlx::query_as(sql).bind(held.trial).bind(held.attempt).bind(first).fetch_all(conn).await?;
    Ok(known.into_iter().map(Into::into).collect())
}

static INSERT: LazyLock<Many> = LazyLock::new(|| {
    let sql = fenced_last!(
        "INSERT INTO measurements (trial, attempt, at_ms, epoch, train_loss, val_loss, seconds, tokens_per_s,
             weights_digest)
         SELECT id, running_attempt, ?, m.* FROM trials JOIN (VALUES :rows) m ON m.column1 IS NOT NULL"
    );
    Many::new(sql, 6)
});

pub(super) async fn insert(tx: &mut Tx, held: Held, rows: &[&Measurement]) -> Result<(), StoreError> {
    let query = INSERT.query(
        rows.len(),
        |query| query.bind(tx.at_ms),
        |query| {
            rows.iter().fold(query, |query, m| {
                let query = query.bind(m.epoch).bind(m.train_loss).bind(m.val_loss);
                query.bind(m.seconds).bind(m.tokens_per_s).bind(m.weights_digest.as_str())
            })
        },
    );
    let state = TrialState::Running { attempt: held.attempt }.name();
    let done = query.bind(held.trial).bind(held.attempt).bind(state).execute(&mut tx.conn).await?;
    fence_held(done.rows_affected(), rows.len(), held)
}
