//! Trials from lease to end: trained, canceled, drained, resumed, failed.

use super::*;

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
    let (_worker, ordered) = cancel_amid_a_step(&fake, script).await;
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
        [("layers", 1), ("hidden", 8), ("embedding", 4), ("seq_len", 8), ("batch_size", 4), ("epochs", 400)]
    {
        config.options.insert(name.into(), OptionValue::Int(value));
    }
    let train = v1::TrainWork { config: Some(config_to_wire(&config)), ..train_work(&fake) };
    fake.queue(work(1, train.clone()));
    fake.queue(work(2, train.clone()));
    let first = start_with(&fake, model_trainer(), |_| {});
    assert_eq!(fake.trained(1).await.outcome(), v1::Outcome::Complete);
    fake.until("an epoch", |s| s.reported.iter().any(|(id, _)| *id == 2).then_some(())).await;
    first.stop().await.unwrap();
    let released = fake.finish_of(2).await;
    assert_eq!(released.outcome(), v1::Outcome::Released);

    let _second = start_with(&fake, model_trainer(), |_| {});
    fake.queue(work(3, v1::TrainWork { resume: released.last, best: released.best, ..train }));
    assert_eq!(fake.trained(3).await.outcome(), v1::Outcome::Complete);

    let curve = |ids: &[i64]| {
        let state = fake.state.lock().unwrap();
        let of = |m: &v1::Measurement| (m.epoch, m.val_loss.to_bits(), m.weights_digest.clone());
        state.reported.iter().filter(|(id, _)| ids.contains(id)).map(|(_, m)| of(m)).collect::<Vec<_>>()
    };
    assert_eq!(curve(&[1]).len(), 400);
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
