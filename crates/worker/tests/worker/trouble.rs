//! Faults of the worker's own machine.

use super::*;

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
