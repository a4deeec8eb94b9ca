//! Checkpoints: when they are made, and how they arrive.

use super::*;

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
