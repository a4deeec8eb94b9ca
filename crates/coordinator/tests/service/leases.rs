//! Leases: idempotent, taken over, lost, kept over a restart.

use std::time::Duration;

use kapell_rpc::v1;
use kapell_rpc::v1::control_worker_request::Action;
use kapell_rpc::v1::{Outcome, TrialState};

use crate::harness::{Hand, House, SPEC, reason, row, train};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_for_work_gets_the_same_answer() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let first = hand.lease("r1", 1).await.unwrap();
    assert_eq!(hand.lease("r1", 1).await.unwrap(), first);
    let second = hand.lease("r2", 1).await.unwrap();
    assert_ne!(second[0].trial_id, first[0].trial_id);
    assert_eq!(house.study().await.trials.unwrap().running, 2);
    hand.finish(Hand::finish_request(&first[0], Outcome::Released)).await.unwrap();
    assert_eq!(hand.lease("r1", 1).await.unwrap(), [], "what is not held any more is not given again");
    let other = house.worker("other", "1").await;
    assert_eq!(reason(&other.lease("r1", 1).await.unwrap_err()), "request-id-reused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_of_a_worker_frees_what_the_old_one_held() {
    let house = House::open().await;
    house.create().await;
    let old = house.worker("w", "1").await;
    let work = old.one("r1").await;
    let new = house.worker("w", "2").await;
    assert_eq!(house.state(1).await, TrialState::Queued);
    assert_eq!(reason(&old.report(&work, &[row(1, 1.0)]).await.unwrap_err()), "stale-attempt");
    assert_eq!(reason(&old.lease("r2", 1).await.unwrap_err()), "stale-incarnation");
    let again = new.one("r3").await;
    assert_eq!((again.trial_id, again.attempt), (work.trial_id, 2));
    assert_eq!(house.trial(1).await.attempts[0].outcome(), Outcome::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_without_a_beat_runs_out_and_the_trial_goes_to_somebody_else() {
    let house = House::with(|c| c.lease = Duration::from_millis(200)).await;
    house.create_as("c", &SPEC.replace("[8, 16]", "[8]")).await.unwrap();
    let silent = house.worker("silent", "1").await;
    let work = silent.one("r1").await;
    let other = house.worker("other", "1").await;
    let taken = other.lease_for("r2", 1, 10_000).await.unwrap();
    assert_eq!((taken[0].trial_id, taken[0].attempt), (work.trial_id, 2), "woken when the lease ran out");
    let refused = silent.report(&work, &[row(1, 1.0)]).await.unwrap_err();
    assert_eq!(reason(&refused), "stale-attempt");
    let attempts = house.trial(1).await.attempts;
    assert_eq!(attempts[0].outcome(), Outcome::Lost);
    assert!(attempts[0].reason.contains("silent"), "{}", attempts[0].reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_that_gets_on_outlives_its_workers_and_one_that_does_not_is_given_up() {
    let house = House::open().await;
    house.create_as("c", &SPEC.replace("[space]", "retry = { max_lost = 3 }\n[space]")).await.unwrap();
    // The next life of the worker, which loses what the one before it held.
    let mut life = 0;
    let mut lives = async || {
        life += 1;
        let hand = house.worker("w", &format!("life {life}")).await;
        let work = hand.one(&format!("r{life}")).await;
        (hand, work)
    };
    let (_, first) = lives().await;
    let every = train(&first).checkpoint_every_ms;
    assert_eq!(train(&first).checkpoint_first_ms, every, "nothing is lost yet");
    for step in 0..8 {
        let (hand, work) = lives().await;
        assert_eq!((work.trial_id, work.attempt), (first.trial_id, step + 2));
        assert!(train(&work).checkpoint_first_ms < every / 20);
        let checkpoint = hand.checkpoint(0, &format!("after {step}")).await;
        hand.record(&work, None, Some(checkpoint)).await.unwrap();
    }
    // The last of these has got on; two more that do not are too many.
    for _ in 0..2 {
        lives().await;
    }
    house.worker("w", "the end").await;
    let trial = house.trial(1).await.trial.unwrap();
    assert_eq!((trial.state(), trial.attempts), (TrialState::Failed, 11));
    assert!(trial.reason.starts_with("lost 3 times without a new checkpoint, at last: "), "{}", trial.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_keep_a_lease_alive_and_bring_the_order_to_stop() {
    let house = House::with(|c| c.lease = Duration::from_secs(1)).await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let (beats, mut orders) = heart(&hand).await;
    let held = vec![v1::Held { trial_id: work.trial_id, attempt: work.attempt }];
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(2400) {
        beats.send(beat(&hand, held.clone())).await.unwrap();
        assert_eq!(orders.message().await.unwrap().unwrap().orders, [], "nothing to say");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(house.state(1).await, TrialState::Running);
    house.studies().cancel_study(v1::StudyRef { study: "demo".into() }).await.unwrap();
    let pushed = tokio::time::timeout(Duration::from_secs(2), orders.message()).await.unwrap();
    let order = pushed.unwrap().unwrap().orders.remove(0);
    assert_eq!((order.trial_id, order.attempt), (work.trial_id, work.attempt));
    assert!(matches!(order.what, Some(v1::order::What::Cancel(_))), "{order:?}");
    let done = hand.finish(Hand::finish_request(&work, Outcome::Canceled)).await.unwrap();
    assert_eq!(done, TrialState::Canceled);
    beats.send(beat(&hand, held)).await.unwrap();
    let order = orders.message().await.unwrap().unwrap().orders.remove(0);
    assert!(matches!(order.what, Some(v1::order::What::Forget(_))), "{order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything_and_lets_the_running_run() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    hand.report(&work, &[row(1, 2.0)]).await.unwrap();
    let brief = |c: &mut kapell_coordinator::Config| {
        c.lease = Duration::from_millis(100);
        c.outage_grace = Duration::from_secs(60);
    };
    let house = house.restart(brief).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let hand = Hand { client: house.workers(), blobs: house.blobs(), ..hand };
    assert_eq!(hand.report(&work, &[row(2, 1.5)]).await.unwrap(), 2, "within the grace");
    assert_eq!(house.trial(1).await.measurements.len(), 2);

    let house = house.restart(|c| c.outage_grace = Duration::ZERO).await;
    let hand = Hand { client: house.workers(), blobs: house.blobs(), ..hand };
    assert_eq!(hand.lease("r1", 1).await.unwrap(), [work], "the same request after a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_beats_after_a_restart_and_the_grace_is_over() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let brief = |c: &mut kapell_coordinator::Config| {
        c.lease = Duration::from_millis(100);
        c.outage_grace = Duration::from_millis(100);
    };
    let house = house.restart(brief).await;
    let other = house.worker("other", "1").await;
    let mut taken = Vec::new();
    for request in 2.. {
        taken.extend(other.lease_for(&format!("r{request}"), 1, 5_000).await.unwrap());
        if taken.iter().any(|w| w.trial_id == work.trial_id) {
            break;
        }
    }
    assert_eq!(house.trial(1).await.attempts[0].outcome(), Outcome::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_another_coordinator_writes_to_no_trial_of_this_one() {
    let (there, here) = (House::open().await, House::open().await);
    there.create().await;
    here.create().await;
    let work = there.worker("w", "1").await.one("r1").await;
    let own = here.worker("own", "1").await.one("r1").await;
    assert_eq!((own.attempt, &own.kind), (work.attempt, &work.kind), "as like as can be");
    // The other one is gone, and this one is found in its place.
    let lost = here.worker("w", "1").await;
    assert_eq!(reason(&lost.report(&work, &[row(1, 9.0)]).await.unwrap_err()), "stale-attempt");
    assert_eq!(
        reason(&lost.finish(Hand::finish_request(&work, Outcome::Failed)).await.unwrap_err()),
        "stale-attempt"
    );
    let (beats, mut orders) = heart(&lost).await;
    beats.send(beat(&lost, vec![v1::Held { trial_id: work.trial_id, attempt: work.attempt }])).await.unwrap();
    let order = orders.message().await.unwrap().unwrap().orders.remove(0);
    assert!(matches!(order.what, Some(v1::order::What::Forget(_))), "{order:?}");
    assert!(here.trial(1).await.measurements.is_empty());
    assert_eq!(here.state(1).await, TrialState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_another_protocol_or_an_unknown_one_is_told_what_to_do() {
    let house = House::open().await;
    let hand = house.worker("w", "1").await;
    let refused = hand.register(99).await.unwrap_err();
    assert_eq!(reason(&refused), "protocol-version");
    assert!(refused.message().contains("99"), "{}", refused.message());
    let stranger = Hand { name: "stranger".into(), ..hand };
    assert_eq!(reason(&stranger.lease("r", 1).await.unwrap_err()), "unknown-worker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_study_leases_nothing_and_its_running_trials_pause() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let study = || v1::StudyRef { study: "demo".into() };
    house.studies().pause_study(study()).await.unwrap();
    assert_eq!(hand.lease("r2", 1).await.unwrap(), []);
    let (beats, mut orders) = heart(&hand).await;
    let held = vec![v1::Held { trial_id: work.trial_id, attempt: work.attempt }];
    beats.send(beat(&hand, held)).await.unwrap();
    let order = orders.message().await.unwrap().unwrap().orders.remove(0);
    assert!(matches!(order.what, Some(v1::order::What::Pause(_))), "{order:?}");
    let paused = hand.finish(Hand::finish_request(&work, Outcome::Paused)).await.unwrap();
    assert_eq!(paused, TrialState::Paused);
    house.studies().resume_study(study()).await.unwrap();
    assert_eq!(house.state(1).await, TrialState::Queued);
    assert_eq!(hand.one("r3").await.attempt, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_space_stops_leasing_and_nothing_else() {
    let house = House::with(|c| c.min_free_bytes = u64::MAX).await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    assert_eq!(hand.lease("r1", 1).await.unwrap(), []);
    assert_eq!(house.state(1).await, TrialState::Queued);
    let info = house.studies().server_info(v1::ServerInfoRequest {}).await.unwrap().into_inner();
    assert!(info.warnings[0].starts_with("leasing has stopped"), "{:?}", info.warnings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cordoned_worker_gets_nothing_and_a_drained_one_is_told_to_leave() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let control = |action: Action| {
        let request = v1::ControlWorkerRequest { name: "w".into(), action: action.into() };
        let mut studies = house.studies();
        async move { studies.control_worker(request).await.unwrap().into_inner().state }
    };
    assert_eq!(control(Action::Cordon).await, "cordoned");
    assert_eq!(hand.lease("r1", 1).await.unwrap(), []);
    assert_eq!(control(Action::Uncordon).await, "ready");
    let work = hand.one("r2").await;
    let workers = house.studies().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert_eq!((workers[0].busy, workers[0].trials.clone()), (1, vec!["demo/1".to_owned()]));
    let (beats, mut orders) = heart(&hand).await;
    let held = vec![v1::Held { trial_id: work.trial_id, attempt: work.attempt }];
    beats.send(beat(&hand, held.clone())).await.unwrap();
    assert_eq!(orders.message().await.unwrap().unwrap().orders, []);
    assert_eq!(control(Action::Drain).await, "draining");
    let drain = |orders: v1::Orders| matches!(orders.orders[0].what, Some(v1::order::What::Drain(_)));
    assert!(drain(orders.message().await.unwrap().unwrap()), "pushed");
    beats.send(beat(&hand, held)).await.unwrap();
    assert!(drain(orders.message().await.unwrap().unwrap()), "and repeated");
    assert_eq!(hand.lease("r3", 1).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_that_failed_on_a_worker_goes_to_another_one_first() {
    let house = House::open().await;
    house.create_as("c", &SPEC.replace("[8, 16]", "[8]")).await.unwrap();
    let (one, other) = (house.worker("one", "1").await, house.worker("other", "1").await);
    let work = one.one("r1").await;
    one.finish(Hand::finish_request(&work, Outcome::Failed)).await.unwrap();
    assert_eq!(one.lease("r2", 1).await.unwrap(), [], "left to the other one");
    assert_eq!(other.one("r3").await.attempt, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_of_one_shape_are_leased_together_to_a_worker_that_fuses_them() {
    let house = House::open().await;
    let spec = SPEC.replace("hidden = [8, 16]", "hidden = [8, 16]\ndropout = [0.0, 0.2, 0.4]");
    house.create_as("c", &spec).await.unwrap();
    let hand = house.worker("w", "1").await;
    let request = v1::LeaseRequest {
        worker: "w".into(),
        incarnation: "1".into(),
        request_id: "r1".into(),
        max_works: 1,
        max_mates: 8,
        wait_ms: 0,
    };
    let works = hand.client.clone().lease(request).await.unwrap().into_inner().works;
    assert_eq!(works.len(), 3);
    let shape = |w: &v1::Work| train(w).shape_key.clone();
    assert!(works.iter().all(|w| shape(w) == shape(&works[0])));
}

type Beats = tokio::sync::mpsc::Sender<v1::Beat>;

async fn heart(hand: &Hand) -> (Beats, tonic::Streaming<v1::Orders>) {
    let (beats, stream) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let orders = hand.client.clone().heartbeat(stream).await.unwrap().into_inner();
    (beats, orders)
}

fn beat(hand: &Hand, held: Vec<v1::Held>) -> v1::Beat {
    v1::Beat { worker: hand.name.clone(), incarnation: hand.incarnation.clone(), held, draining: false }
}
