//! `kapell trial reproduce`: the same bytes, tampered records, other numerics, trials that did not come to their end.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::house::{Daemon, House, study, wait_until};
use serde_json::Value;
use sqlx::Connection as _;

/// Changes a record behind the coordinator's back.
fn tamper(house: &House, sql: &'static str) {
    let path = house.path("data").join("kapell.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut conn = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        assert!(sqlx::query(sql).execute(&mut conn).await.unwrap().rows_affected() > 0, "{sql}");
        conn.close().await.unwrap();
    });
}

fn matches(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter(|l| l["type"] == "epoch").map(|l| l["match"].as_str().unwrap()).collect()
}

#[test]
fn a_trial_is_reproduced_to_the_last_bit_and_a_record_that_was_changed_is_found_out() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    house.create(&study("r", "hidden = [8, 12]", "dropout = 0.1\nepochs = 3"));
    house.run(&["trial", "reproduce", "r/1", "--json"]).fails(6);
    house.run(&["trial", "reproduce", "r/9", "--json"]).fails(2);
    house.run(&["trial", "reproduce", "r/1", "--expect-digest", "abc", "--json"]).fails(2);
    let worker = house.worker("w", 2);
    house.wait_for_coverage("r", 2);
    drop(worker);

    let trial = house.trial("r/2");
    let digest = trial["weights_digest"].as_str().unwrap();
    let reproduced =
        house.run(&["trial", "reproduce", "r/2", "--expect-digest", digest, "--json"]).ok().json();
    assert_eq!(matches(&reproduced), ["same"; 3]);
    for (line, measured) in reproduced.iter().zip(trial["measurements"].as_array().unwrap()) {
        for field in ["train_loss", "val_loss", "weights_digest"] {
            assert_eq!(line["reproduced"][field], measured[field]);
            assert_eq!(line["recorded"][field], measured[field]);
        }
    }
    let result = reproduced.last().unwrap();
    assert_eq!((&result["decision"], &result["same"]), (&"reproduced".into(), &3.into()));
    assert_eq!((&result["weights_digest"], &result["numerics"]), (&digest.into(), &trial["numerics"]));
    let prose = house.run(&["trial", "reproduce", "r/2"]).ok().stdout;
    assert!(prose.contains("reproduced: 3 of 3 epochs") && prose.contains(digest), "{prose}");

    let other = house.trial("r/1")["weights_digest"].as_str().unwrap().to_owned();
    let missed = house.run(&["trial", "reproduce", "r/2", "--expect-digest", &other, "--json"]).fails(7);
    assert_eq!(missed.json().last().unwrap()["decision"], "differs");

    tamper(&house, "UPDATE measurements SET weights_digest = 'sha256:00' WHERE epoch = 2");
    let found_out = house.run(&["trial", "reproduce", "r/2", "--json"]).fails(7).json();
    assert_eq!(matches(&found_out), ["same", "differs", "same"]);
    assert!(house.run(&["trial", "reproduce", "r/2"]).fails(7).stdout.contains("DIFFERS"));
    tamper(&house, "UPDATE attempts SET kind = 'cpu-of-another-kind'");
    let elsewhere = house.run(&["trial", "reproduce", "r/2", "--json"]).fails(4).json();
    assert_eq!(matches(&elsewhere), ["same", "close", "same"]);
    assert_eq!(elsewhere.last().unwrap()["recorded_numerics"], serde_json::json!(["cpu-of-another-kind"]));
    tamper(&house, "UPDATE measurements SET val_loss = val_loss + 0.5 WHERE epoch = 3");
    let far = house.run(&["trial", "reproduce", "r/2", "--json"]).fails(7).json();
    assert_eq!(matches(&far), ["same", "close", "far"]);
}

#[test]
fn what_a_canceled_trial_has_on_record_is_reproduced_and_an_interrupt_ends_it() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let _worker = house.worker("w", 1);
    house.create(&study("c", "hidden = [64]", "epochs = 1000"));
    house.wait_for_epochs("c", 3);
    house.run(&["study", "cancel", "c"]).ok();
    wait_until("the worker to be free", || {
        house.run(&["workers", "show", "w", "--json"]).ok().one()["busy"] == 0
    });
    let epochs = usize::try_from(house.trial("c/1")["epochs"].as_u64().unwrap()).unwrap();
    let reproduced = house.run(&["trial", "reproduce", "c/1", "--json"]).ok().json();
    assert_eq!(matches(&reproduced), vec!["same"; epochs]);

    let mut command = house.command(&["trial", "reproduce", "c/1"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut interrupted = Daemon { child };
    let mut lines = BufReader::new(interrupted.child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("training c/1 again"));
    // It prints on where nobody reads, as long as this end is open.
    wait_until("an epoch", || lines.next().unwrap().unwrap().contains("same bytes"));
    interrupted.signal(rustix::process::Signal::INT);
    assert_eq!(interrupted.ended(), 130);
}
