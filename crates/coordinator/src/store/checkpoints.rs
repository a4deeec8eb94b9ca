//! Checkpoints: recorded by the attempt that holds the trial, when their blobs are here and their epoch is measured.

use kapell_dispatch::finish::{CheckpointVerdict, Roles, judge_checkpoint};
use kapell_dispatch::{Held, TrialState};
use kapell_rpc::reason;
use serde_json::json;
use sqlx::SqliteConnection;

use super::rows::CheckpointRow;
use super::trials::{self, TrialCore, fence_held, fenced};
use super::{Refusal, StoreError, Tx, blobs, events};

/// A checkpoint as a worker announces it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewCheckpoint {
    pub(crate) role: &'static str,
    pub(crate) digest: String,
    pub(crate) epoch: u32,
    pub(crate) val_loss: Option<f64>,
    /// The files of its manifest, which the caller has read and checked.
    pub(crate) manifest: std::sync::Arc<kapell_rpc::manifest::Manifest>,
}

/// Records checkpoints whose blobs are here; an equal one again changes nothing, nor does one that a newer one has
/// overtaken on its way.
pub(crate) async fn record(tx: &mut Tx, held: Held, new: &[NewCheckpoint]) -> Result<(), StoreError> {
    let trial = trials::load_held(tx, held).await?;
    record_of(tx, &trial, held, new).await
}

/// The same of a trial that is loaded.
pub(crate) async fn record_of(
    tx: &mut Tx,
    trial: &TrialCore,
    held: Held,
    new: &[NewCheckpoint],
) -> Result<(), StoreError> {
    for (n, checkpoint) in new.iter().enumerate() {
        // The best is often the last one.
        if !new.iter().take(n).any(|before| before.digest == checkpoint.digest) {
            blobs::add_manifest(tx, &checkpoint.digest, &checkpoint.manifest).await?;
        }
        put(tx, trial, held, checkpoint).await?;
    }
    Ok(())
}

pub(super) async fn put(
    tx: &mut Tx,
    trial: &TrialCore,
    held: Held,
    new: &NewCheckpoint,
) -> Result<(), StoreError> {
    let known = checkpoint(&mut tx.conn, trial.id, new.role).await?;
    let known = known.as_ref().map(|k| (k.digest.as_str(), k.epoch));
    let verdict = judge_checkpoint((&new.digest, new.epoch), known, trial.epochs)
        .map_err(|error| Refusal::new(reason::EPOCH_GAP, format!("trial {}: {error}", trial.name())))?;
    match verdict {
        CheckpointVerdict::New => {}
        CheckpointVerdict::Known | CheckpointVerdict::Overtaken => return Ok(()),
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
    fence_held(done.rows_affected(), 1, held)?;
    let fields = json!({"role": new.role, "epoch": new.epoch, "digest": new.digest});
    events::add(tx, trial.study, "trial.checkpointed", (trial.number, held.attempt), &fields);
    Ok(())
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

/// Which checkpoints a trial has.
pub(crate) async fn roles(conn: &mut SqliteConnection, trial: i64) -> Result<Roles, StoreError> {
    let sql = "SELECT role FROM checkpoints WHERE trial = ?";
    let roles: Vec<String> = sqlx::query_scalar(sql).bind(trial).fetch_all(conn).await?;
    let there = |role: &str| roles.iter().any(|r| r == role);
    Ok(Roles { best: there("best"), last: there("last") })
}
