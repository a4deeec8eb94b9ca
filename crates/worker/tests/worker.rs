//! A worker against a coordinator in memory: what it reports, keeps, gives back, and outlives.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kapell_music::corpus::{Corpus, Kind, PartOfSplit, Piece, Protocol};
use kapell_rpc::convert::config_to_wire;
use kapell_rpc::manifest::Manifest;
use kapell_rpc::v1::order::What;
use kapell_rpc::{digest, reason, v1};
use kapell_search::{Config, OptionValue};
use kapell_worker::training::{Start, model_trainer};
use kapell_worker::{Exit, WorkerConfig, WorkerError, run_with};
use support::trainer::{Script, Then};
use support::{Fake, LONG};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A text of two pieces of training and one of validation.
fn corpus() -> Corpus {
    let piece = |id: &str, part, length: u16| Piece {
        id: id.to_owned(),
        part,
        tokens: std::iter::once(0).chain((0..length).map(|i| 2 + i * i % 3)).chain([1]).collect(),
    };
    Corpus {
        name: "tiny".into(),
        kind: Kind::Text,
        protocol: Protocol::Pieces,
        vocabulary: ["START", "END", "a", "b", "c"].map(str::to_owned).to_vec(),
        pieces: vec![
            piece("one", PartOfSplit::Train, 300),
            piece("two", PartOfSplit::Train, 200),
            piece("val", PartOfSplit::Val, 50),
        ],
    }
}

fn train_work(fake: &Fake) -> v1::TrainWork {
    let bytes = corpus().to_bytes();
    let corpus_digest = digest::of_bytes(&bytes);
    fake.blobs.0.lock().unwrap().whole.insert(corpus_digest.clone(), bytes);
    v1::TrainWork {
        study: "study".into(),
        number: 1,
        config: Some(config_to_wire(&Config::defaults())),
        corpus_digest,
        checkpoint_every_ms: 3_600_000,
        keep_best: true,
        keep_last: true,
        ..Default::default()
    }
}

fn work(trial_id: i64, train: v1::TrainWork) -> v1::Work {
    v1::Work { trial_id, attempt: 1, kind: Some(v1::work::Kind::Train(train)) }
}

struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Exit, WorkerError>>,
    cache: tempfile::TempDir,
}

impl Running {
    async fn ended(self) -> Result<Exit, WorkerError> {
        tokio::time::timeout(LONG, self.task).await.expect("the worker ends in time").unwrap()
    }

    async fn stop(self) -> Result<Exit, WorkerError> {
        self.stop.send_replace(true);
        self.ended().await
    }
}

fn start_with(fake: &Fake, start: Start, change: impl FnOnce(&mut WorkerConfig)) -> Running {
    let cache = tempfile::tempdir().unwrap();
    let mut config = WorkerConfig {
        coordinator: fake.url(),
        token: None,
        name: "w".into(),
        cores: 2,
        slots: Some(1),
        cache_dir: cache.path().to_owned(),
        study: None,
        exit_when_idle: None,
        max_runtime: None,
        drain_timeout: Duration::from_secs(5),
        die_with_parent: false,
    };
    change(&mut config);
    let (stop, stopped) = watch::channel(false);
    Running { stop, task: tokio::spawn(run_with(config, stopped, start)), cache }
}

fn start(fake: &Fake, script: Script) -> Running {
    start_with(fake, script.start(), |_| {})
}

/// Waits until a trainer's counter is there.
async fn reaches(counter: &AtomicU64, count: u64) {
    let in_time = Instant::now() + LONG;
    while counter.load(Ordering::Relaxed) < count {
        assert!(Instant::now() < in_time, "training stands still");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The model file of a checkpoint that the coordinator has.
fn model_of(fake: &Fake, checkpoint: Option<v1::Checkpoint>) -> String {
    let blobs = fake.blobs.0.lock().unwrap();
    let manifest = Manifest::parse(&blobs.whole[&checkpoint.unwrap().digest]).unwrap();
    let model = manifest.files.iter().find(|f| f.name == "model.safetensors").unwrap();
    String::from_utf8(blobs.whole[&model.digest].clone()).unwrap().trim_end_matches([' ', '.']).to_owned()
}

#[tokio::test]
async fn a_trial_is_trained_to_its_end_and_reported_whole() {
    let fake = Fake::start();
    let worker = start(&fake, Script::default());
    fake.queue(work(7, train_work(&fake)));

    let finish = fake.finish_of(7).await;

    assert_eq!((finish.outcome(), finish.reason.as_str()), (v1::Outcome::Complete, ""));
    assert_eq!(fake.epochs_of(7), [1, 2, 3, 4, 5]);
    let (best, last) = (finish.best.clone().unwrap(), finish.last.clone().unwrap());
    assert_eq!((best.epoch, best.val_loss, last.epoch, last.val_loss), (3, 0.1, 5, 0.4));
    assert_eq!(model_of(&fake, finish.best), "weights after 12");
    assert_eq!(model_of(&fake, finish.last), "weights after 20");
    assert!(finish.log_tail.contains("epoch 5: train_loss 0.2000, val_loss 0.4000"));
    assert!(finish.seconds > 0.0);
    let registration = fake.with(|s| s.registrations[0].clone());
    assert_eq!((registration.name.as_str(), registration.slots), ("w", 1));
    assert_eq!(registration.numerics.unwrap().dtype, "f32");
    assert_eq!(registration.devices[0].kind, "cpu");
    fake.until("a beat without it", |s| s.beats.last()?.held.is_empty().then_some(())).await;
    let private = worker.cache.path().join("attempts").join(registration.incarnation);
    assert_eq!(std::fs::read_dir(private).unwrap().count(), 0, "nothing of it stays in the cache");
    assert_eq!(worker.stop().await.unwrap(), Exit::Shutdown);
}

#[tokio::test]
async fn a_canceled_trial_stops_within_two_seconds() {
    let fake = Fake::start();
    let script = Script::endless();
    let made = script.made.clone();
    let _worker = start(&fake, script);
    fake.queue(work(7, train_work(&fake)));
    fake.held(7).await;
    fake.until("an epoch", |s| (!s.reported.is_empty()).then_some(())).await;

    let ordered = Instant::now();
    fake.order(7, What::Cancel(v1::Stop { reason: "the study was canceled".into() }));
    let finish = fake.finish_of(7).await;

    assert!(ordered.elapsed() < Duration::from_secs(2), "{:?}", ordered.elapsed());
    assert_eq!(finish.outcome(), v1::Outcome::Canceled);
    assert_eq!(finish.reason, "the study was canceled");
    assert_eq!(finish.last, None);
    let after = made.load(Ordering::Relaxed);
    fake.until("a beat without it", |s| s.beats.last()?.held.is_empty().then_some(())).await;
    assert_eq!(made.load(Ordering::Relaxed), after, "nothing trains any more");
}

#[tokio::test]
async fn a_cancellation_is_answered_in_time_even_amid_a_long_step() {
    let fake = Fake::start();
    let script = Script { update_time: Duration::from_secs(4), ..Script::endless() };
    let begun = script.begun.clone();
    let _worker = start(&fake, script);
    fake.queue(work(7, train_work(&fake)));
    fake.held(7).await;
    reaches(&begun, 1).await;
    let ordered = Instant::now();
    fake.order(7, What::Cancel(v1::Stop::default()));
    let finish = fake.finish_of(7).await;
    assert!(ordered.elapsed() < Duration::from_secs(2), "{:?}", ordered.elapsed());
    assert_eq!(finish.outcome(), v1::Outcome::Canceled);
}

#[tokio::test]
async fn no_epoch_is_lost_or_doubled_while_the_coordinator_is_away() {
    let fake = Fake::start();
    let script = Script { epochs: 60, updates_per_epoch: 10, ..Script::default() };
    let made = script.made.clone();
    let _worker = start(&fake, script);
    fake.queue(work(7, train_work(&fake)));
    fake.until("three epochs", |s| (s.reported.len() >= 3).then_some(())).await;

    fake.kill();
    reaches(&made, made.load(Ordering::Relaxed) + 200).await;
    fake.restart();

    let finish = fake.finish_of(7).await;
    assert_eq!(finish.outcome(), v1::Outcome::Complete);
    assert_eq!(fake.epochs_of(7), (1..=60).collect::<Vec<u32>>());
    assert_eq!(finish.last.unwrap().epoch, 60);
    let ids = fake.until("a second registration", |s| {
        (s.registrations.len() > 1)
            .then(|| s.registrations.iter().map(|r| r.incarnation.clone()).collect::<Vec<_>>())
    });
    let ids = ids.await;
    assert!(ids.iter().all(|id| *id == ids[0]), "it is still the same process");
}

#[tokio::test]
async fn a_drained_trial_goes_on_elsewhere_where_it_stood() {
    let fake = Fake::start();
    let first = start(
        &fake,
        Script { updates_per_epoch: 10, update_time: Duration::from_millis(5), ..Script::endless() },
    );
    fake.queue(work(7, train_work(&fake)));
    fake.until("an epoch", |s| (!s.reported.is_empty()).then_some(())).await;

    let told = Instant::now();
    assert_eq!(first.stop().await.unwrap(), Exit::Shutdown);
    assert!(told.elapsed() < Duration::from_secs(5));
    let finish = fake.finish_of(7).await;
    assert_eq!(finish.outcome(), v1::Outcome::Released);
    let last = finish.last.clone().unwrap();
    let epochs = fake.epochs_of(7);
    assert_eq!(epochs.last(), Some(&last.epoch), "all epochs are in before the end is");
    let updates: u64 = model_of(&fake, finish.last)["weights after ".len()..].parse().unwrap();
    assert!(updates >= u64::from(last.epoch) * 10);

    let script = Script { epochs: last.epoch + 2, updates_per_epoch: 10, ..Script::default() };
    let made = script.made.clone();
    let _second = start(&fake, script);
    fake.queue(work(8, v1::TrainWork { resume: Some(last.clone()), best: finish.best, ..train_work(&fake) }));
    let finish = fake.finish_of(8).await;
    assert_eq!(finish.outcome(), v1::Outcome::Complete);
    assert_eq!(fake.epochs_of(8), [last.epoch + 1, last.epoch + 2]);
    assert_eq!(made.load(Ordering::Relaxed), u64::from(last.epoch + 2) * 10 - updates);
}

#[tokio::test]
async fn the_lstm_interrupted_and_resumed_ends_with_the_same_bytes() {
    let fake = Fake::start();
    let mut config = Config::defaults();
    for (name, value) in
        [("layers", 1), ("hidden", 8), ("embedding", 4), ("seq_len", 8), ("batch_size", 4), ("epochs", 60)]
    {
        config.options.insert(name.into(), OptionValue::Int(value));
    }
    let train = v1::TrainWork { config: Some(config_to_wire(&config)), ..train_work(&fake) };
    fake.queue(work(1, train.clone()));
    fake.queue(work(2, train.clone()));
    let first = start_with(&fake, model_trainer(), |_| {});
    assert_eq!(fake.finish_of(1).await.outcome(), v1::Outcome::Complete);
    fake.until("an epoch", |s| s.reported.iter().any(|(id, _)| *id == 2).then_some(())).await;
    first.stop().await.unwrap();
    let released = fake.finish_of(2).await;
    assert_eq!(released.outcome(), v1::Outcome::Released);

    let _second = start_with(&fake, model_trainer(), |_| {});
    fake.queue(work(3, v1::TrainWork { resume: released.last, best: released.best, ..train }));
    assert_eq!(fake.finish_of(3).await.outcome(), v1::Outcome::Complete);

    let curve = |ids: &[i64]| {
        let state = fake.state.lock().unwrap();
        let of = |m: &v1::Measurement| (m.epoch, m.val_loss.to_bits(), m.weights_digest.clone());
        state.reported.iter().filter(|(id, _)| ids.contains(id)).map(|(_, m)| of(m)).collect::<Vec<_>>()
    };
    assert_eq!(curve(&[1]).len(), 60);
    assert_eq!(curve(&[1]), curve(&[2, 3]));
}

#[tokio::test]
async fn a_loss_that_became_nan_ends_the_trial_finally() {
    let fake = Fake::start();
    let _worker = start(&fake, Script { epochs: 2, then: Then::Nan, ..Script::default() });
    fake.queue(work(7, train_work(&fake)));
    let finish = fake.finish_of(7).await;
    assert_eq!((finish.outcome(), finish.r#final), (v1::Outcome::Failed, true));
    assert_eq!(finish.reason, "loss became NaN at epoch 3, update 41");
    assert_eq!(fake.epochs_of(7), [1, 2], "no NaN is reported");
    assert_eq!(finish.best.unwrap().epoch, 2, "the best so far is kept");
}

#[tokio::test]
async fn a_panic_or_a_bad_trial_fails_alone_and_the_worker_lives_on() {
    let fake = Fake::start();
    let _worker = start(&fake, Script { epochs: 1, then: Then::Panic, ..Script::default() });
    fake.queue(work(1, train_work(&fake)));
    fake.queue(work(2, v1::TrainWork { corpus_digest: digest::of_bytes(b"none"), ..train_work(&fake) }));
    let mut hidden = Config::defaults();
    hidden.options.insert("hidden".into(), OptionValue::Int(0));
    fake.queue(work(3, v1::TrainWork { config: Some(config_to_wire(&hidden)), ..train_work(&fake) }));
    let evaluate = v1::work::Kind::Evaluate(v1::EvaluateWork::default());
    fake.queue(v1::Work { trial_id: 4, attempt: 1, kind: Some(evaluate) });

    for (trial, is_final, reason) in [
        (1, false, "the trainer panicked: the script says so"),
        (2, false, "no corpus"),
        (3, true, "takes whole numbers from 1"),
        (4, true, "this version of the worker trains"),
    ] {
        let finish = fake.finish_of(trial).await;
        assert_eq!((finish.outcome(), finish.r#final), (v1::Outcome::Failed, is_final), "{reason}");
        assert!(finish.reason.contains(reason), "{}", finish.reason);
    }
}

#[tokio::test]
async fn a_forgotten_trial_stops_and_nothing_more_is_said_of_it() {
    let fake = Fake::start();
    let _worker = start(&fake, Script { epochs: 200, ..Script::default() });
    fake.queue(work(7, train_work(&fake)));
    fake.held(7).await;
    fake.order(7, What::Forget(v1::Stop::default()));
    fake.until("a beat without it", |s| s.beats.last()?.held.is_empty().then_some(())).await;
    let reported = fake.epochs_of(7).len();
    fake.queue(work(8, train_work(&fake)));
    assert_eq!(fake.finish_of(8).await.outcome(), v1::Outcome::Complete);
    assert_eq!(fake.epochs_of(7).len(), reported);
    assert!(fake.with(|s| s.finished.iter().all(|(_, f)| f.trial_id == 8)));
}

#[tokio::test]
async fn an_attempt_whose_reports_are_stale_stops_and_one_whose_are_wrong_fails() {
    let fake = Fake::start();
    let _worker = start(&fake, Script::endless());
    fake.with(|s| s.refuse_report = Some(reason::STALE_ATTEMPT));
    fake.queue(work(7, train_work(&fake)));
    fake.held(7).await;
    fake.until("a beat without it", |s| s.beats.last()?.held.is_empty().then_some(())).await;
    assert!(fake.with(|s| s.finished.is_empty()));

    fake.with(|s| s.refuse_report = Some(reason::EPOCH_DIFFERS));
    fake.queue(work(8, train_work(&fake)));
    let finish = fake.finish_of(8).await;
    assert_eq!((finish.outcome(), finish.r#final), (v1::Outcome::Failed, false));
    assert_eq!(finish.reason, "epoch-differs");
}

#[tokio::test]
async fn a_paused_or_pruned_trial_leaves_a_checkpoint() {
    let fake = Fake::start();
    let _worker = start(&fake, Script::endless());
    let why = || v1::Stop { reason: "why".into() };
    let orders = [(1, What::Pause(why()), v1::Outcome::Paused), (2, What::Prune(why()), v1::Outcome::Pruned)];
    for (trial, order, outcome) in orders {
        fake.queue(work(trial, train_work(&fake)));
        fake.held(trial).await;
        fake.until("an epoch", |s| s.reported.iter().any(|(id, _)| *id == trial).then_some(())).await;
        fake.order(trial, order);
        let finish = fake.finish_of(trial).await;
        assert_eq!((finish.outcome(), finish.reason.as_str()), (outcome, "why"));
        assert!(model_of(&fake, finish.last).starts_with("weights after"));
    }
}

#[tokio::test]
async fn checkpoints_on_the_interval_are_recorded_behind_their_epochs() {
    let fake = Fake::start();
    let _worker = start(&fake, Script { epochs: 40, ..Script::default() });
    fake.with(|s| s.report_takes = Duration::from_millis(30));
    fake.queue(work(7, v1::TrainWork { checkpoint_every_ms: 5, ..train_work(&fake) }));
    fake.finish_of(7).await;
    fake.with(|state| {
        assert!(state.recorded.len() > 1, "several went up while it trained");
        for (request, behind) in state.recorded.iter().zip(&state.recorded_behind) {
            let epochs = [&request.best, &request.last].map(|c| c.as_ref().map_or(0, |c| c.epoch));
            assert!(epochs.iter().all(|epoch| epoch <= behind), "{epochs:?} before {behind} is known");
        }
        let ascending = state.recorded.is_sorted_by_key(|r| r.last.as_ref().map(|c| c.epoch));
        assert!(ascending);
    });
}

#[tokio::test]
async fn behind_a_loss_checkpoints_come_long_before_the_interval() {
    let fake = Fake::start();
    let _worker = start(&fake, Script::endless());
    fake.queue(work(7, v1::TrainWork { checkpoint_first_ms: 5, ..train_work(&fake) }));
    fake.until("three checkpoints", |s| (s.recorded.len() >= 3).then_some(())).await;
    let lasts: Vec<u32> =
        fake.with(|s| s.recorded.iter().filter_map(|r| Some(r.last.as_ref()?.epoch)).collect());
    assert!(lasts.is_sorted(), "{lasts:?}");
}

#[tokio::test]
async fn a_cut_upload_goes_on_and_the_checkpoint_arrives_whole() {
    let fake = Fake::start();
    fake.blobs.0.lock().unwrap().cut_uploads = 2;
    let _worker = start(&fake, Script { model_bytes: 1_300_000, ..Script::default() });
    fake.queue(work(7, train_work(&fake)));
    let finish = fake.finish_of(7).await;
    assert_eq!(finish.outcome(), v1::Outcome::Complete);
    assert_eq!(model_of(&fake, finish.last), "weights after 20");
    assert!(fake.blobs.0.lock().unwrap().offsets.iter().any(|offset| *offset > 0), "one was resumed");
}

#[tokio::test]
async fn a_resumed_trial_keeps_the_best_of_the_attempts_before_unless_it_beats_it() {
    let fake = Fake::start();
    let _worker = start(&fake, Script::default());
    let best =
        |val_loss| Some(v1::Checkpoint { digest: digest::of_bytes(b"x"), epoch: 1, val_loss, bytes: 1 });
    fake.queue(work(1, v1::TrainWork { best: best(0.05), ..train_work(&fake) }));
    fake.queue(work(2, v1::TrainWork { best: best(0.15), ..train_work(&fake) }));
    fake.queue(work(3, v1::TrainWork { maximize: true, keep_last: false, ..train_work(&fake) }));
    assert_eq!(fake.finish_of(1).await.best, None);
    assert_eq!(fake.finish_of(2).await.best.unwrap().epoch, 3);
    let finish = fake.finish_of(3).await;
    assert_eq!((finish.best.unwrap().epoch, finish.last), (1, None));
}

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
async fn a_full_disk_gives_the_trial_back_uncounted_and_the_worker_asks_for_work_more_slowly() {
    let fake = Fake::start();
    let script = Script::default();
    let disk_full = script.disk_full.clone();
    disk_full.store(true, Ordering::Relaxed);
    let _worker = start(&fake, script);
    fake.queue(work(1, train_work(&fake)));
    fake.queue(work(2, train_work(&fake)));
    for trial in [1, 2] {
        let finish = fake.finish_of(trial).await;
        assert_eq!((finish.outcome(), finish.r#final), (v1::Outcome::Released, false));
        assert!(finish.reason.contains("no storage space"), "{}", finish.reason);
    }
    let gap = fake.with(|s| s.finished[1].0 - s.finished[0].0);
    assert!(gap >= Duration::from_millis(450), "it went on after {gap:?}");
    disk_full.store(false, Ordering::Relaxed);
    fake.queue(work(3, train_work(&fake)));
    assert_eq!(fake.finish_of(3).await.outcome(), v1::Outcome::Complete);
}

#[tokio::test]
async fn a_cache_folder_that_cannot_be_used_gives_the_trial_back() {
    let fake = Fake::start();
    let worker = start(&fake, Script::default());
    let incarnation =
        fake.until("a registration", |s| Some(s.registrations.first()?.incarnation.clone())).await;
    let private = worker.cache.path().join("attempts").join(incarnation);
    std::fs::remove_dir(&private).unwrap();
    std::fs::write(&private, "a file").unwrap();
    fake.queue(work(1, train_work(&fake)));
    let finish = fake.finish_of(1).await;
    assert_eq!(finish.outcome(), v1::Outcome::Released);
    assert!(finish.reason.starts_with("the cache folder"), "{}", finish.reason);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_uploaded_ends_the_attempt_at_once() {
    let fake = Fake::start();
    fake.blobs.0.lock().unwrap().refuse_uploads = true;
    let _worker = start(&fake, Script::endless());
    fake.queue(work(7, v1::TrainWork { checkpoint_every_ms: 5, ..train_work(&fake) }));
    let finish = fake.finish_of(7).await;
    assert_eq!(finish.outcome(), v1::Outcome::Released);
    assert!(finish.reason.starts_with("the checkpoint could not be uploaded"), "{}", finish.reason);
    assert_eq!((finish.best, finish.last), (None, None));
}

#[tokio::test]
async fn a_canceled_trial_frees_its_slot_amid_a_long_step() {
    let fake = Fake::start();
    let script = Script { update_time: Duration::from_secs(60), abandons: true, ..Script::endless() };
    let begun = script.begun.clone();
    let _worker = start(&fake, script);
    fake.queue(work(7, train_work(&fake)));
    fake.held(7).await;
    reaches(&begun, 1).await;
    let ordered = Instant::now();
    fake.order(7, What::Cancel(v1::Stop::default()));
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
