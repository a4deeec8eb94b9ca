//! Bad input at the command line: the exit code, what is said, and that nothing is harmed.

use crate::house::{House, study};

#[test]
fn a_bad_study_file_is_refused_with_line_and_advice() {
    let house = House::new();
    for (text, expect) in [
        (study("a", "hiden = [8]", ""), "did you mean \"hidden\"?"),
        (study("a", "hidden = []", ""), "is empty"),
        (study("a", "hidden = [8, 8]", ""), "names 8 twice"),
        (study("a", "dropout = [1.0]", ""), "below 1"),
        (study("a", "hidden = [0]", ""), "from 1"),
        (study("a", "hidden = [\"x\"]", ""), "wants a whole number"),
    ] {
        let path = house.write("bad.toml", &text);
        let refused =
            house.run(&["study", "create", path.to_str().unwrap(), "--dry-run", "--json"]).fails(2).error();
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(expect) && message.contains("line "), "{message}");
    }
}

#[test]
fn a_grid_of_a_million_million_is_refused_at_once() {
    let house = House::new();
    let list = (1..=1000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let space = format!("hidden = [{list}]\nembedding = [{list}]\nseq_len = [{list}]\nseed = [{list}]");
    let text = study("huge", &space, "").replace("embedding = 8\nseq_len = 32\n", "");
    let path = house.write("huge.toml", &text);
    let refused = house.run(&["study", "create", path.to_str().unwrap(), "--json"]).fails(2).error();
    assert!(refused["message"].as_str().unwrap().contains("1000000000000 trials"), "{refused}");
}

#[test]
fn a_corpus_that_does_not_exist_is_refused() {
    let house = House::new();
    let path = house.write("c.toml", "name = \"a\"\ncorpus = \"nonesuch\"");
    let refused = house.run(&["study", "create", path.to_str().unwrap(), "--json"]).fails(2).error();
    assert!(refused["message"].as_str().unwrap().contains("nonesuch"), "{refused}");
}

#[test]
fn without_a_coordinator_a_command_says_so_and_may_be_tried_again() {
    let house = House::new();
    let refused = house.run(&["study", "list", "--json"]).fails(75).error();
    assert_eq!(refused["code"], "unreachable");
    assert!(refused["hint"].as_str().unwrap().contains("kapell coordinator"), "{refused}");
}

#[test]
fn a_second_coordinator_on_the_same_data_is_refused() {
    let mut house = House::new();
    let _first = house.coordinator();
    let data = house.path("data");
    let refused =
        house.run(&["coordinator", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"]).fails(2);
    assert!(refused.stderr.contains("another"), "{}", refused.stderr);
}

#[test]
fn a_port_in_use_is_said() {
    let mut house = House::new();
    let _first = house.coordinator();
    let data = house.path("other");
    let listen = house.url.trim_start_matches("http://").to_owned();
    let refused =
        house.run(&["coordinator", "--data-dir", data.to_str().unwrap(), "--listen", &listen]).fails(2);
    assert!(refused.stderr.contains("in use"), "{}", refused.stderr);
}

#[test]
fn a_dry_run_counts_and_creates_nothing() {
    let mut house = House::new();
    let _coordinator = house.coordinator();
    let path =
        house.write("s.toml", &study("dry", "hidden = [8, 12]\ndropout = [0.0, 0.1, 0.2]", "epochs = 2"));
    let counted = house.run(&["study", "create", path.to_str().unwrap(), "--dry-run", "--json"]).ok().one();
    assert_eq!(counted["trials"], 6);
    assert!(counted["seconds"].as_f64() > Some(0.0) && counted["disk_bytes"].as_u64() > Some(0));
    assert!(house.run(&["study", "list", "--json"]).ok().json().is_empty());
}

#[test]
fn a_melody_that_is_none_is_refused_with_advice_before_any_model_is_looked_for() {
    let house = House::new();
    let bomb = b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><score-partwise>&b;</score-partwise>";
    for (name, bytes, expect) in [
        ("broken.mxl", &b"PK\x03\x04 and then nothing"[..], "truncated"),
        ("empty.musicxml", b"", "empty"),
        ("bomb.musicxml", bomb, "entities"),
    ] {
        let path = house.path(name);
        std::fs::write(&path, bytes).unwrap();
        let refused = house.run(&["harmonize", path.to_str().unwrap(), "--json"]).fails(2).error();
        assert!(refused["message"].as_str().unwrap().contains(expect), "{name}: {refused}");
    }
}
