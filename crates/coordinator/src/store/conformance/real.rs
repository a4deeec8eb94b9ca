//! The real store's side: operations through the writer, and its content as the model prints it.

use std::fmt::Write;
use std::sync::Arc;

use kapell_dispatch::TrialState;
use kapell_dispatch::sim::store::{Ask, NewCheckpoint, WorkerState};
use kapell_rpc::manifest::{Manifest, ManifestFile};
use kapell_search::StudySpec;

use super::ops::{CORPUS, GRACE, Op};
use crate::live::Live;
use crate::store::finish::Finish;
use crate::store::rows::CheckpointRow;
use crate::store::studies::{self, NewStudy};
use crate::store::together::{Heard, Word};
use crate::store::workers::{self, NewWorker, Numerics};
use crate::store::{Store, StoreError, Tx, blobs, checkpoints, lease, upkeep};

/// The one file that every checkpoint here has.
const FILE: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000f0";

/// Blobs that studies and checkpoints refer to; and trials are numbered from 1, as the model does.
pub(super) async fn prepare(store: &Store) {
    let all = store.writer.write(|tx| {
        Box::pin(async move {
            blobs::add(tx, CORPUS, 1).await?;
            blobs::add(tx, FILE, 1).await?;
            sqlx::query("UPDATE sqlite_sequence SET seq = 0 WHERE name = 'trials'")
                .execute(&mut tx.conn)
                .await?;
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
            match op {
                Op::Report { held, rows } => writer.word(Word::Report(held, rows)).await.map(heard),
                Op::Finish { held, finish } => writer.word(Word::Finish(end(held, finish))).await.map(heard),
                Op::Lease { ask } => writer.ask(asked(&ask)).await.map(told),
                op => {
                    writer.write(move |tx| Box::pin(async move { Box::pin(apply(tx, op, beat)).await })).await
                }
            }
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
        Op::Checkpoint { held, new } => checkpoints::record(tx, held, &announced(&new)).await.map(ok),
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
        Op::Report { .. } | Op::Finish { .. } | Op::Lease { .. } => {
            unreachable!("the writer has calls for these")
        }
    }
}

fn new_worker(name: String, incarnation: String) -> NewWorker {
    let numerics = Numerics { program_version: "0".into(), kind: "cpu".into(), dtype: "f32".into() };
    NewWorker { name, incarnation, host: "h".into(), devices: Vec::new(), slots: 1, study: None, numerics }
}

fn asked(ask: &Ask) -> lease::Ask {
    lease::Ask {
        worker: ask.worker.to_string(),
        incarnation: ask.incarnation.to_string(),
        request_id: ask.request.to_string(),
        max_works: ask.max_works,
        max_mates: ask.max_mates,
    }
}

fn told(works: Option<Vec<lease::Leased>>) -> String {
    let at = |c: &Option<CheckpointRow>| c.as_ref().map(|c| (c.digest.clone(), c.epoch));
    let told = works
        .iter()
        .flatten()
        .map(|w| format!("{:?} {} {:?} {:?}; ", w.held, w.row.core.number, at(&w.resume), at(&w.best)));
    told.collect()
}

fn end(held: kapell_dispatch::Held, finish: kapell_dispatch::sim::store::Finish) -> Finish {
    Finish {
        held,
        rows: finish.rows,
        outcome: finish.outcome,
        reason: "because".into(),
        last: finish.last,
        seconds: 1.0,
        log_tail: "a line".into(),
        log_bytes: 0,
        checkpoints: announced(&finish.checkpoints),
    }
}

/// What became of a report or an end, as the model's is printed.
fn heard(heard: Heard) -> String {
    match (heard.not_finite, heard.state) {
        (Some(_), _) => "not finite".to_owned(),
        (None, TrialState::Running { .. }) => format!("taken {}", heard.epochs),
        (None, state) => state.name().to_owned(),
    }
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

/// What of the model's print a query gives: a key to sort by, and lines.
async fn lines(conn: &mut sqlx::SqliteConnection, sql: &'static str) -> Vec<(i64, i64, String)> {
    sqlx::query_as(sql).fetch_all(conn).await.unwrap()
}

type Head = (i64, i64, u32, String, Option<u32>, u32, u32, u32, Option<String>, u32, u32);
type Losses = (Option<f64>, Option<f64>, Option<f64>, Option<f64>, Option<u32>);
type Attempt = (i64, i64, String, String, u32, Option<String>, Option<String>, i64);

/// The content of the database, as the model's is printed.
pub(super) async fn dump(store: &Store) -> String {
    let mut conn = store.readers.acquire().await.unwrap();
    let conn = &mut *conn;
    let studies = "SELECT id, 0, 'study ' || id || ' ' || name || ' ' || state FROM studies ORDER BY id";
    let checkpoints =
        "SELECT trial, 0, 'checkpoint ' || trial || ' ' || role || ' ' || digest || ' ' || epoch
                           || ' by ' || attempt FROM checkpoints ORDER BY trial, role";
    let heads: Vec<Head> = sqlx::query_as(
        "SELECT study, id, number, state, running_attempt, attempts, failures, losses, avoid_worker,
                epochs_wanted, epochs FROM trials ORDER BY study, number",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    let losses: Vec<Losses> = sqlx::query_as(
        "SELECT objective, train_loss, val_loss, best_val_loss, best_epoch FROM trials ORDER BY study, number",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    let attempts = dump_attempts(conn).await;
    let checkpoints = lines(conn, checkpoints).await;
    let mut out = String::new();
    for (id, _, line) in lines(conn, studies).await {
        writeln!(out, "{line}").unwrap();
        for (head, loss) in heads.iter().zip(&losses).filter(|(head, _)| head.0 == id) {
            dump_trial(&mut out, head, *loss);
            let of = |l: &&(i64, i64, String)| l.0 == head.1;
            for (_, _, line) in attempts.iter().filter(of).chain(checkpoints.iter().filter(of)) {
                writeln!(out, "{line}").unwrap();
            }
        }
    }
    let workers = "SELECT 0, 0, 'worker ' || name || ' ' || incarnation || ' ' || upper(substr(state, 1, 1))
                       || substr(state, 2) FROM workers ORDER BY name";
    for (_, _, line) in lines(conn, workers).await {
        writeln!(out, "{line}").unwrap();
    }
    out
}

fn dump_trial(out: &mut String, head: &Head, (objective, train, val, best, at): Losses) {
    let (_, id, number, state, by, attempts, failures, losses, avoid, wanted, epochs) = head;
    writeln!(
        out,
        "trial {id} number {number} {state} by {by:?} attempts {attempts} failures {failures} losses {losses} \
         avoid {avoid:?} wanted {wanted} epochs {epochs} objective {objective:?} train {train:?} val {val:?} \
         best {best:?} at {at:?}"
    )
    .unwrap();
}

/// Attempts with their measurements, in order.
async fn dump_attempts(conn: &mut sqlx::SqliteConnection) -> Vec<(i64, i64, String)> {
    let attempts: Vec<Attempt> = sqlx::query_as(
        "SELECT trial, attempt, worker, incarnation, start_epoch, start_checkpoint, outcome, grace_ms
         FROM attempts ORDER BY trial, attempt",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    let rows: Vec<(i64, i64, u32, f64, f64, bool)> = sqlx::query_as(
        "SELECT trial, attempt, epoch, train_loss, val_loss, superseded FROM measurements
         ORDER BY trial, attempt, epoch",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    let mut all = Vec::new();
    for (id, attempt, worker, incarnation, from, checkpoint, outcome, grace) in attempts {
        let line = format!(
            "attempt {id}/{attempt} {worker} {incarnation} from {from} {checkpoint:?} outcome {outcome:?} \
             grace {grace}"
        );
        all.push((id, attempt, line));
        for (_, _, epoch, train, val, superseded) in rows.iter().filter(|r| (r.0, r.1) == (id, attempt)) {
            let line = format!("row {id}/{attempt} {epoch} {train:?} {val:?} superseded {superseded}");
            all.push((id, attempt, line));
        }
    }
    all
}
