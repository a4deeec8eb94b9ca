//! A worker's slots and cores, and its leaving.

use super::*;

#[tokio::test]
async fn as_many_trials_run_at_once_as_there_are_slots() {
    let fake = Fake::start();
    let _worker = start_with(&fake, Script::endless().start(), |config| config.slots = Some(2));
    for trial in 1..=3 {
        fake.queue(work(trial, train_work(&fake)));
    }
    fake.until("two held", |s| (s.beats.last()?.held.len() == 2).then_some(())).await;
    fake.order(1, What::Cancel(v1::Stop::default()));
    let holds = |beat: &v1::Beat| beat.held.iter().map(|h| h.trial_id).eq([2, 3]);
    fake.until("the third in its place", |s| holds(s.beats.last()?).then_some(())).await;
    assert!(fake.with(|s| s.beats.iter().all(|beat| beat.held.len() <= 2)));
}

#[tokio::test]
async fn trials_of_one_process_share_the_corpus_in_memory_and_its_cores() {
    let fake = Fake::start();
    type Seen = Vec<(Arc<Corpus>, usize)>;
    let jobs: Arc<Mutex<Seen>> = Arc::default();
    let (seen, script) = (jobs.clone(), Script::endless().start());
    let start: Start = Arc::new(move |job| {
        seen.lock().unwrap().push((job.corpus.clone(), job.threads));
        script(job)
    });
    let _worker = start_with(&fake, start, |config| (config.cores, config.slots) = (7, Some(2)));
    for trial in 1..=2 {
        fake.queue(work(trial, train_work(&fake)));
    }
    fake.until("two held", |s| (s.beats.last()?.held.len() == 2).then_some(())).await;
    let in_time = Instant::now() + LONG;
    while jobs.lock().unwrap().len() < 2 {
        assert!(Instant::now() < in_time, "the second trial does not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let jobs = jobs.lock().unwrap();
    assert!(Arc::ptr_eq(&jobs[0].0, &jobs[1].0));
    assert_eq!((jobs[0].1, jobs[1].1), (3, 3));
}

#[tokio::test]
async fn more_slots_than_cores_are_not_registered() {
    let fake = Fake::start();
    let _worker = start_with(&fake, Script::endless().start(), |config| config.slots = Some(5));
    fake.until("a registration", |s| s.registrations.last().map(|r| assert_eq!(r.slots, 2))).await;
}

#[tokio::test]
async fn a_worker_that_measures_its_cores_is_registered_before_and_works_afterwards() {
    let fake = Fake::start();
    fake.queue(work(1, train_work(&fake)));
    let worker = start_with(&fake, Script::default().start(), |config| config.slots = None);
    assert_eq!(fake.finish_of(1).await.outcome(), v1::Outcome::Complete);
    let slots = fake.with(|s| (s.registrations[0].slots, s.registrations.last().unwrap().slots));
    assert!(slots == (2, 2) || slots == (2, 1), "{slots:?}");
    assert_eq!(worker.stop().await.unwrap(), Exit::Shutdown);
}

#[tokio::test]
async fn a_worker_leaves_when_idle_when_its_time_is_over_and_when_drained() {
    let fake = Fake::start();
    let short = Some(Duration::from_millis(300));
    let idle = start_with(&fake, Script::default().start(), |config| config.exit_when_idle = short);
    assert_eq!(idle.ended().await.unwrap(), Exit::Idle);

    fake.queue(work(1, train_work(&fake)));
    let timed = start_with(&fake, Script::endless().start(), |config| config.max_runtime = short);
    assert_eq!(timed.ended().await.unwrap(), Exit::MaxRuntime);
    assert_eq!(fake.finish_of(1).await.outcome(), v1::Outcome::Released);

    fake.queue(work(2, train_work(&fake)));
    let drained = start(&fake, Script::endless());
    fake.held(2).await;
    fake.order(0, What::Drain(v1::Stop::default()));
    assert_eq!(drained.ended().await.unwrap(), Exit::Drained);
    assert_eq!(fake.finish_of(2).await.outcome(), v1::Outcome::Released);
    assert!(fake.with(|s| s.beats.iter().any(|beat| beat.draining)));
}

#[tokio::test]
async fn a_drain_is_over_in_time_even_if_the_coordinator_is_away() {
    let fake = Fake::start();
    let timeout = Duration::from_millis(500);
    let worker = start_with(&fake, Script::endless().start(), |config| config.drain_timeout = timeout);
    fake.queue(work(7, train_work(&fake)));
    fake.held(7).await;
    fake.kill();
    let told = Instant::now();
    assert_eq!(worker.stop().await.unwrap(), Exit::Shutdown);
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    fake.restart();
}

#[tokio::test]
async fn a_refused_worker_ends_with_the_contracts_exit_code() {
    let fake = Fake::start();
    fake.with(|s| s.refuse_register = Some(reason::PROTOCOL_VERSION));
    let error = start(&fake, Script::default()).ended().await.unwrap_err();
    assert_eq!(error.exit_code(), 2);

    fake.with(|s| (s.refuse_register, s.refuse_lease) = (None, Some(reason::STALE_INCARNATION)));
    let error = start(&fake, Script::default()).ended().await.unwrap_err();
    assert!(matches!(error, WorkerError::Replaced(_)));
    assert!(error.to_string().contains("--name"));
}

#[tokio::test]
async fn a_canceled_trial_frees_its_slot_amid_a_long_step() {
    let fake = Fake::start();
    let script = Script { update_time: Duration::from_secs(60), abandons: true, ..Script::endless() };
    let (_worker, ordered) = cancel_amid_a_step(&fake, script).await;
    assert_eq!(fake.finish_of(7).await.outcome(), v1::Outcome::Canceled);
    fake.until("a beat without it", |s| s.beats.last()?.held.is_empty().then_some(())).await;
    assert!(ordered.elapsed() < Duration::from_secs(1), "{:?}", ordered.elapsed());
}

#[tokio::test]
async fn what_a_drain_cannot_save_in_time_is_released_all_the_same() {
    let fake = Fake::start();
    let script = Script { update_time: Duration::from_secs(4), abandons: true, ..Script::endless() };
    let begun = script.begun.clone();
    let timeout = Duration::from_millis(300);
    let worker = start_with(&fake, script.start(), |config| config.drain_timeout = timeout);
    fake.queue(work(7, train_work(&fake)));
    reaches(&begun, 1).await;
    let told = Instant::now();
    assert_eq!(worker.stop().await.unwrap(), Exit::Shutdown);
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    let finish = fake.finish_of(7).await;
    assert_eq!((finish.outcome(), finish.last), (v1::Outcome::Released, None));
    assert_eq!(finish.reason, "the worker left before there was a checkpoint");
}

#[tokio::test]
async fn work_that_was_granted_as_the_worker_left_is_given_back() {
    let fake = Fake::start();
    fake.with(|s| s.lose_lease = true);
    let worker = start(&fake, Script::default());
    fake.queue(work(7, train_work(&fake)));
    fake.until("a lease on its way", |s| s.lost_lease.is_some().then_some(())).await;
    assert_eq!(worker.stop().await.unwrap(), Exit::Shutdown);
    let finish = fake.finish_of(7).await;
    assert_eq!(finish.outcome(), v1::Outcome::Released);
}
