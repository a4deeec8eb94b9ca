//! Looking after a coordinator by its commands: backup, restore, doctor, logs.

use serde_json::Value;

use crate::house::{House, study, wait_until};

#[test]
fn a_backup_is_restored_by_command_and_its_study_comes_to_its_end() {
    let mut house = House::new();
    let mut coordinator = house.coordinator();
    let worker = house.worker("w", 1);
    house.create(&study("b", "hidden = [8, 12, 16]", "epochs = 2"));
    house.wait_for_epochs("b", 1);
    let (dir, restored) = (house.path("backup"), house.path("restored"));
    let (dir, restored) = (dir.to_str().unwrap(), restored.to_str().unwrap());
    let data = house.path("data");
    let data = data.to_str().unwrap();
    let written = house.run(&["coordinator", "backup", dir, "--json"]).ok().one();
    assert!(written["blobs"].as_u64() >= Some(1) && written["damaged"].as_array().unwrap().is_empty());
    let again = house.run(&["coordinator", "backup", dir, "--json"]).fails(2);
    assert!(again.error()["hint"].as_str().unwrap().contains("not there yet"), "{}", again.stderr);
    house.run(&["coordinator", "backup", &format!("{dir}-2"), "--data-dir", data]).ok();
    let used = house.run(&["coordinator", "restore", dir, "--data-dir", data, "--json"]).fails(2);
    assert_eq!(used.error()["code"], "locked");
    assert!(house.run(&["doctor", "--data-dir", data]).ok().stderr.contains("looking only"));
    house.run(&["doctor", "--fix", "--data-dir", data]).fails(2);
    coordinator.kill();

    house.run(&["coordinator", "restore", dir, "--data-dir", restored, "--json"]).ok();
    std::fs::remove_dir_all(data).unwrap();
    std::fs::rename(restored, data).unwrap();
    assert_eq!(house.run(&["doctor", "--json", "--data-dir", data]).ok().one()["problems"], 0);
    let _coordinator = house.coordinator();
    house.wait_for_coverage("b", 3);
    drop(worker);
    house.run(&["coordinator", "restore", "nowhere", "--data-dir", restored, "--json"]).fails(2);
    let file = house.path("backup").join("kapell.db");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    house.run(&["coordinator", "restore", dir, "--data-dir", restored]).fails(7);
}

#[test]
fn logs_are_json_lines_that_say_which_study_trial_and_attempt_they_are_about() {
    let mut house = House::new();
    let coordinator = house.coordinator();
    let cache = house.path("cache-w");
    let args = [
        "worker",
        "--name",
        "w",
        "--slots",
        "1",
        "--cache-dir",
        cache.to_str().unwrap(),
        "--log-format",
        "json",
    ];
    let mut worker = house.daemon(&args, "w.log");
    house.create(&study("j", "hidden = [8]", "epochs = 2"));
    house.wait_for_coverage("j", 1);
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.ended(), 0);
    drop(coordinator);
    let lines = |log: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(house.path(log)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
            .collect()
    };
    let about = |line: &Value| (line["study"].clone(), line["trial"].clone(), line["attempt"].clone());
    let whole = ("j".into(), 1.into(), 1.into());
    let of_worker = lines("w.log");
    let epoch =
        of_worker.iter().find(|l| l["fields"]["message"].as_str().unwrap_or("").starts_with("epoch 2"));
    assert_eq!(about(epoch.unwrap()), whole);
    for line in &of_worker {
        assert!(line["spans"].is_null() || about(line) == whole, "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string());
    }
    wait_until("the coordinator's log", || {
        lines("coordinator.log").iter().any(|l| l["fields"]["to"] == "COMPLETE" && l["trial"] == 1)
    });
    let of_coordinator = lines("coordinator.log");
    let steps: Vec<&Value> = of_coordinator.iter().filter(|l| l["fields"]["message"] == "trial").collect();
    assert!(steps.len() >= 2);
    assert!(steps.iter().all(|l| about(l) == whole), "{steps:?}");
}

#[test]
fn the_log_of_an_attempt_can_be_followed_while_it_runs() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    house.create(&study("f", "hidden = [8]", "epochs = 400"));
    let mut worker = house.worker("w", 1);
    wait_until("the first lines", || house.run(&["trial", "logs", "f/1"]).stdout.contains("epoch 1:"));
    assert_eq!(house.trial("f/1")["state"], "RUNNING");
    // The worker is lost; what it has said is not.
    worker.kill();
    let followed = house.run(&["trial", "logs", "f/1", "--attempt", "1", "--follow"]).ok().stdout;
    assert!(followed.contains("epoch 1:"), "{followed}");
    assert_eq!(followed.matches("training begins").count(), 1, "nothing is printed twice");
    house.run(&["study", "cancel", "f"]).ok();
}
