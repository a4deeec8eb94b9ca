//! Backups and restores: taken while everything goes on, checked, fenced from what they do not know.

use std::time::Duration;

use kapell_coordinator::backup::{self, BackupError};
use kapell_coordinator::{DataDirError, StartError, doctor, start};
use kapell_rpc::Client;
use kapell_rpc::v1::{Outcome, StudyState, TrialState};

use crate::harness::{Hand, House, config, reason, row, train};

async fn backup_of(house: &House, name: &str) -> std::path::PathBuf {
    let dir = house.dir.path().with_extension(name);
    let client = Client::connect(&house.running.url(), None).unwrap();
    backup::from_coordinator(&client, &dir).await.unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_coordinator_is_restored_and_run_to_completion() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let (done, running) = (hand.one("r1").await, hand.one("r2").await);
    hand.complete(&done, 1.0).await;
    hand.report(&running, &[row(1, 2.0)]).await.unwrap();
    let last = hand.checkpoint(1, "kept").await;
    hand.record(&running, None, Some(last.clone())).await.unwrap();
    let before = house.study().await.last_seq;

    let dir = backup_of(&house, "backup").await;
    let client = Client::connect(&house.running.url(), None).unwrap();
    let again = backup::from_coordinator(&client, &dir).await.unwrap_err();
    assert!(matches!(&again, BackupError::Usage { .. }) && again.exit_code() == 2, "{again}");
    // What comes after is not in it.
    hand.report(&running, &[row(2, 1.5)]).await.unwrap();
    house.running.shutdown().await;

    let other = tempfile::tempdir().unwrap();
    let restored = backup::restore(&dir, other.path()).await.unwrap();
    assert_eq!(restored.requeued, 1);
    let used = backup::restore(&dir, other.path()).await.unwrap_err();
    assert_eq!(used.exit_code(), 2, "{used}");
    let house = House::on(other, |_| {}).await;
    assert_eq!(house.state(1).await, TrialState::Complete);
    assert_eq!(house.state(2).await, TrialState::Queued);
    let hand = house.worker("w", "2").await;
    let work = hand.one("r3").await;
    assert_eq!(train(&work).resume.as_ref().unwrap().digest, last.digest);
    assert_eq!(hand.report(&work, &[row(2, 1.5), row(3, 1.6)]).await.unwrap(), 3);
    let (best, last) = (hand.checkpoint(2, "b").await, hand.checkpoint(3, "l").await);
    let mut finish = Hand::finish_request(&work, Outcome::Complete);
    (finish.best, finish.last) = (Some(best), Some(last));
    assert_eq!(hand.finish(finish).await.unwrap(), TrialState::Complete);
    let study = house.study().await;
    assert_eq!((study.state(), study.coverage.unwrap().lost), (StudyState::Complete, 0));
    assert!(study.last_seq > before + 1000, "nobody who follows the study misses an event");
    let path = house.dir.path().to_owned();
    house.running.shutdown().await;
    let report = doctor::examine(&path, false).await.unwrap();
    assert_eq!((report.remaining(), report.findings), (0, Vec::new()));
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_lease_of_before_a_restore_can_write_nothing_into_the_lease_of_the_same_number() {
    let house = House::open().await;
    house.create().await;
    let dir = backup_of(&house, "fence").await;
    // After the backup this worker gets attempt 1 of trial 1; the store that is restored has never given it.
    let stale = house.worker("stale", "1").await;
    let old = stale.one("r1").await;
    stale.report(&old, &[row(1, 9.0)]).await.unwrap();
    let data_dir = house.dir.path().to_owned();
    house.running.shutdown().await;
    std::fs::remove_dir_all(&data_dir).unwrap();
    let mut lives = vec![old.trial_id];
    for _ in 0..2 {
        backup::restore(&dir, &data_dir).await.unwrap();
        let running = start(config(data_dir.clone())).await.unwrap();
        let house = House::of(running).await;
        let other = house.worker("other", "1").await;
        let new = other.one("r2").await;
        assert_eq!(
            (train(&new).number, new.attempt),
            (train(&old).number, old.attempt),
            "the numbers come again"
        );
        lives.push(new.trial_id);
        let stale = house.worker("stale", "1").await;
        for trial_id in &lives[..lives.len() - 1] {
            let old = kapell_rpc::v1::Work { trial_id: *trial_id, ..old.clone() };
            let last = stale.checkpoint(0, "stale").await;
            let tried = [
                stale.report(&old, &[row(1, 9.0)]).await.unwrap_err(),
                stale.record(&old, None, Some(last)).await.unwrap_err(),
                stale.finish(Hand::finish_request(&old, Outcome::Failed)).await.unwrap_err(),
            ];
            for refused in tried {
                assert_eq!(reason(&refused), "stale-attempt", "{refused:?}");
            }
        }
        assert_eq!(other.report(&new, &[row(1, 2.0)]).await.unwrap(), 1);
        let trial = house.trial(1).await;
        assert_eq!((trial.measurements.len(), trial.measurements[0].val_loss), (1, 2.0));
        house.running.shutdown().await;
        std::fs::remove_dir_all(&data_dir).unwrap();
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_and_the_data_folder_stays_empty() {
    let house = House::open().await;
    house.create().await;
    let hand = house.worker("w", "1").await;
    let work = hand.one("r1").await;
    hand.complete(&work, 1.0).await;
    let dir = backup_of(&house, "damaged").await;
    let mut files: Vec<_> = walk(&dir).into_iter().filter(|p| !p.ends_with("backup.json")).collect();
    files.sort();
    assert!(files.len() > 5);
    for file in files {
        let whole = std::fs::read(&file).unwrap();
        let mut other = whole.clone();
        let middle = other.len() / 2;
        other[middle] ^= 1;
        for bytes in [other, whole[..whole.len() - 1].to_vec()] {
            std::fs::write(&file, bytes).unwrap();
            let target = house.dir.path().with_extension("target");
            let refused = backup::restore(&dir, &target).await.unwrap_err();
            assert_eq!(refused.exit_code(), 7, "{}: {refused}", file.display());
            assert!(!target.exists(), "nothing is touched");
        }
        std::fs::remove_file(&file).unwrap();
        let refused = backup::restore(&dir, &house.dir.path().with_extension("target")).await.unwrap_err();
        assert_eq!(refused.exit_code(), 7, "{refused}");
        std::fs::write(&file, whole).unwrap();
    }
    let locked = backup::restore(&dir, house.dir.path()).await.unwrap_err();
    assert!(matches!(locked, BackupError::DataDir(DataDirError::Locked { .. })), "{locked}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_cut_short_is_begun_again_and_no_coordinator_starts_on_it() {
    let house = House::open().await;
    house.create().await;
    let dir = backup_of(&house, "cut").await;
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(other.path().join("restoring/blobs/ab")).unwrap();
    std::fs::create_dir_all(other.path().join("blobs/cd")).unwrap();
    let refused = start(config(other.path().to_owned())).await.unwrap_err();
    assert!(matches!(refused, StartError::DataDir(DataDirError::Unfinished { .. })), "{refused}");
    backup::restore(&dir, other.path()).await.unwrap();
    assert!(!other.path().join("restoring").exists() && !other.path().join("blobs/cd").exists());
    start(config(other.path().to_owned())).await.unwrap().shutdown().await;
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_that_nobody_holds_is_backed_up_as_it_lies() {
    let house = House::open().await;
    house.create().await;
    let data_dir = house.dir.path().to_owned();
    let dir = data_dir.with_extension("offline");
    let held = backup::from_data_dir(&data_dir, &dir).await.unwrap_err();
    assert!(matches!(held, BackupError::DataDir(DataDirError::Locked { .. })), "{held}");
    let keep = house.dir;
    house.running.shutdown().await;
    let written = backup::from_data_dir(&data_dir, &dir).await.unwrap();
    assert_eq!((written.blobs, written.damaged.len()), (1, 0));
    let none = backup::from_data_dir(&dir.join("nothing"), &dir.with_extension("x")).await.unwrap_err();
    assert_eq!(none.exit_code(), 2, "{none}");
    let blob = walk(&data_dir.join("blobs")).pop().unwrap();
    std::fs::write(blob, "other bytes").unwrap();
    let damaged = backup::from_data_dir(&data_dir, &dir.with_extension("y")).await.unwrap_err();
    assert_eq!(damaged.exit_code(), 7, "{damaged}");
    assert!(!dir.with_extension("y").exists());
    drop(keep);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_swept_while_a_backup_is_being_taken() {
    let house = House::open().await;
    let bytes = vec![7_u8; 12 << 20];
    let client = Client::connect(&house.running.url(), None).unwrap();
    let digest = client.upload_bytes(bytes).await.unwrap().digest;
    let mut parts = client.backup().await.unwrap();
    parts.message().await.unwrap();
    // Nothing refers to the blob; the copy of the database has it all the same.
    assert_eq!(house.running.sweep_blobs(Duration::ZERO).await.unwrap(), 0);
    let refused = client.with_patience(Duration::ZERO).backup().await.unwrap_err();
    assert!(refused.has_reason("overloaded"), "{refused}");
    let mut seen = false;
    while let Some(part) = parts.message().await.unwrap() {
        if let Some(kapell_rpc::v1::backup_part::Part::File(file)) = part.part {
            seen |= file.digest == digest;
        }
    }
    assert!(seen);
    drop(parts);
    let mut swept = 0;
    for _ in 0..100 {
        swept += house.running.sweep_blobs(Duration::ZERO).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(swept, 12 << 20, "and afterwards it is");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files
}
