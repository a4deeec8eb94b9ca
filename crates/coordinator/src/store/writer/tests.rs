//! The writer's queue is bounded: who does not get in in time is told so, and nothing of his is done.

use super::*;
use crate::store::bad_request;
use crate::store::blobs;
use crate::store::tests::{ONE_TRIAL, measurement, open, run};

fn nothing() -> Job {
    Job::Other(Box::new(|_| Box::pin(async { (Ok(true), Box::new(|_| ()) as Settle) })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_does_not_get_into_the_queue_in_time_is_told_that_there_is_too_much_to_do() {
    let house = open().await;
    let writer = house.store.writer.clone();
    let (go_on, wait) = oneshot::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let busy = tokio::spawn({
        let writer = writer.clone();
        async move {
            writer
                .write(move |_| {
                    Box::pin(async move {
                        begun.send(()).map_err(|()| StoreError::Closed)?;
                        wait.await.map_err(|_| StoreError::Closed)
                    })
                })
                .await
        }
    });
    has_begun.await.unwrap();
    while writer.jobs.try_send(nothing()).is_ok() {}

    let hasty = Writer { wait_max: Duration::ZERO, ..writer.clone() };
    let digest = format!("sha256:{:064}", 7);
    let add = |writer: Writer| {
        let digest = digest.clone();
        async move { writer.write(move |tx| Box::pin(async move { blobs::add(tx, &digest, 1).await })).await }
    };
    let refused = add(hasty.clone()).await;
    assert!(matches!(refused, Err(StoreError::Overloaded)), "{refused:?}");
    let status = tonic::Status::from(StoreError::Overloaded);
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);

    go_on.send(()).unwrap();
    busy.await.unwrap().unwrap();
    writer.write(|_| Box::pin(async { Ok(()) })).await.unwrap();
    let there = blobs::size(&mut house.store.readers.acquire().await.unwrap(), &digest).await.unwrap();
    assert_eq!(there, None, "what was refused is not done");
    add(hasty).await.unwrap();
}

#[tokio::test]
async fn what_a_refused_request_would_have_told_is_not_told() {
    let house = open().await;
    run(&house.store, ONE_TRIAL).await;
    let tell = |refused: bool| {
        house.store.writer.write(move |tx| {
            Box::pin(async move {
                events::add(tx, 1, "study.paused", (0, 0), &serde_json::json!({}));
                if refused { Err(bad_request("no")) } else { Ok(()) }
            })
        })
    };
    for (refused, events) in [(true, 0), (false, 1), (true, 1)] {
        assert_eq!(tell(refused).await.is_err(), refused);
        let told: i64 =
            sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&house.store.readers).await.unwrap();
        assert_eq!(told, events);
    }
}

/// Two trials that run; nothing more can be written to the second.
const TWO_RUN: &str = "UPDATE studies SET configurations = 2, spec_toml = 'name = \"s\"
corpus = \"c\"
[space]
seed = [1, 2]
';
    INSERT INTO trials (id, study, number, config, config_hash, shape_key, replicate, epochs_wanted, created_at_ms)
    VALUES (2, 1, 2, '{}', 'h', 'k', 1, 3, 0);
    UPDATE study_counts SET n = 2;
    INSERT INTO attempts (trial, attempt, worker, incarnation, device, program_version, kind, dtype, start_epoch,
        started_at_ms)
    SELECT id, 1, 'w', 'i', 'cpu', 'v', 'k', 'f32', 0, 0 FROM trials;
    UPDATE trials SET state = 'RUNNING', attempts = 1, running_attempt = 1;
    CREATE TRIGGER broken BEFORE UPDATE ON trials WHEN NEW.id = 2 BEGIN SELECT RAISE(ABORT, 'broken'); END;";

#[tokio::test]
async fn of_a_group_that_fails_nothing_stands_and_each_is_served_alone() {
    let house = open().await;
    run(&house.store, ONE_TRIAL).await;
    run(&house.store, TWO_RUN).await;
    let words = [1, 2].map(|trial| Word::Report(Held { trial, attempt: 1 }, vec![measurement()]));
    let answers = house.store.writer.write(move |tx| {
        Box::pin(async move {
            let mut answers = Vec::new();
            serve(tx, &words, &mut answers).await?;
            Ok(answers)
        })
    });
    let answers = answers.await.unwrap();
    assert_eq!(answers[0].as_ref().map(|heard| heard.epochs).ok(), Some(1), "{:?}", answers[0]);
    assert!(matches!(answers[1], Err(StoreError::Sql(_))), "{:?}", answers[1]);
    let measured: Vec<(i64, u32)> = sqlx::query_as("SELECT trial, epoch FROM measurements")
        .fetch_all(&house.store.readers)
        .await
        .unwrap();
    assert_eq!(measured, [(1, 1)]);
}
