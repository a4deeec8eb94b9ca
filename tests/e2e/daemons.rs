//! Coordinator and workers as real processes: killed, stopped, told to leave, and steered.

use std::time::{Duration, Instant};

use crate::house::{House, assert_whole_curve, study, wait_until};
use rustix::process::Signal;

#[test]
fn a_worker_that_is_killed_loses_its_lease_and_its_trial_is_finished_by_another() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let mut doomed = house.worker("doomed", 1);
    house.create(&study("k", "hidden = [48]", "epochs = 40"));
    house.wait_for_epochs("k", 2);
    doomed.kill();
    let _heir = house.worker("heir", 1);
    house.wait_for_coverage("k", 1);
    let trial = house.trial("k/1");
    assert_whole_curve(&trial, 40);
    let outcomes: Vec<_> =
        trial["attempts_log"].as_array().unwrap().iter().map(|a| a["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["LOST", "COMPLETE"]);
    assert_eq!(trial["worker"], "heir");
}

#[test]
fn a_coordinator_that_is_killed_comes_back_and_no_epoch_is_lost_or_trained_twice() {
    let mut house = House::new();
    let mut coordinator = house.coordinator();
    let _worker = house.worker("w", 1);
    house.create(&study("c", "hidden = [48]", "epochs = 40"));
    house.wait_for_epochs("c", 2);
    coordinator.kill();
    drop(coordinator);
    let _again = house.coordinator();
    house.wait_for_coverage("c", 1);
    let trial = house.trial("c/1");
    assert_whole_curve(&trial, 40);
    assert_eq!(trial["attempts"], 1, "the attempt outlived its coordinator");
}

#[test]
fn a_worker_told_to_leave_checkpoints_and_releases_what_it_holds() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let mut leaving = house.worker("leaving", 1);
    house.create(&study("d", "hidden = [48]", "epochs = 40"));
    house.wait_for_epochs("d", 2);
    leaving.signal(Signal::TERM);
    assert_eq!(leaving.ended(), 0);
    let trial = house.trial("d/1");
    assert_eq!(trial["state"], "QUEUED");
    assert_eq!(trial["attempts_log"][0]["outcome"], "RELEASED");
    assert!(trial["checkpoints"]["last"].is_string(), "{trial}");
    let _next = house.worker("next", 1);
    house.wait_for_coverage("d", 1);
    assert_whole_curve(&house.trial("d/1"), 40);
}

#[test]
fn a_canceled_trial_stops_within_two_seconds() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let _worker = house.worker("w", 1);
    house.create(&study("x", "hidden = [64]", "epochs = 1000"));
    house.wait_for_epochs("x", 1);
    let start = Instant::now();
    house.run(&["study", "cancel", "x"]).ok();
    wait_until("the worker to be free", || {
        house.run(&["workers", "show", "w", "--json"]).ok().one()["busy"] == 0
    });
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(house.show("x")["state"], "CANCELED");
    house.run(&["study", "watch", "x", "--json"]).fails(4);
    house.run(&["study", "delete", "x"]).ok();
    house.run(&["study", "show", "x"]).fails(2);
}

#[test]
fn a_paused_study_waits_with_its_checkpoints_and_goes_on_when_resumed() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let _worker = house.worker("w", 1);
    house.create(&study("p", "hidden = [32]\ndropout = [0.0, 0.1]", "epochs = 20"));
    house.wait_for_epochs("p", 2);
    house.run(&["study", "pause", "p"]).ok();
    wait_until("the trial to pause", || house.show("p")["trials"]["paused"] == 1);
    assert_eq!(house.show("p")["state"], "PAUSED");
    assert_eq!(house.show("p")["trials"]["running"], 0);
    house.run(&["study", "resume", "p"]).ok();
    house.wait_for_coverage("p", 2);
    assert_whole_curve(&house.trial("p/1"), 20);
}

#[test]
fn a_loss_that_becomes_nan_fails_the_trial_finally_and_says_when() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let _worker = house.worker("w", 1);
    let file = house.write(
        "n.toml",
        &study("n", "learning_rate = [1e-3, 1e38]", "hidden = 8\nepochs = 2\nbatch_norm = false"),
    );
    house.run(&["study", "create", file.to_str().unwrap(), "--wait", "--json"]).fails(3);
    let trial = house.trial("n/2");
    assert_eq!((&trial["state"], &trial["attempts"]), (&"FAILED".into(), &1.into()));
    let reason = trial["reason"].as_str().unwrap();
    assert!(reason.starts_with("loss became NaN at epoch 1, update "), "{reason}");
    assert_eq!(house.show("n")["failures"][0]["count"], 1);
    house.run(&["trial", "retry", "n/2"]).ok();
    assert!(house.run(&["trial", "logs", "n/1"]).ok().stdout.contains("epoch 2"));
}

#[test]
fn a_promotion_is_decided_by_its_gates_and_told_by_its_exit_code() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    house.create(&study("g", "hidden = [8, 12]", "epochs = 1"));
    house.run(&["model", "promote", "g", "--json"]).fails(6);
    let _worker = house.worker("w", 2);
    house.wait_for_coverage("g", 2);
    let refused = house.run(&["model", "promote", "g", "--max-val-loss", "0.01", "--json"]).fails(3).one();
    assert_eq!(refused["decision"], "refused");
    house.run(&["model", "promote", "g", "--expect-generation", "7", "--json"]).fails(5);
    let promoted = house.run(&["model", "promote", "g", "--expect-generation", "0", "--json"]).ok().one();
    assert_eq!((&promoted["decision"], &promoted["generation"]), (&"promoted".into(), &1.into()));
    let again = house.run(&["model", "promote", "g", "--json"]).ok().one();
    assert_eq!((&again["decision"], &again["generation"]), (&"unchanged".into(), &1.into()));
    for reference in ["g", "g@champion", "g:1", "champion", promoted["digest"].as_str().unwrap()] {
        assert_eq!(
            house.run(&["model", "show", reference, "--json"]).ok().one()["digest"],
            promoted["digest"]
        );
    }
    assert_eq!(house.run(&["model", "history", "g", "--json"]).ok().json().len(), 1);
    house.run(&["model", "verify", "g"]).ok();
    let dir = house.path("pulled");
    house.run(&["model", "pull", "g", dir.to_str().unwrap()]).ok();
    assert!(dir.join("model.safetensors").is_file() && !dir.join("training.safetensors").exists());
    house.run(&["model", "show", "nobody", "--json"]).fails(2);
}
