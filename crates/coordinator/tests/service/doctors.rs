//! What a doctor finds in a data folder, and what is mended.

use std::path::{Path, PathBuf};

use kapell_coordinator::doctor::{self, Report};
use kapell_rpc::v1::TrialState;
use sqlx::Connection;

use crate::harness::{House, row};

/// A folder with a COMPLETE trial and one that was released behind a checkpoint; nobody holds it.
async fn folder() -> tempfile::TempDir {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let (done, open) = (hand.one("r1").await, hand.one("r2").await);
    hand.complete(&done, 1.0).await;
    hand.report(&open, &[row(1, 2.0)]).await.unwrap();
    let last = hand.checkpoint(1, "open").await;
    hand.record(&open, None, Some(last)).await.unwrap();
    hand.finish(crate::harness::Hand::finish_request(&open, kapell_rpc::v1::Outcome::Released))
        .await
        .unwrap();
    house.running.shutdown().await;
    house.dir
}

async fn sql(dir: &Path, statements: &str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("kapell.db"));
    let mut db = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned())).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

async fn text(dir: &Path, query: &'static str) -> String {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("kapell.db"));
    let mut db = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let text = sqlx::query_scalar(query).fetch_one(&mut db).await.unwrap();
    db.close().await.unwrap();
    text
}

fn place(dir: &Path, digest: &str) -> PathBuf {
    let (head, tail) = digest.trim_start_matches("sha256:").split_at(2);
    dir.join("blobs").join(head).join(tail)
}

fn codes(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|f| f.code).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_mended_is_mended_and_then_all_is_well() {
    let dir = folder().await;
    let dir = dir.path();
    assert_eq!(codes(&doctor::examine(dir, false).await.unwrap()), [""; 0]);

    let orphan = place(dir, &format!("sha256:{}", "ab".repeat(32)));
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "left by a crash").unwrap();
    let part = dir.join("uploads").join("cd".repeat(32));
    std::fs::write(&part, "half").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 24 * 3600);
    std::fs::File::options().write(true).open(&part).unwrap().set_modified(long_ago).unwrap();
    std::fs::create_dir(dir.join("backup-abc")).unwrap();
    sql(dir, "UPDATE study_counts SET n = n + 5 WHERE state = 'QUEUED'").await;
    let query = "SELECT m.digest FROM checkpoints c JOIN trials t ON t.id = c.trial AND t.number = 2
        JOIN manifest_files m ON m.manifest = c.digest WHERE m.name = 'model.safetensors'";
    let damaged = place(dir, &text(dir, query).await);
    std::fs::write(&damaged, "other bytes").unwrap();

    let found = doctor::examine(dir, false).await.unwrap();
    assert_eq!(
        codes(&found),
        ["counts-differ", "blob-damaged", "blob-orphan", "upload-stale", "backup-left"]
    );
    assert_eq!(found.remaining(), 5);
    assert!(found.findings.iter().all(|f| !f.remedy.is_empty() && !f.fixed));
    assert!(found.findings[1].what.contains("demo/2"), "{}", found.findings[1].what);
    assert!(orphan.exists() && part.exists(), "looking changes nothing");

    let mended = doctor::examine(dir, true).await.unwrap();
    assert_eq!(mended.remaining(), 0, "{mended:?}");
    assert!(!orphan.exists() && !part.exists() && !dir.join("backup-abc").exists());
    assert_eq!(codes(&doctor::examine(dir, false).await.unwrap()), [""; 0]);
    assert_eq!(
        text(
            dir,
            "SELECT count(*) || '' FROM checkpoints c JOIN trials t ON t.id = c.trial
        WHERE t.number = 2"
        )
        .await,
        "0",
        "it begins anew"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_stays_a_problem() {
    let dir = folder().await;
    let dir = dir.path();
    let of_complete = "SELECT m.digest FROM checkpoints c JOIN trials t ON t.id = c.trial AND t.number = 1
        JOIN manifest_files m ON m.manifest = c.digest WHERE m.name = 'model.safetensors' AND c.role = 'best'";
    std::fs::remove_file(place(dir, &text(dir, of_complete).await)).unwrap();
    sql(
        dir,
        "DELETE FROM measurements WHERE epoch = 2 AND trial IN (SELECT id FROM trials WHERE number = 1)",
    )
    .await;
    for fix in [false, true, false] {
        let report = doctor::examine(dir, fix).await.unwrap();
        assert_eq!(codes(&report), ["trial-hollow", "blob-missing"]);
        assert_eq!(report.remaining(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_process_is_gone_is_given_up_and_one_that_may_come_back_is_not() {
    let house = House::open().await;
    house.create().await;
    let (gone, alive) = (house.worker("gone", "1").await, house.worker("alive", "1").await);
    gone.one("r1").await;
    alive.one("r2").await;
    let path = house.dir.path().to_owned();
    let beside = doctor::examine(&path, false).await.unwrap();
    assert!(
        beside.online && beside.findings.is_empty(),
        "the coordinator sees to its leases itself: {beside:?}"
    );
    let refused = doctor::examine(&path, true).await.unwrap_err();
    assert_eq!(refused.exit_code(), 2, "{refused}");
    let dir = house.dir;
    house.running.shutdown().await;
    sql(&path, "DELETE FROM workers WHERE name = 'gone'").await;
    let report = doctor::examine(&path, true).await.unwrap();
    assert_eq!(codes(&report), ["lease-stuck", "lease-open"]);
    assert_eq!(
        report.findings.iter().map(|f| (f.problem, f.fixed)).collect::<Vec<_>>(),
        [(true, true), (false, false)]
    );
    let house = House::on(dir, |_| {}).await;
    assert_eq!((house.state(1).await, house.state(2).await), (TrialState::Queued, TrialState::Running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_database_is_said() {
    let dir = folder().await;
    let file = dir.path().join("kapell.db");
    sql(dir.path(), "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let mut bytes = std::fs::read(&file).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].iter_mut().for_each(|b| *b = 0x5A);
    std::fs::write(&file, bytes).unwrap();
    match doctor::examine(dir.path(), false).await {
        Ok(report) => {
            assert!(report.remaining() > 0 && codes(&report)[0] == "database-damaged", "{report:?}")
        }
        Err(error) => assert_eq!(error.exit_code(), 7, "{error}"),
    }
    let nothing = doctor::examine(&dir.path().join("nowhere"), false).await.unwrap_err();
    assert_eq!((nothing.exit_code(), nothing.code()), (2, "not-found"));
    assert!(!dir.path().join("nowhere").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_that_is_being_expanded_is_well() {
    let house = House::open().await;
    house.create().await;
    house.running.shutdown().await;
    let dir = house.dir.path();
    // As a crash before the first piece leaves it.
    sql(
        dir,
        "DELETE FROM trials; DELETE FROM study_counts; INSERT INTO expansions (study, next) SELECT id, 1 FROM studies",
    )
    .await;
    assert_eq!(codes(&doctor::examine(dir, false).await.unwrap()), [""; 0]);
    sql(dir, "DELETE FROM expansions").await;
    assert_eq!(codes(&doctor::examine(dir, false).await.unwrap()), ["study-overdue"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_study_with_an_open_trial_goes_on() {
    let dir = folder().await;
    let dir = dir.path();
    sql(dir, "UPDATE studies SET state = 'COMPLETE', ended_at_ms = 1").await;
    assert_eq!(codes(&doctor::examine(dir, false).await.unwrap()), ["study-unfinished"]);
    // A trial that is stuck besides is queued again.
    sql(dir, "UPDATE trials SET state = 'RUNNING', running_attempt = attempts WHERE state = 'QUEUED'").await;
    let mended = doctor::examine(dir, true).await.unwrap();
    assert_eq!(codes(&mended), ["study-unfinished", "lease-stuck"]);
    assert_eq!(mended.remaining(), 0, "{mended:?}");
    assert_eq!(text(dir, "SELECT state FROM studies").await, "ACTIVE");
    assert_eq!(codes(&doctor::examine(dir, false).await.unwrap()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_read_at_all_is_a_finding() {
    // A folder of its own: whoever has used a database heals it when it lets go.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("kapell.db"),
        "this is no database, and it is longer than the head of one ".repeat(40),
    )
    .unwrap();
    let report = doctor::examine(dir.path(), false).await.unwrap();
    assert_eq!(codes(&report), ["database-damaged"]);
}
