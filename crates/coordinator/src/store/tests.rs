//! The writer's promises, on a real database: batches, savepoints, a full disk, rows that cannot be.

use std::sync::Arc;
use std::time::Duration;

use kapell_dispatch::Held;
use kapell_dispatch::report::{Measurement, Summary};
use kapell_rpc::reason;
use sqlx::AssertSqlSafe;

use super::checkpoints::NewCheckpoint;
use super::{Store, StoreError, bad_request, blobs, checkpoints, report, trials};
use crate::live::Live;

/// A store on a folder of its own.
pub(super) struct House {
    pub(super) store: Store,
    _dir: tempfile::TempDir,
}

pub(super) async fn open() -> House {
    let dir = tempfile::tempdir().unwrap();
    let live = Arc::new(Live::new(Duration::from_secs(30)));
    let (store, _, _) = super::open(&dir.path().join("kapell.db"), live).await.unwrap();
    House { store, _dir: dir }
}

/// How SQLite would answer a query, a line each.
pub(super) async fn plan(store: &Store, sql: &str) -> Vec<String> {
    let mut conn = store.readers.acquire().await.unwrap();
    let rows: Vec<(i64, i64, i64, String)> =
        sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
            .fetch_all(&mut *conn)
            .await
            .unwrap();
    rows.into_iter().map(|r| r.3).collect()
}

fn name(i: u64) -> String {
    format!("sha256:{i:064}")
}

async fn add(store: &Store, i: u64, fail: bool) -> Result<(), StoreError> {
    store
        .writer
        .write(move |tx| {
            Box::pin(async move {
                blobs::add(tx, &name(i), i).await?;
                if fail { Err(bad_request("no")) } else { Ok(()) }
            })
        })
        .await
}

async fn count(store: &Store) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM blobs").fetch_one(&store.readers).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fails_in_a_batch_fails_alone() {
    let house = open().await;
    let mut tasks = Vec::new();
    for i in 0..300 {
        let store = house.store.clone();
        tasks.push(tokio::spawn(async move { add(&store, i, i % 3 == 0).await }));
    }
    for (i, task) in tasks.into_iter().enumerate() {
        let refused = matches!(task.await.unwrap(), Err(StoreError::Refused(_)));
        assert_eq!(refused, i % 3 == 0, "request {i}");
    }
    assert_eq!(count(&house.store).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_gone_on_after() {
    let house = open().await;
    let limit = |pages: u32| {
        let store = house.store.clone();
        async move {
            store
                .writer
                .write(move |tx| {
                    Box::pin(async move {
                        let sql = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
                        sqlx::query(sql).execute(&mut tx.conn).await?;
                        Ok(())
                    })
                })
                .await
                .unwrap();
        }
    };
    limit(1).await;
    let mut written = 0;
    let full = loop {
        match add(&house.store, written, false).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::DiskFull), "{full}");
    assert_eq!(count(&house.store).await, i64::try_from(written).unwrap(), "what was acknowledged is there");
    limit(1_000_000).await;
    add(&house.store, written, false).await.unwrap();
    assert_eq!(count(&house.store).await, i64::try_from(written).unwrap() + 1);
}

/// A study of one trial that nobody has tried.
pub(super) const ONE_TRIAL: &str = "INSERT INTO blobs VALUES ('sha256:0000000000000000000000000000000000000000000000000000000000000000', 1, 0, 0);
    INSERT INTO studies (id, uuid, name, state, spec_toml, corpus, corpus_digest, split_digest, vocabulary, weight,
        configurations, created_at_ms)
    VALUES (1, 'u', 's', 'ACTIVE', '', 'c',
        'sha256:0000000000000000000000000000000000000000000000000000000000000000', 'd', 1, 1.0, 1, 0);
    INSERT INTO trials (id, study, number, config, config_hash, shape_key, replicate, epochs_wanted, created_at_ms)
    VALUES (1, 1, 1, '{}', 'h', 'k', 0, 3, 0);
    INSERT INTO study_counts VALUES (1, 'QUEUED', 1);";

/// The first epoch of a trial.
pub(super) fn measurement() -> Measurement {
    Measurement {
        epoch: 1,
        train_loss: 0.1,
        val_loss: 0.2,
        seconds: 1.0,
        tokens_per_s: 1.0,
        weights_digest: "w".into(),
    }
}

pub(super) async fn run(store: &Store, sql: &'static str) {
    let done = store.writer.write(move |tx| {
        Box::pin(async move {
            sqlx::raw_sql(sql).execute(&mut tx.conn).await?;
            Ok(())
        })
    });
    done.await.unwrap();
}

/// Every write of an attempt, without the look at its trial that comes before: the statement alone must refuse.
async fn write_as(store: &Store, attempt: u32) -> Vec<Result<(), StoreError>> {
    let held = Held { trial: 1, attempt };
    let measurement = measurement();
    let checkpoint = NewCheckpoint {
        role: "last",
        digest: name(0),
        epoch: 0,
        val_loss: None,
        manifest: Arc::new(kapell_rpc::manifest::Manifest::new(Vec::new())),
    };
    let writer = &store.writer;
    vec![
        writer
            .write(move |tx| Box::pin(async move { report::insert(tx, held, &[&measurement]).await }))
            .await,
        writer
            .write(move |tx| {
                Box::pin(async move { report::save_summary(tx, held, &Summary::default()).await })
            })
            .await,
        writer
            .write(move |tx| {
                Box::pin(async move {
                    let trial = trials::load(tx, held.trial).await?.ok_or(StoreError::Closed)?;
                    checkpoints::put(tx, &trial, held, &checkpoint).await
                })
            })
            .await,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_of_an_attempt_is_fenced_in_its_own_statement() {
    let house = open().await;
    run(&house.store, ONE_TRIAL).await;
    let attempts =
        "INSERT INTO attempts (trial, attempt, worker, incarnation, device, program_version, kind, dtype,
            start_epoch, started_at_ms, ended_at_ms, outcome)
        VALUES (1, 1, 'w', 'i', 'cpu', 'v', 'k', 'f32', 0, 0, 1, 'LOST'),
               (1, 2, 'w', 'i', 'cpu', 'v', 'k', 'f32', 0, 2, NULL, NULL);
        UPDATE trials SET state = 'RUNNING', attempts = 2, running_attempt = 2, losses = 1;";
    run(&house.store, attempts).await;
    for (n, done) in write_as(&house.store, 1).await.into_iter().enumerate() {
        let stale = matches!(&done, Err(StoreError::Refused(r)) if r.reason == reason::STALE_ATTEMPT);
        assert!(stale, "write {n} of an attempt that has ended: {done:?}");
    }
    for (n, done) in write_as(&house.store, 2).await.into_iter().enumerate() {
        done.unwrap_or_else(|error| panic!("write {n} of the attempt that holds the trial: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_state_machine_produces_are_refused_by_the_schema() {
    let house = open().await;
    run(&house.store, ONE_TRIAL).await;
    for impossible in [
        "UPDATE trials SET state = 'RUNNING'",
        "UPDATE trials SET state = 'RUNNING', attempts = 2, running_attempt = 1",
        "UPDATE trials SET running_attempt = 1, attempts = 1",
        "UPDATE trials SET state = 'FAILED'",
        "UPDATE trials SET state = 'COMPLETE', ended_at_ms = 1, epochs = 2, best_epoch = 1, objective = 1.0",
        "UPDATE trials SET state = 'DANCING'",
        "UPDATE trials SET failures = 1",
        "UPDATE studies SET state = 'COMPLETE'",
        "INSERT INTO trials (study, number, config, config_hash, shape_key, replicate, epochs_wanted, created_at_ms)
         VALUES (1, 2, '{}', 'h', 'k', 0, 3, 0)",
        "INSERT INTO measurements VALUES (1, 1, 1, 1.0, 1.0, 1.0, 1.0, 'w', 0, 0)",
        "DELETE FROM blobs",
    ] {
        let done = house
            .store
            .writer
            .write(move |tx| {
                Box::pin(async move {
                    sqlx::query(impossible).execute(&mut tx.conn).await?;
                    Ok(())
                })
            })
            .await;
        assert!(matches!(done, Err(StoreError::Sql(_))), "{impossible}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_waits_for_any_more_is_done_all_the_same() {
    let house = open().await;
    let slow = house.store.writer.write(|tx| {
        Box::pin(async move {
            for i in 0..50 {
                blobs::add(tx, &name(i), i).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    });
    let mut slow = Box::pin(slow);
    // Polled once it is in the queue; then whoever asked goes away.
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(slow.as_mut().poll(cx).is_pending())).await;
    assert!(polled);
    drop(slow);
    add(&house.store, 50, false).await.unwrap();
    assert_eq!(count(&house.store).await, 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_disk_nothing_is_acknowledged_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let live = Arc::new(Live::new(Duration::from_secs(30)));
    let (store, writer, failed) = super::open(&dir.path().join("kapell.db"), live).await.unwrap();
    add(&store, 1, false).await.unwrap();
    let broken = store.writer.write(|tx| {
        Box::pin(async move {
            blobs::add(tx, &name(2), 2).await?;
            Err::<(), _>(StoreError::Failed("disk I/O error".into()))
        })
    });
    assert!(matches!(broken.await, Err(StoreError::Failed(_))));
    assert!(failed.await.unwrap().contains("disk I/O error"));
    writer.await.unwrap();
    assert!(matches!(add(&store, 3, false).await, Err(StoreError::Closed)));
    assert_eq!(count(&store).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_a_deleted_study_is_never_given_again() {
    let house = open().await;
    add(&house.store, 0, false).await.unwrap();
    let insert = |uuid: &'static str| {
        let store = house.store.clone();
        async move {
            let sql =
                "INSERT INTO studies (uuid, name, state, spec_toml, corpus, corpus_digest, split_digest,
                           vocabulary, weight, configurations, created_at_ms)
                       VALUES (?1, ?1, 'ACTIVE', '', 'c', ?2, 'd', 1, 1.0, 1, 0)";
            let done = store.writer.write(move |tx| {
                Box::pin(async move {
                    let done = sqlx::query(sql).bind(uuid).bind(name(0)).execute(&mut tx.conn).await?;
                    Ok(done.last_insert_rowid())
                })
            });
            done.await.unwrap()
        }
    };
    let first = insert("one").await;
    let delete = house.store.writer.write(move |tx| {
        Box::pin(async move {
            sqlx::query("DELETE FROM studies WHERE id = ?").bind(first).execute(&mut tx.conn).await?;
            Ok(())
        })
    });
    delete.await.unwrap();
    assert!(insert("other").await > first);
}
