//! Replayed epochs that came out with other bytes than before, though the arithmetic was the same: it should not be.

use kapell_dispatch::Held;
use serde_json::json;
use sqlx::{FromRow, SqliteConnection};

use super::trials::TrialCore;
use super::{StoreError, Tx, events};

/// Two attempts' measurements of one epoch that promise the same bytes and have not.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct DivergenceRow {
    pub(crate) epoch: u32,
    pub(crate) attempt: u32,
    /// The older one.
    pub(crate) other_attempt: u32,
    pub(crate) weights_digest: String,
    pub(crate) other_weights_digest: String,
}

/// The divergences of a trial; with an attempt other than 0, those of its measurement of one epoch.
///
/// Equal numerics of two attempts promise equal bytes where whatever else the newer one goes on from has them, too:
/// an attempt between that left a checkpoint, which the next did not start without.
const DIVERGENCES: &str = "SELECT m.epoch, m.attempt, o.attempt AS other_attempt, m.weights_digest,
        o.weights_digest AS other_weights_digest
    FROM measurements m
    JOIN measurements o ON o.trial = m.trial AND o.epoch = m.epoch AND o.attempt < m.attempt
    JOIN attempts a ON a.trial = m.trial AND a.attempt = m.attempt
    JOIN attempts b ON b.trial = o.trial AND b.attempt = o.attempt
    WHERE m.trial = ?1 AND (?2 = 0 OR (m.attempt = ?2 AND m.epoch = ?3))
      AND (m.weights_digest, m.train_loss, m.val_loss) <> (o.weights_digest, o.train_loss, o.val_loss)
      AND (a.program_version, a.kind, a.dtype) = (b.program_version, b.kind, b.dtype)
      AND NOT EXISTS (
          SELECT 1 FROM attempts k JOIN attempts next ON next.trial = k.trial AND next.attempt = k.attempt + 1
          WHERE k.trial = m.trial AND k.attempt < m.attempt AND next.start_checkpoint IS NOT k.start_checkpoint
            AND (k.program_version, k.kind, k.dtype) <> (a.program_version, a.kind, a.dtype))
    ORDER BY m.epoch, m.attempt, o.attempt";

/// All divergences of a trial.
pub(crate) async fn divergences(
    conn: &mut SqliteConnection,
    trial: i64,
) -> Result<Vec<DivergenceRow>, StoreError> {
    Ok(sqlx::query_as(DIVERGENCES).bind(trial).bind(0).bind(0).fetch_all(conn).await?)
}

/// Tells of a measurement, just written, that has other bytes than an older attempt's.
pub(crate) async fn flag(tx: &mut Tx, trial: &TrialCore, held: Held, epoch: u32) -> Result<(), StoreError> {
    if held.attempt == 1 {
        return Ok(());
    }
    let found: Option<DivergenceRow> = sqlx::query_as(DIVERGENCES)
        .bind(held.trial)
        .bind(held.attempt)
        .bind(epoch)
        .fetch_optional(&mut tx.conn)
        .await?;
    let Some(row) = found else { return Ok(()) };
    tracing::warn!(
        study = trial.study_name,
        trial = trial.number,
        attempt = held.attempt,
        other = row.other_attempt,
        epoch,
        "same numerics, other bytes"
    );
    let fields = json!({"epoch": epoch, "other_attempt": row.other_attempt,
        "weights_digest": row.weights_digest, "other_weights_digest": row.other_weights_digest});
    events::add(tx, trial.study, "trial.diverged", (trial.number, held.attempt), &fields);
    Ok(())
}
