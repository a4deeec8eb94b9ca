//! A server that follows an alias: waits for the first version, swaps under load, and outlives its coordinator.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::Server;
use super::{started, wait_until_ready};
use crate::house::{House, study, wait_until};

/// A coordinator with a finished study of two trials.
fn searched() -> (House, crate::house::Daemon) {
    let mut house = House::new();
    let coordinator = house.coordinator();
    house.create(&study("song", "hidden = [16, 24]", "epochs = 1\nbatch_size = 8"));
    let mut worker = house.worker("w", 1);
    house.wait_for_coverage("song", 2);
    worker.kill();
    (house, coordinator)
}

fn promote(house: &House, trial: &str) {
    house.run(&["model", "promote", "song", "--trial", trial]).ok();
}

/// Tells threads to stop when it goes.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks from four threads, again and again, until told to stop, and gives the models that answered.
fn under_load(server: &Server, meanwhile: impl FnOnce()) -> BTreeSet<String> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Where what happens meanwhile fails, too.
        let stopper = Stopper(&stop);
        let ask = |number: usize| {
            let (stop, path) = (&stop, format!("/v1/harmonize?melody=twinkle&search=sample&seed={number}"));
            scope.spawn(move || {
                let mut models = BTreeSet::new();
                loop {
                    // Once more after the last of what happens meanwhile.
                    let last = stop.load(Ordering::Relaxed);
                    let piece = server.post(&path, &[], b"").ok().json();
                    assert_eq!(piece["melody_kept"], true);
                    models.insert(piece["model"].as_str().unwrap().to_owned());
                    if last {
                        return models;
                    }
                }
            })
        };
        let threads: Vec<_> = (0..4).map(ask).collect();
        meanwhile();
        drop(stopper);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn an_alias_that_moves_under_load_drops_no_request_and_a_coordinator_that_goes_changes_nothing() {
    let (house, mut coordinator) = searched();
    let cache = house.path("cache-serve");
    let args = ["--model", "song@champion", "--poll", "100ms", "--cache-dir", cache.to_str().unwrap()];
    let (_daemon, server) = started(&house, &args, "serve.log");
    // There is no such alias yet.
    let waiting = server.get("/readyz");
    assert_eq!((waiting.status, &waiting.json()["error"]["code"]), (503, &"no-model".into()), "{waiting}");
    assert_eq!(server.post("/v1/compose", &[], b"").status, 503);
    assert_eq!(server.get("/healthz").status, 200);
    promote(&house, "1");
    wait_until_ready(&server);
    assert_eq!(server.get("/v1/model").json()["version"], 1);

    let models = under_load(&server, || {
        promote(&house, "2");
        wait_until("the swap", || server.get("/v1/model").json()["version"] == 2);
    });
    assert_eq!(models, ["song:1", "song:2"].map(String::from).into());
    let shown = server.get("/v1/model").json();
    let known = house.run(&["model", "show", "song@champion", "--json"]).ok().one();
    for field in ["name", "version", "digest", "aliases", "generation", "study", "trial", "config", "lineage"]
    {
        assert_eq!(shown[field], known[field], "{field}");
    }
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("kapell_model_swaps_total 1") && metrics.contains("kapell_model_generation 2"));

    coordinator.kill();
    wait_until("the news", || server.get("/metrics").text().contains("kapell_model_source_up 0"));
    let ready = server.get("/readyz");
    assert!(ready.status == 200 && ready.text().contains("cannot be reached"), "{ready}");
    // A start without the coordinator serves what was served last, if its bytes are whole.
    let (_second, second) = started(&house, &args, "second.log");
    wait_until_ready(&second);
    assert_eq!(second.get("/v1/model").json()["digest"], shown["digest"]);
    let digest = shown["digest"].as_str().unwrap().replace(':', "-");
    let file = cache.join("models").join(digest).join("vocab.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen('[', "[ ", 1)).unwrap();
    let (_third, third) = started(&house, &args, "third.log");
    wait_until("the refusal", || third.get("/readyz").text().contains("digest"));
    assert_eq!(third.get("/readyz").status, 503);
}

#[test]
fn what_run_has_left_is_served_without_a_coordinator() {
    let house = House::new();
    let text = study("home", "hidden = [16]", "epochs = 1\nbatch_size = 8");
    let file = house.write("home.toml", &text);
    house.run(&["run", file.to_str().unwrap(), "--json"]).ok();
    let (_daemon, server) = started(&house, &[], "serve.log");
    wait_until_ready(&server);
    assert_eq!(server.get("/v1/model").json()["name"], "home:1");
    assert_eq!(server.post("/v1/harmonize?melody=twinkle", &[], b"").ok().json()["model"], "home:1");
}
