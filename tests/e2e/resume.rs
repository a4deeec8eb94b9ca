//! Trials whose workers are killed, again and again: they come to the bytes of one that was left alone, and to an end.

use std::time::{Duration, Instant};

use crate::house::{House, assert_whole_curve, study, wait_until};
use serde_json::Value;

/// Of each trial.
const EPOCHS: u32 = 14;

/// A study whose trial takes long enough to be killed a few times.
fn long_study(name: &str, epochs: u32) -> String {
    study(name, "hidden = [56]", &format!("dropout = 0.2\nepochs = {epochs}"))
}

/// Waits until this attempt of a trial runs.
fn wait_for_attempt(house: &House, trial: &str, attempt: usize) {
    wait_until("the trial to be taken", || {
        let trial = house.trial(trial);
        trial["state"] == "COMPLETE" || (trial["attempts"] == attempt && trial["state"] == "RUNNING")
    });
}

/// What must be the same, epoch by epoch.
fn curve(trial: &Value) -> Vec<[Value; 4]> {
    let fields = ["epoch", "train_loss", "val_loss", "weights_digest"];
    trial["measurements"].as_array().unwrap().iter().map(|m| fields.map(|field| m[field].clone())).collect()
}

fn attempts_log(trial: &Value) -> Vec<Value> {
    trial["attempts_log"].as_array().unwrap().clone()
}

#[test]
fn a_trial_killed_at_random_moments_comes_to_the_bytes_of_one_left_alone() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let mut calm = house.worker("calm", 2);
    house.create(&long_study("whole", EPOCHS));
    house.wait_for_coverage("whole", 1);
    calm.kill();

    house.create(&long_study("killed", EPOCHS));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut kills = 0;
    for life in 1..=5 {
        // The same worker again frees its trial at once, another one waits for the lease to run out.
        let mut worker = house.worker(if life % 3 == 0 { "other" } else { "worker" }, life % 3 + 1);
        wait_for_attempt(&house, "killed/1", life as usize);
        for shift in [13, -7, 17_i32] {
            random ^= if shift < 0 { random >> -shift } else { random << shift };
        }
        std::thread::sleep(Duration::from_millis(100 + random % 1200));
        kills += u32::from(house.trial("killed/1")["state"] == "RUNNING");
        worker.kill();
    }
    assert!(kills >= 2, "the trial is too short for this test: killed {kills} times");
    let _last = house.worker("worker", 1);
    house.wait_for_coverage("killed", 1);

    let (whole, killed) = (house.trial("whole/1"), house.trial("killed/1"));
    assert_whole_curve(&killed, EPOCHS.into());
    assert_eq!(curve(&killed), curve(&whole));
    assert_eq!(killed["divergences"], Value::Array(Vec::new()), "nor did any epoch that was trained twice");
    let lost = attempts_log(&killed).iter().filter(|a| a["outcome"] == "LOST").count();
    assert!(lost >= kills as usize, "{killed}");
    let promoted =
        |study: &str| house.run(&["model", "promote", study, "--json"]).ok().one()["digest"].clone();
    assert_eq!(promoted("killed"), promoted("whole"), "the best checkpoint is the same, file by file");
}

#[test]
fn a_trial_whose_workers_live_shorter_than_a_checkpoint_interval_comes_to_its_end() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let text = long_study("s", 20).replace("\"1s\"", "\"30s\"");
    house.create(&text.replace("[space]", "retry = { max_lost = 2 }\n[space]"));
    let last = || house.trial("s/1")["checkpoints"]["last"].clone();
    for life in 1..=4 {
        let begun = Instant::now();
        let mut worker = house.worker("worker", 1);
        wait_for_attempt(&house, "s/1", life);
        if life == 1 {
            house.wait_for_epochs("s", 1);
        } else {
            let before = attempts_log(&house.trial("s/1"))[life - 1]["start_checkpoint"].clone();
            wait_until("a checkpoint", || last() != before);
        }
        worker.kill();
        assert!(begun.elapsed() < Duration::from_secs(30), "a life as long as the interval proves nothing");
    }
    let _survivor = house.worker("worker", 1);
    house.wait_for_coverage("s", 1);
    let trial = house.trial("s/1");
    assert_whole_curve(&trial, 20);
    let attempts = attempts_log(&trial);
    assert_eq!(attempts.len(), 5);
    assert!(attempts[..4].iter().all(|a| a["outcome"] == "LOST"), "{attempts:?}");
    assert!(attempts[1]["start_checkpoint"].is_null(), "the first life was too short for a checkpoint");
    for pair in attempts[1..].windows(2) {
        assert_ne!(pair[0]["start_checkpoint"], pair[1]["start_checkpoint"], "every life got on");
    }
}
