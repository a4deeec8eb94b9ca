//! The real store's side: operations through the writer, and its content as the model prints it.

use std::fmt::Write;
use std::sync::Arc;

use kapell_dispatch::sim::store::{Ask, NewCheckpoint, WorkerState};
use kapell_rpc::manifest::{Manifest, ManifestFile};
use kapell_search::StudySpec;

use super::ops::{CORPUS, GRACE, Op};
use crate::live::Live;
use crate::store::finish::{self, Finish};
use crate::store::report::{self, Reported};
use crate::store::rows::CheckpointRow;
use crate::store::studies::{self, NewStudy};
use crate::store::workers::{self, NewWorker, Numerics};
use crate::store::{Store, StoreError, Tx, blobs, checkpoints, lease, upkeep};

/// The one file that every checkpoint here has.
const FILE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000f0";

/// Blobs that studies and checkpoints refer to.
pub(super) async fn prepare(store: &Store) {
    let all = store.writer.write(|tx| {
        Box::pin(async move {
            blobs::add(tx, CORPUS, 1).await?;
            blobs::add(tx, FILE, 1).await?;
            for n in 0..300 {
                blobs::add(tx, &format!("sha256:{n:064x}"), 1).await?;
            }
            Ok(())
        })
    });
    all.await.unwrap();
}

/// Carries operations out in one batch.
pub(super) async fn run(store: &Store, live: &Arc<Live>, ops: &[Op]) -> Vec<String> {
    let mut waiting = Vec::new();
    for op in ops {
        let (writer, op) = (store.writer.clone(), op.clone());
        let beat = match &op {
            Op::Beat { worker, held } => live.beat(worker, held).heard,
            _ => Vec::new(),
        };
        // In the queue of the writer before the next one is.
        let mut one = Box::pin(async move {
            writer.write(move |tx| Box::pin(async move { Box::pin(apply(tx, op, beat)).await })).await
        });
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(one.as_mut().poll(cx))).await;
        waiting.push((one, polled));
    }
    let mut answers = Vec::new();
    for (one, polled) in waiting {
        let answer = match polled {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => one.await,
        };
        answers.push(match answer {
            Ok(answer) => answer,
            Err(StoreError::Refused(refusal)) => format!("refused {}", refusal.reason),
            Err(other) => format!("failed: {other}"),
        });
    }
    for op in ops {
        if let Op::Register { worker, .. } = op {
            live.registered(worker);
        }
    }
    answers
}

async fn apply(tx: &mut Tx, op: Op, heard: Vec<kapell_dispatch::Held>) -> Result<String, StoreError> {
    let ok = |()| "ok".to_owned();
    match op {
        Op::Create { spec_toml, .. } => {
            let spec = StudySpec::parse(&spec_toml).unwrap();
            let corpus_digest = CORPUS.to_owned();
            let new =
                NewStudy { spec, spec_toml, corpus_digest, split_digest: "split".into(), vocabulary: 5 };
            studies::create(tx, &new).await.map(|(id, created)| format!("study {id} {created}"))
        }
        Op::Register { worker, incarnation } => {
            workers::register(tx, &new_worker(worker, incarnation)).await.map(ok)
        }
        Op::Control { worker, state } => {
            let state = match state {
                WorkerState::Ready => "ready",
                WorkerState::Cordoned => "cordoned",
                WorkerState::Draining => "draining",
            };
            workers::control(tx, &worker, state).await.map(ok)
        }
        Op::Lease { ask } => leased(tx, &ask).await,
        Op::Report { held, rows } => report::report(tx, held, &rows).await.map(|reported| match reported {
            Reported::Taken(epoch) => format!("taken {epoch}"),
            Reported::NotFinite(_) => "not finite".to_owned(),
        }),
        Op::Checkpoint { held, new } => checkpoints::record(tx, held, &announced(&new)).await.map(ok),
        Op::Finish { held, finish } => {
            let finish = Finish {
                held,
                outcome: finish.outcome,
                reason: "because".into(),
                last: finish.last,
                seconds: 1.0,
                log_tail: "a line".into(),
                checkpoints: announced(&finish.checkpoints),
            };
            finish::finish(tx, &finish).await.map(|state| state.name().to_owned())
        }
        Op::Lose { held } => upkeep::lose(tx, held, "w").await.map(ok),
        Op::Study { name, event } => {
            let id = studies::find(&mut tx.conn, &name).await?.id;
            studies::step(tx, id, event, "").await.map(|state| state.name().to_owned())
        }
        Op::Retry { name, number } => studies::retry(tx, &name, number).await.map(|_| "ok".to_owned()),
        Op::Delete { name } => studies::delete(tx, &name).await.map(|trials| format!("deleted {trials}")),
        Op::Adopt => {
            tx.specs.forget_all();
            upkeep::adopt(tx, GRACE).await.map(|n| format!("adopted {n}"))
        }
        Op::Beat { .. } => upkeep::heard(tx, &heard).await.map(ok),
    }
}

fn new_worker(name: String, incarnation: String) -> NewWorker {
    let numerics = Numerics { program_version: "0".into(), kind: "cpu".into(), dtype: "f32".into() };
    NewWorker { name, incarnation, host: "h".into(), devices: Vec::new(), slots: 1, study: None, numerics }
}

async fn leased(tx: &mut Tx, ask: &Ask) -> Result<String, StoreError> {
    let ask = lease::Ask {
        worker: ask.worker.to_string(),
        incarnation: ask.incarnation.to_string(),
        request_id: ask.request.to_string(),
        max_works: ask.max_works,
        max_mates: ask.max_mates,
    };
    let works = lease::lease(tx, &ask).await?.unwrap_or_default();
    let at = |c: &Option<CheckpointRow>| c.as_ref().map(|c| (c.digest.clone(), c.epoch));
    let told = works
        .iter()
        .map(|w| format!("{:?} {} {:?} {:?}; ", w.held, w.row.core.number, at(&w.resume), at(&w.best)));
    Ok(told.collect())
}

fn announced(new: &[NewCheckpoint]) -> Vec<checkpoints::NewCheckpoint> {
    let file = ManifestFile { name: "config.json".into(), size: 1, digest: FILE.into() };
    let manifest = Arc::new(Manifest::new(vec![file]));
    let one = |c: &NewCheckpoint| checkpoints::NewCheckpoint {
        role: if c.best { "best" } else { "last" },
        digest: c.digest.to_string(),
        epoch: c.epoch,
        val_loss: Some(0.5),
        manifest: Arc::clone(&manifest),
    };
    new.iter().map(one).collect()
}

type Losses = (Option<f64>, Option<f64>, Option<f64>, Option<f64>, Option<u32>);

/// The content of the database, as the model's is printed.
pub(super) async fn dump(store: &Store) -> String {
    let mut conn = store.readers.acquire().await.unwrap();
    let conn = &mut *conn;
    let mut out = String::new();
    let studies: Vec<(i64, String, String)> =
        sqlx::query_as("SELECT id, name, state FROM studies ORDER BY id")
            .fetch_all(&mut *conn)
            .await
            .unwrap();
    for (id, name, state) in studies {
        writeln!(out, "study {id} {name} {state}").unwrap();
        let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM trials WHERE study = ? ORDER BY number")
            .bind(id)
            .fetch_all(&mut *conn)
            .await
            .unwrap();
        for trial in ids {
            dump_trial(&mut out, conn, trial).await;
        }
    }
    let workers: Vec<(String, String, String)> =
        sqlx::query_as("SELECT name, incarnation, state FROM workers ORDER BY name")
            .fetch_all(&mut *conn)
            .await
            .unwrap();
    for (name, incarnation, state) in workers {
        let state = match state.as_str() {
            "ready" => WorkerState::Ready,
            "cordoned" => WorkerState::Cordoned,
            _ => WorkerState::Draining,
        };
        writeln!(out, "worker {name} {incarnation} {state:?}").unwrap();
    }
    out
}

async fn dump_trial(out: &mut String, conn: &mut sqlx::SqliteConnection, id: i64) {
    let (number, state, by, attempts, failures, losses, avoid, wanted, epochs): (
        u32,
        String,
        Option<u32>,
        u32,
        u32,
        u32,
        Option<String>,
        u32,
        u32,
    ) = sqlx::query_as(
        "SELECT number, state, running_attempt, attempts, failures, losses, avoid_worker, epochs_wanted, epochs
         FROM trials WHERE id = ?",
    )
    .bind(id)
    .fetch_one(&mut *conn)
    .await
    .unwrap();
    let (objective, train, val, best, at): Losses = sqlx::query_as(
        "SELECT objective, train_loss, val_loss, best_val_loss, best_epoch FROM trials WHERE id = ?",
    )
    .bind(id)
    .fetch_one(&mut *conn)
    .await
    .unwrap();
    writeln!(
        out,
        "trial {id} number {number} {state} by {by:?} attempts {attempts} failures {failures} losses {losses} \
         avoid {avoid:?} wanted {wanted} epochs {epochs} objective {objective:?} train {train:?} val {val:?} \
         best {best:?} at {at:?}"
    )
    .unwrap();
    let attempts: Vec<(u32, String, String, u32, Option<String>, Option<String>, i64)> = sqlx::query_as(
        "SELECT attempt, worker, incarnation, start_epoch, start_checkpoint, outcome, grace_ms FROM attempts
         WHERE trial = ? ORDER BY attempt",
    )
    .bind(id)
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    for (attempt, worker, incarnation, from, checkpoint, outcome, grace) in attempts {
        writeln!(
            out,
            "attempt {id}/{attempt} {worker} {incarnation} from {from} {checkpoint:?} outcome {outcome:?} \
             grace {grace}"
        )
        .unwrap();
        let rows: Vec<(u32, f64, f64, bool)> = sqlx::query_as(
            "SELECT epoch, train_loss, val_loss, superseded FROM measurements WHERE trial = ? AND attempt = ?
             ORDER BY epoch",
        )
        .bind(id)
        .bind(attempt)
        .fetch_all(&mut *conn)
        .await
        .unwrap();
        for (epoch, train, val, superseded) in rows {
            writeln!(out, "row {id}/{attempt} {epoch} {train:?} {val:?} superseded {superseded}").unwrap();
        }
    }
    let checkpoints: Vec<(String, String, u32, u32)> =
        sqlx::query_as("SELECT role, digest, epoch, attempt FROM checkpoints WHERE trial = ? ORDER BY role")
            .bind(id)
            .fetch_all(&mut *conn)
            .await
            .unwrap();
    for (role, digest, epoch, attempt) in checkpoints {
        writeln!(out, "checkpoint {id} {role} {digest} {epoch} by {attempt}").unwrap();
    }
}
