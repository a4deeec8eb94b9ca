//! The statements of a group, each for itself: without the look at the trials that comes before, they must refuse.

use std::sync::Arc;

use kapell_rpc::manifest::Manifest;

use super::*;
use crate::store::Store;
use crate::store::tests::{ONE_TRIAL, measurement, open, run};

const ATTEMPTS: &str =
    "INSERT INTO attempts (trial, attempt, worker, incarnation, device, program_version, kind, dtype,
        start_epoch, started_at_ms, ended_at_ms, outcome)
    VALUES (1, 1, 'w', 'i', 'cpu', 'v', 'k', 'f32', 0, 0, 1, 'LOST'),
           (1, 2, 'w', 'i', 'cpu', 'v', 'k', 'f32', 0, 2, NULL, NULL);
    UPDATE trials SET state = 'RUNNING', attempts = 2, running_attempt = 2, losses = 1, epochs_wanted = 1;";

fn word(attempt: u32) -> Word {
    let checkpoint = NewCheckpoint {
        role: "last",
        digest: format!("sha256:{:064}", 0),
        epoch: 1,
        val_loss: None,
        manifest: Arc::new(Manifest::new(Vec::new())),
    };
    Word::Finish(Finish {
        held: Held { trial: 1, attempt },
        rows: vec![measurement()],
        outcome: Outcome::Complete,
        reason: String::new(),
        last: false,
        seconds: 1.0,
        log_tail: String::new(),
        log_bytes: 0,
        checkpoints: vec![checkpoint],
    })
}

/// One of the statements, as if the attempt held the trial.
async fn write_as(store: &Store, attempt: u32, statement: usize) -> Result<(), StoreError> {
    store
        .writer
        .write(move |tx| {
            Box::pin(async move {
                let word = word(attempt);
                let (rows, _) = load(tx, std::slice::from_ref(&word)).await?;
                let row = rows.get(&1).ok_or(StoreError::Closed)?;
                let mut summary = Summary::default();
                let rule = StudySpec::parse("name = \"s\"\ncorpus = \"c\"\n[space]\nseed = [1]\n");
                let rule = rule.map_err(|e| StoreError::Corrupt(e.to_string()))?.objective;
                summary.add(&rule, 1, 0.1, 0.2, "w".into());
                let state = TrialState::Complete;
                let next = Some(Trial { state, attempts: 2, failures: 0, losses: 1 });
                let checkpoints = word.end().into_iter().flat_map(|end| &end.checkpoints).collect();
                let judged = [Judged { word: &word, row, summary, checkpoints, next }];
                let (script, at_ms) = (Script::default(), tx.at_ms);
                let script = match statement {
                    0 => write_measurements(script, at_ms, &judged),
                    1 => write_checkpoints(script, at_ms, &judged),
                    2 => end_attempts(script, at_ms, &judged),
                    _ => save_trials(script, at_ms, &judged)?,
                };
                script.run_all(tx).await
            })
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_of_a_group_is_fenced_for_each_of_its_rows() {
    let house = open().await;
    run(&house.store, ONE_TRIAL).await;
    run(&house.store, ATTEMPTS).await;
    for statement in 0..4 {
        let done = write_as(&house.store, 1, statement).await;
        assert!(done.is_err(), "statement {statement} of an attempt that has ended took effect");
    }
    for statement in 0..4 {
        let done = write_as(&house.store, 2, statement).await;
        done.unwrap_or_else(|error| {
            panic!("statement {statement} of the attempt that holds the trial: {error}")
        });
    }
}
