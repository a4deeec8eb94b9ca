//! What is kept of trials and studies, and for how long.

use std::path::Path;
use std::time::Duration;

use kapell_rpc::v1::{self, Outcome, TrialState};
use sqlx::Connection;

use crate::harness::{Hand, House, SPEC, row};

/// What a trial has when it has ended so under this policy: (best, last).
async fn kept(keep: &str, outcome: Outcome) -> (bool, bool) {
    let house = House::open().await;
    let spec = SPEC.replace(
        "[space]",
        &format!("checkpoint = {{ keep = \"{keep}\" }}\nretry = {{ max_attempts = 1 }}\n[space]"),
    );
    house.create_as("c", &spec).await.unwrap();
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    hand.report(&work, &[row(1, 2.0), row(2, 1.5), row(3, 1.7)]).await.unwrap();
    let (best, last) = (hand.checkpoint(2, "best").await, hand.checkpoint(3, "last").await);
    hand.record(&work, Some(best), Some(last)).await.unwrap();
    if outcome == Outcome::Canceled {
        house.studies().cancel_study(v1::StudyRef { study: "demo".into() }).await.unwrap();
    } else {
        hand.finish(Hand::finish_request(&work, outcome)).await.unwrap();
    }
    let trial = house.trial(1).await.trial.unwrap();
    (trial.best.is_some(), trial.last.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_that_cannot_go_on_keeps_what_the_policy_says_and_one_that_can_its_last_checkpoint() {
    for outcome in [Outcome::Complete, Outcome::Pruned] {
        assert_eq!(kept("best", outcome).await, (true, false), "{outcome:?}");
        assert_eq!(kept("last", outcome).await, (false, true), "{outcome:?}");
        assert_eq!(kept("best+last", outcome).await, (true, true), "{outcome:?}");
    }
    for outcome in [Outcome::Failed, Outcome::Canceled] {
        assert_eq!(kept("best", outcome).await, (true, true), "a retry goes on from it: {outcome:?}");
    }
}

async fn count(dir: &Path, table: &str) -> i64 {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("kapell.db")).read_only(true);
    let mut db = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    let n = sqlx::query_scalar(sql).fetch_one(&mut db).await.unwrap();
    db.close().await.unwrap();
    n
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_study_leaves_nothing_behind_but_the_models_that_came_of_it() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let (done, canceled) = (hand.one("r1").await, hand.one("r2").await);
    hand.complete(&done, 1.0).await;
    hand.report(&canceled, &[row(1, 2.0)]).await.unwrap();
    let last = hand.checkpoint(1, "canceled").await;
    hand.record(&canceled, None, Some(last)).await.unwrap();
    let (trial_id, attempt) = (canceled.trial_id, canceled.attempt);
    let request = v1::AppendLogRequest { trial_id, attempt, start: 0, text: "a line".into() };
    hand.client.clone().append_log(request).await.unwrap();
    let study = || v1::StudyRef { study: "demo".into() };
    house.studies().cancel_study(study()).await.unwrap();
    assert_eq!(house.state(2).await, TrialState::Canceled);
    let promote = v1::PromoteRequest {
        request_id: "p".into(),
        study: "demo".into(),
        alias: "champion".into(),
        allow_partial: true,
        ..Default::default()
    };
    let promoted = house.models().promote(promote).await.unwrap().into_inner();
    assert_eq!(promoted.decision(), v1::promote_response::Decision::Promoted, "{promoted:?}");
    house.studies().delete_study(study()).await.unwrap();
    house.running.sweep_blobs(Duration::ZERO).await.unwrap();
    let dir = house.dir.path();
    for table in [
        "studies",
        "study_counts",
        "trials",
        "attempts",
        "logs",
        "log_pieces",
        "measurements",
        "checkpoints",
        "events",
        "requests WHERE kind = 'create'",
    ] {
        assert_eq!(count(dir, table).await, 0, "{table}");
    }
    // The version's manifest and its three files.
    assert_eq!(count(dir, "blobs").await, 4);
    let files = walk(&dir.join("blobs"));
    assert_eq!(files, 4);
}

fn walk(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}
