//! Bad nodes: quarantined visibly, what they spoilt given back, and the way back.

use kapell_rpc::v1::control_worker_request::Action;
use kapell_rpc::v1::{self, Outcome, TrialState};

use crate::harness::{Hand, House, SPEC, row};

/// Eight trials, each with one attempt.
async fn house() -> House {
    let house = House::open().await;
    let spec = SPEC
        .replace("[8, 16]", "[1, 2, 3, 4, 5, 6, 7, 8]")
        .replace("[space]", "retry = { max_attempts = 1 }\n[space]");
    house.create_as("c", &spec).await.unwrap();
    house
}

async fn fail(hand: &Hand, request: &str, is_final: bool) -> v1::Work {
    let work = hand.one(request).await;
    let finish = v1::FinishRequest {
        reason: "CUDA error: uncorrectable ECC error".into(),
        r#final: is_final,
        ..Hand::finish_request(&work, Outcome::Failed)
    };
    hand.finish(finish).await.unwrap();
    work
}

async fn worker(house: &House, name: &str) -> v1::Worker {
    let workers = house.studies().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    workers.into_iter().find(|w| w.name == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_trials_that_fail_early_in_a_row_quarantine_their_worker_and_count_against_nobody() {
    let house = house().await;
    let bad = house.worker("bad", "1").await;
    let _good = house.worker("good", "1").await;
    for n in 1..=3 {
        assert_eq!(worker(&house, "bad").await.state, "ready");
        fail(&bad, &format!("r{n}"), false).await;
    }
    let seen = worker(&house, "bad").await;
    assert_eq!(seen.state, "quarantined");
    assert!(seen.reason.contains("ECC"), "{}", seen.reason);
    assert_eq!(bad.lease("r4", 1).await.unwrap(), [], "no more work");
    let info = house.studies().server_info(v1::ServerInfoRequest {}).await.unwrap().into_inner();
    assert!(info.warnings[0].contains("kapell workers uncordon bad"), "{:?}", info.warnings);
    for trial in 1..=3 {
        assert_eq!(house.state(trial).await, TrialState::Queued, "FAILED by the node, and queued again");
    }
    let request = v1::WatchStudyRequest { study: "demo".into(), after: 0, follow_forever: true };
    let mut events = house.studies().watch_study(request).await.unwrap().into_inner();
    while events.message().await.unwrap().unwrap().r#type != "worker.quarantined" {}

    // A new process of it changes nothing; a person does.
    let bad = house.worker("bad", "2").await;
    assert_eq!(bad.lease("r5", 1).await.unwrap(), []);
    let mut request = v1::ControlWorkerRequest { name: "bad".into(), ..Default::default() };
    request.set_action(Action::Uncordon);
    let back = house.studies().control_worker(request).await.unwrap().into_inner();
    assert_eq!((back.state.as_str(), back.reason.as_str()), ("ready", ""));
    fail(&bad, "r6", false).await;
    fail(&bad, "r7", false).await;
    assert_eq!(worker(&house, "bad").await.state, "ready", "what was is forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_gets_to_its_first_epoch_clears_the_worker() {
    let house = house().await;
    let hand = house.worker("w", "1").await;
    let running = hand.one("r0").await;
    fail(&hand, "r1", false).await;
    fail(&hand, "r2", false).await;
    hand.report(&running, &[row(1, 2.0)]).await.unwrap();
    fail(&hand, "r3", false).await;
    assert_eq!(worker(&house, "w").await.state, "ready");
    fail(&hand, "r4", false).await;
    hand.finish(Hand::finish_request(&running, Outcome::Released)).await.unwrap();
    fail(&hand, "r5", false).await;
    assert_eq!(worker(&house, "w").await.state, "ready", "it ended behind its first epoch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_come_again_anywhere_is_not_the_nodes_fault() {
    let house = house().await;
    let hand = house.worker("w", "1").await;
    for n in 1..=5 {
        fail(&hand, &format!("r{n}"), true).await;
    }
    assert_eq!(worker(&house, "w").await.state, "ready");
    assert_eq!(house.state(1).await, TrialState::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_every_worker_fails_alike_the_last_one_goes_on_and_the_trials_fail() {
    let house = house().await;
    let (one, two) = (house.worker("one", "1").await, house.worker("two", "1").await);
    for n in 1..=3 {
        fail(&one, &format!("a{n}"), false).await;
    }
    assert_eq!(worker(&house, "one").await.state, "quarantined");
    for n in 1..=8 {
        fail(&two, &format!("b{n}"), false).await;
    }
    assert_eq!(worker(&house, "two").await.state, "ready");
    let counts = house.study().await.trials.unwrap();
    assert_eq!((counts.failed, counts.queued), (8, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_there_while_its_attempt_runs_and_after_it_is_lost() {
    let house = house().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let append = async |start: u64, text: &str| {
        let (trial_id, attempt) = (work.trial_id, work.attempt);
        let request = v1::AppendLogRequest { trial_id, attempt, start, text: text.into() };
        hand.client.clone().append_log(request).await.map(|r| r.into_inner().end)
    };
    let read = async |after: u64| {
        let request = v1::TrialLogsRequest { study: "demo".into(), number: 1, attempt: 0, after };
        house.studies().trial_logs(request).await.unwrap().into_inner()
    };
    assert_eq!(append(0, "one\n").await.unwrap(), 4);
    assert_eq!(append(0, "one\ntwo\n").await.unwrap(), 8, "what is known is not added again");
    assert_eq!(append(4, "two\n").await.unwrap(), 8);
    let logs = read(0).await;
    assert_eq!((logs.log.as_str(), logs.end, logs.running), ("one\ntwo\n", 8, true));
    assert_eq!(read(4).await.log, "two\n");
    assert!(append(8, &"x".repeat(65 * 1024)).await.is_err());
    let piece = "y".repeat(60 * 1024);
    let mut end = 8;
    for _ in 0..10 {
        end = append(end, &piece).await.unwrap();
    }
    let logs = read(0).await;
    assert_eq!((logs.log.len(), logs.end), (256 * 1024, end));

    // The worker comes back as another process: the attempt is lost, its log is not, and nothing comes to it.
    house.worker("w", "2").await;
    assert_eq!(crate::harness::reason(&append(end, "late\n").await.unwrap_err()), "stale-attempt");
    let logs = read(end - 10).await;
    assert_eq!((logs.log.as_str(), logs.running), ("yyyyyyyyyy", false));
}
