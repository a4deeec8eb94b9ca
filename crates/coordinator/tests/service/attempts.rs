//! An attempt from its lease to its end: measurements, checkpoints, the fence.

use kapell_rpc::v1::{Outcome, StudyState, TrialState};
use kapell_rpc::{digest, v1};

use crate::harness::{Hand, House, SPEC, reason, row, train};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_trials_are_leased_measured_and_complete_their_study() {
    let house = House::open().await;
    let study = house.create().await;
    assert_eq!(study.trials.as_ref().unwrap().queued, 2);
    let hand = house.worker("w", "1").await;
    let works = hand.lease("r1", 2).await.unwrap();
    assert_eq!(works.len(), 2);
    let first = train(&works[0]);
    assert_eq!((first.number, first.resume.as_ref()), (1, None));
    let hidden = first.config.as_ref().unwrap().options["hidden"].value.clone();
    assert_eq!(hidden, Some(v1::option_value::Value::Int(8)));
    assert_eq!(hand.complete(&works[0], 1.0).await, TrialState::Complete);
    assert_eq!(house.study().await.state(), StudyState::Active);
    assert_eq!(hand.complete(&works[1], 0.75).await, TrialState::Complete);

    let study = house.study().await;
    assert_eq!(study.state(), StudyState::Complete);
    let best = study.best.unwrap();
    assert_eq!((best.number, best.objective, best.best_epoch), (2, Some(0.75), Some(2)));
    assert_eq!((best.best.unwrap().epoch, best.last.unwrap().epoch), (2, 3));
    let coverage = study.coverage.unwrap();
    assert_eq!((coverage.configurations, coverage.complete, coverage.missing), (2, 2, 0));
    assert_eq!((coverage.duplicates, coverage.lost), (0, 0));
    let detail = house.trial(1).await;
    assert_eq!(detail.measurements.len(), 3);
    assert_eq!(detail.attempts[0].outcome(), Outcome::Complete);
    let logs = v1::TrialLogsRequest { study: "demo".into(), number: 1, ..Default::default() };
    assert_eq!(house.studies().trial_logs(logs).await.unwrap().into_inner().log, "the log");
    house.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_again_is_acknowledged_if_equal_and_refused_if_not() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    assert_eq!(hand.report(&work, &[row(1, 2.0)]).await.unwrap(), 1);
    assert_eq!(hand.report(&work, &[row(1, 2.0), row(2, 1.5)]).await.unwrap(), 2);
    let refused = hand.report(&work, &[row(1, 1.9)]).await.unwrap_err();
    assert_eq!(reason(&refused), "epoch-differs");
    let refused = hand.report(&work, &[row(4, 1.9)]).await.unwrap_err();
    assert_eq!(reason(&refused), "epoch-gap");
    assert_eq!(house.trial(1).await.measurements.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_does_not_hold_its_trial_can_write_nothing() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let checkpoint = hand.checkpoint(0, "x").await;
    let strangers = [(work.trial_id, 2), (work.trial_id, 0), (work.trial_id + 1, 1), (999, 1)];
    for (trial_id, attempt) in strangers {
        let stale = v1::Work { trial_id, attempt, kind: None };
        let report = hand.report(&stale, &[row(1, 2.0)]).await.unwrap_err();
        let record = hand.record(&stale, None, Some(checkpoint.clone())).await.unwrap_err();
        let finish = hand.finish(Hand::finish_request(&stale, Outcome::Complete)).await.unwrap_err();
        for refused in [report, record, finish] {
            assert_eq!(reason(&refused), "stale-attempt", "{refused:?}");
        }
    }
    assert_eq!(house.state(1).await, TrialState::Running);
    assert!(house.trial(1).await.measurements.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_whose_loss_is_nan_fails_for_good() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let why = "loss became NaN at epoch 3, update 41";
    let finish = v1::FinishRequest {
        reason: why.into(),
        r#final: true,
        ..Hand::finish_request(&work, Outcome::Failed)
    };
    assert_eq!(hand.finish(finish.clone()).await.unwrap(), TrialState::Failed);
    assert_eq!(hand.finish(finish).await.unwrap(), TrialState::Failed, "again is the same");
    let failures = house.study().await.failures;
    assert_eq!((failures[0].reason.as_str(), failures[0].count), (why, 1));
    assert_eq!((failures[0].workers.clone(), failures[0].example.as_str()), (vec!["w".to_owned()], "demo/1"));

    let work = hand.one("r2").await;
    let refused = hand.report(&work, &[row(1, f64::NAN)]).await.unwrap_err();
    assert_eq!(reason(&refused), "not-finite");
    let trial = house.trial(2).await.trial.unwrap();
    assert_eq!((trial.state(), trial.reason.as_str()), (TrialState::Failed, "loss became NaN at epoch 1"));
    assert_eq!(house.study().await.state(), StudyState::Complete);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_is_not_complete_without_its_measurements_and_checkpoints() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    hand.report(&work, &[row(1, 2.0), row(2, 1.5)]).await.unwrap();
    let refused = hand.finish(Hand::finish_request(&work, Outcome::Complete)).await.unwrap_err();
    assert_eq!(reason(&refused), "incomplete");
    assert!(refused.message().contains("2 of 3 epochs"), "{}", refused.message());
    hand.report(&work, &[row(3, 1.6)]).await.unwrap();
    let refused = hand.finish(Hand::finish_request(&work, Outcome::Complete)).await.unwrap_err();
    assert!(refused.message().contains("best checkpoint"), "{}", refused.message());
    assert_eq!(house.state(1).await, TrialState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_must_be_what_its_manifest_says() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let known = |digest: String| v1::Checkpoint { digest, epoch: 0, val_loss: f64::NAN, bytes: 1 };
    let absent = known(digest::of_bytes(b"never sent"));
    let refused = hand.record(&work, None, Some(absent)).await.unwrap_err();
    assert_eq!(reason(&refused), "missing-blob");
    let nonsense = known(house.upload(b"no manifest").await);
    let refused = hand.record(&work, None, Some(nonsense)).await.unwrap_err();
    assert_eq!(reason(&refused), "bad-manifest");
    let file = digest::of_bytes(b"a file that is not here");
    let manifest = format!(r#"[{{"name":"model.safetensors","size":3,"digest":"{file}"}}]"#);
    let hollow = known(house.upload(manifest.as_bytes()).await);
    let refused = hand.record(&work, None, Some(hollow)).await.unwrap_err();
    assert_eq!(reason(&refused), "missing-blob");
    let good = hand.checkpoint(0, "x").await;
    hand.record(&work, None, Some(good.clone())).await.unwrap();
    hand.record(&work, None, Some(good)).await.unwrap();
    let early = hand.checkpoint(2, "y").await;
    let refused = hand.record(&work, None, Some(early)).await.unwrap_err();
    assert_eq!(reason(&refused), "epoch-gap", "epoch 2 is not measured");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_attempt_starts_at_its_checkpoint_and_later_rows_are_superseded() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    hand.report(&work, &[row(1, 2.0), row(2, 1.0)]).await.unwrap();
    let (best, last) = (hand.checkpoint(1, "one").await, hand.checkpoint(1, "one").await);
    hand.record(&work, Some(best), Some(last.clone())).await.unwrap();
    let released = hand.finish(Hand::finish_request(&work, Outcome::Released)).await.unwrap();
    assert_eq!(released, TrialState::Queued);

    let again = hand.one("r2").await;
    assert_eq!((again.trial_id, again.attempt), (work.trial_id, 2));
    assert_eq!(train(&again).resume.as_ref().unwrap().digest, last.digest);
    assert_eq!(train(&again).best.as_ref().unwrap().epoch, 1);
    let trial = house.trial(1).await.trial.unwrap();
    assert_eq!((trial.epochs, trial.best_val_loss), (1, Some(2.0)), "epoch 2 is to be trained again");
    assert_eq!(reason(&hand.report(&again, &[row(1, 2.0)]).await.unwrap_err()), "epoch-gap");
    hand.report(&again, &[row(2, 1.25)]).await.unwrap();
    let curve = house.trial(1).await;
    let rows: Vec<_> = curve.measurements.iter().map(|m| (m.epoch, m.attempt, m.val_loss)).collect();
    assert_eq!(rows, [(1, 1, 2.0), (2, 2, 1.25)]);
    assert_eq!((curve.attempts[1].start_epoch, &curve.attempts[1].start_checkpoint), (1, &last.digest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_epoch_with_other_bytes_on_the_same_numerics_is_flagged_and_on_others_it_is_not() {
    let house = House::open().await;
    house.create_as("c", &SPEC.replace("[8, 16]", "[8]")).await.unwrap();
    let mut released = 0;
    let mut attempt = async |kind: &str, rows: &[v1::Measurement], keep: Option<&str>| {
        released += 1;
        let hand = house.worker_of_kind("w", &released.to_string(), kind).await;
        let work = hand.one(&format!("r{released}")).await;
        hand.report(&work, rows).await.unwrap();
        if let Some(text) = keep {
            let checkpoint = hand.checkpoint(0, text).await;
            hand.record(&work, None, Some(checkpoint)).await.unwrap();
        }
        hand.finish(Hand::finish_request(&work, Outcome::Released)).await.unwrap();
    };
    let off = |epoch| v1::Measurement { weights_digest: digest::of_bytes(b"other"), ..row(epoch, 1.0) };
    let rounded = v1::Measurement { train_loss: 0.9 + 1e-16, ..row(2, 1.0) };
    assert!(rounded.train_loss.to_bits() != row(2, 1.0).train_loss.to_bits());
    attempt("a", &[row(1, 1.0), row(2, 1.0)], None).await;
    attempt("a", &[row(1, 1.0)], None).await;
    attempt("b", &[off(1), off(2)], None).await;
    assert_eq!(house.trial(1).await.divergences, [], "equal, or on other numerics");
    attempt("a", &[row(1, 1.0), rounded], None).await;
    attempt("a", &[off(1)], None).await;
    let pairs = |detail: &v1::TrialDetail| {
        detail.divergences.iter().map(|d| (d.epoch, d.attempt, d.other_attempt)).collect::<Vec<_>>()
    };
    let flagged = [(1, 5, 1), (1, 5, 2), (1, 5, 4), (2, 4, 1)];
    let detail = house.trial(1).await;
    assert_eq!(pairs(&detail), flagged);
    assert_eq!(detail.divergences[0].weights_digest, off(1).weights_digest);
    assert_eq!(detail.divergences[0].other_weights_digest, row(1, 1.0).weights_digest);
    // What goes on from a checkpoint of other numerics promises nothing.
    attempt("b", &[], Some("half an epoch")).await;
    attempt("a", &[off(1), off(2)], None).await;
    assert_eq!(pairs(&house.trial(1).await), flagged);

    let request = v1::WatchStudyRequest { study: "demo".into(), after: 0, follow_forever: false };
    house.studies().cancel_study(v1::StudyRef { study: "demo".into() }).await.unwrap();
    let mut events = house.studies().watch_study(request).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        if event.r#type == "trial.diverged" {
            told.push((event.attempt, event.json));
        }
    }
    assert_eq!(told.iter().map(|t| t.0).collect::<Vec<_>>(), [4, 5]);
    assert!(told[0].1.contains("\"epoch\":2") && told[0].1.contains("\"other_attempt\":1"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_tried_again_until_it_was_once_too_often() {
    let house = House::open().await;
    house.create_as("c", &SPEC_ONE_RETRY.replace("@", "max_attempts = 2")).await.unwrap();
    let hand = house.worker("w", "1").await;
    for want in [TrialState::Queued, TrialState::Failed] {
        let work = hand.one(&format!("r{want:?}")).await;
        let finish = v1::FinishRequest {
            reason: "out of memory".into(),
            ..Hand::finish_request(&work, Outcome::Failed)
        };
        assert_eq!(hand.finish(finish).await.unwrap(), want);
    }
    assert_eq!(house.study().await.state(), StudyState::Complete);
    let request = v1::TrialRef { study: "demo".into(), number: 1 };
    house.studies().retry_trial(request.clone()).await.unwrap();
    assert_eq!(house.study().await.state(), StudyState::Active, "a retry opens it again");
    let refused = house.studies().retry_trial(request).await.unwrap_err();
    assert_eq!(reason(&refused), "illegal-event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_epochs_before_a_nan_of_the_same_report_stand_and_are_in_nobodys_way() {
    let house = House::open().await;
    house.create_as("c", &SPEC.replace("[8, 16]", "[8]")).await.unwrap();
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let refused = hand.report(&work, &[row(1, 2.0), row(2, f64::NAN)]).await.unwrap_err();
    assert_eq!(reason(&refused), "not-finite");
    let trial = house.trial(1).await.trial.unwrap();
    assert_eq!((trial.state(), trial.epochs, trial.best_val_loss), (TrialState::Failed, 1, Some(2.0)));
    let request = v1::TrialRef { study: "demo".into(), number: 1 };
    house.studies().retry_trial(request).await.unwrap();
    let again = hand.one("r2").await;
    assert_eq!(hand.report(&again, &[row(1, 1.5)]).await.unwrap(), 1);
    let curve: Vec<_> = house.trial(1).await.measurements.iter().map(|m| (m.attempt, m.val_loss)).collect();
    assert_eq!(curve, [(2, 1.5)]);
}

const SPEC_ONE_RETRY: &str = r#"
name = "demo"
corpus = "exercises"
retry = { @ }
[space]
hidden = [8]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_carries_measurements_and_takes_them_or_refuses_all_of_it() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    let (best, last) = (hand.checkpoint(2, "best").await, hand.checkpoint(3, "last").await);
    let finish = |rows: &[v1::Measurement]| v1::FinishRequest {
        best: Some(best.clone()),
        last: Some(last.clone()),
        measurements: rows.to_vec(),
        ..Hand::finish_request(&work, Outcome::Complete)
    };
    let gap = hand.finish(finish(&[row(1, 2.0), row(3, 1.0)])).await.unwrap_err();
    assert_eq!(reason(&gap), "epoch-gap");
    let short = hand.finish(finish(&[row(1, 2.0), row(2, 1.0)])).await.unwrap_err();
    assert_eq!(reason(&short), "epoch-gap", "a checkpoint of an epoch that is not there");
    assert_eq!(house.trial(1).await.measurements.len(), 0, "nothing of what is refused stands");

    let rows = [row(1, 2.0), row(2, 1.0), row(3, 1.5)];
    for _ in 0..2 {
        let answer = hand.client.clone().finish(finish(&rows)).await.unwrap().into_inner();
        assert_eq!((answer.state(), answer.last_epoch), (TrialState::Complete, 3));
    }
    let found = house.trial(1).await;
    let epochs: Vec<u32> = found.measurements.iter().map(|m| m.epoch).collect();
    assert_eq!(epochs, [1, 2, 3]);
    assert_eq!(
        (found.trial.clone().unwrap().objective, found.trial.unwrap().best_epoch),
        (Some(1.0), Some(2))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_of_one_request_are_events_of_their_own_and_watching_goes_on_between_them() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    hand.report(&work, &[row(1, 2.0), row(2, 1.0), row(3, 1.5)]).await.unwrap();
    let measured = async |after: u64| {
        let request = v1::WatchStudyRequest { study: "demo".into(), after, follow_forever: true };
        let mut events = house.studies().watch_study(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        loop {
            let event = events.message().await.unwrap().unwrap();
            if event.r#type == "trial.measured" {
                let json: serde_json::Value = serde_json::from_str(&event.json).unwrap();
                found.push((event.seq, json["epoch"].as_u64().unwrap(), json["val_loss"].as_f64().unwrap()));
                if json["epoch"] == 3 {
                    return found;
                }
            }
        }
    };
    let all = measured(0).await;
    let first = all[0].0;
    assert_eq!(all, [(first, 1, 2.0), (first + 1, 2, 1.0), (first + 2, 3, 1.5)]);
    assert_eq!(measured(first).await, all[1..]);
    assert_eq!(measured(first + 1).await, all[2..]);
}
