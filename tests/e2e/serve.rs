//! `kapell serve`: routes, forms, limits and bad input, many at once, an alias that moves under load, and its end.

mod client;
mod follow;
mod page;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kapell_model::{TrainConfig, Trainer};
use kapell_music::exercises;
use rustix::process::Signal;
use serde_json::Value;

use crate::house::{Daemon, House, wait_until};
use client::{Answer, Server};

const MUSICXML: &str = "application/vnd.recordare.musicxml+xml";

/// A folder with a model that has learnt nothing.
fn model(house: &House) -> PathBuf {
    let dir = house.path("model");
    let config = TrainConfig {
        layers: 1,
        hidden: 12,
        embedding: 4,
        seq_len: 16,
        batch_size: 2,
        ..TrainConfig::default()
    };
    let trainer = Trainer::new(config, Arc::new(exercises::corpus(1, 20).unwrap())).unwrap();
    trainer.save(&dir).unwrap();
    dir
}

/// A server of that model on a free port.
fn served(house: &House, args: &[&str]) -> (Daemon, Server) {
    let dir = model(house);
    let all = [&["--model", dir.to_str().unwrap()], args].concat();
    started(house, &all, "serve.log")
}

/// A server on a free port; its log says which.
fn started(house: &House, args: &[&str], log: &str) -> (Daemon, Server) {
    let all = [&["serve", "--http", "127.0.0.1:0", "--json"], args].concat();
    let mut daemon = house.daemon(&all, log);
    let mut address = None;
    wait_until("the server to listen", || {
        let text = std::fs::read_to_string(house.path(log)).unwrap();
        assert_eq!(daemon.child.try_wait().unwrap(), None, "it ended: {text}");
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        address = records.filter_map(|r| Some(r["fields"]["addr"].as_str()?.to_owned())).next_back();
        address.is_some()
    });
    (daemon, Server(address.unwrap()))
}

fn wait_until_ready(server: &Server) {
    wait_until("a model", || server.get("/readyz").status == 200);
}

fn melody(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/melodies");
    std::fs::read(dir.join(format!("{name}.musicxml"))).unwrap()
}

/// A melody of so many bars of 4/4, a note each.
fn long_melody(bars: usize) -> String {
    let bar = |at: usize| {
        let attributes = "<attributes><divisions>1</divisions><time><beats>4</beats><beat-type>4</beat-type>\
                          </time></attributes>";
        let attributes = if at == 0 { attributes } else { "" };
        format!(
            "<measure number=\"{}\">{attributes}<note><pitch><step>C</step><octave>5</octave></pitch>\
             <duration>4</duration></note></measure>",
            at + 1
        )
    };
    let bars: String = (0..bars).map(bar).collect();
    format!(
        "<score-partwise><part-list><score-part id=\"a\"><part-name>Air</part-name></score-part></part-list>\
         <part id=\"a\">{bars}</part></score-partwise>"
    )
}

#[test]
fn every_route_answers_and_carries_the_headers_that_protect_a_browser() {
    let house = House::new();
    let (_daemon, server) = served(&house, &[]);
    wait_until_ready(&server);
    let openapi = server.get("/openapi.json").json();
    let paths = openapi["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 9);
    for path in paths.keys().filter(|path| paths[*path].get("get").is_some()) {
        let answer = server.get(&path.replace("{name}", "twinkle"));
        assert_eq!(answer.status, 200, "{path}: {answer}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
    }
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let answer = server.get(path);
        assert!(answer.status == 200 && answer.header("content-type").starts_with(kind), "{path}");
        // The page asks nobody else.
        assert!(!answer.text().replace("http://www.w3.org/2000/svg", "").contains("http"), "{path}");
    }
    let shown = server.get("/v1/model").json();
    for field in ["name", "version", "aliases", "generation", "digest", "config", "val_loss", "created_at"] {
        assert!(shown.get(field).is_some(), "{field} is missing in {shown}");
    }
    let composed = server.post("/v1/compose?seed=4", &[], b"").ok().json();
    assert_eq!((&composed["seed"], &composed["search"]), (&4.into(), &"sample".into()));
    assert!(composed["melody_kept"].is_null() && composed["musicxml"].as_str().unwrap().starts_with("<?xml"));
    let metrics = server.get("/metrics").text();
    for name in [
        "kapell_http_requests_total{route=\"/v1/compose\",code=\"200\"} 1",
        "kapell_http_request_seconds_bucket",
        "kapell_jobs_waiting 0",
        "kapell_batch_rows_count",
        "kapell_model{model=\"model\",digest=\"sha256:",
        "kapell_model_generation 0",
        "kapell_model_swaps_total 0",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
}

#[test]
fn a_melody_comes_in_every_way_and_the_piece_in_the_form_that_accept_names() {
    let house = House::new();
    let (_daemon, server) = served(&house, &[]);
    wait_until_ready(&server);
    let twinkle = melody("twinkle");
    let json = |answer: Answer| answer.ok().json();
    let whole = json(server.post("/v1/harmonize", &[("content-type", MUSICXML)], &twinkle));
    assert_eq!((&whole["melody_kept"], &whole["frames"]), (&true.into(), &192.into()));
    for field in
        ["output", "tokens", "log_likelihood", "nats_per_token", "search", "seed", "model", "remarks"]
    {
        assert!(whole.get(field).is_some(), "{field} is missing");
    }
    assert_eq!(whole["parts"].as_array().unwrap().len(), 4);
    let text = String::from_utf8(twinkle.clone()).unwrap();
    let mut form =
        b"--b\r\ncontent-disposition: form-data; name=\"melody\"; filename=\"t.xml\"\r\n\r\n".to_vec();
    form.extend(&twinkle);
    form.extend(b"\r\n--b--\r\n");
    let same = [
        server.post("/v1/harmonize?melody=twinkle", &[], b""),
        server.post("/v1/harmonize", &[("content-type", "application/x-www-form-urlencoded")], &twinkle),
        server.post("/v1/harmonize", &[("content-type", "multipart/form-data; boundary=b")], &form),
        server.post_json("/v1/harmonize", &serde_json::json!({"melody": "twinkle"})),
        server.post_json("/v1/harmonize", &serde_json::json!({"melody": text})),
    ];
    for answer in same {
        assert_eq!(json(answer), whole);
    }
    let accept = |kind: &str| {
        let answer = server.post("/v1/harmonize?melody=twinkle", &[("accept", kind)], b"").ok();
        assert!(answer.header("content-type").starts_with(kind), "{answer}");
        answer.body
    };
    assert_eq!(accept(MUSICXML), whole["musicxml"].as_str().unwrap().as_bytes());
    assert!(accept("audio/midi").starts_with(b"MThd"));
    assert_eq!(accept("text/plain").iter().filter(|byte| **byte == b'\n').count() as u64, {
        whole["tokens"].as_u64().unwrap() + 1
    });
    let sound = accept("audio/wav");
    assert!(sound.starts_with(b"RIFF") && sound.len() > 1_000_000);
    assert!(String::from_utf8(accept("image/svg+xml")).unwrap().contains("<svg"));
    let rendered = server.post("/v1/render", &[("accept", "audio/midi")], &accept(MUSICXML)).ok();
    assert_eq!(rendered.body, accept("audio/midi"));
}

#[test]
fn variations_are_the_draws_of_the_seeds_that_follow_and_the_likeliest_is_in_front() {
    let house = House::new();
    let (_daemon, server) = served(&house, &[]);
    wait_until_ready(&server);
    let ask = |more: &str| {
        let path = format!("/v1/harmonize?melody=frere_jacques&search=sample&temperature=0.8{more}");
        server.post(&path, &[], b"").ok().json()
    };
    let several = ask("&seed=7&variations=3");
    let variations = several["variations"].as_array().unwrap();
    let likelihood = |piece: &Value| piece["log_likelihood"].as_f64().unwrap();
    let best = variations.iter().map(likelihood).fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(likelihood(&several), best);
    for (at, piece) in variations.iter().enumerate() {
        assert_eq!(*piece, ask(&format!("&seed={}", 7 + at)));
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_a_status_a_code_and_what_to_do() {
    let house = House::new();
    let (_daemon, server) = served(&house, &["--max-body", "100KiB", "--max-frames", "256"]);
    wait_until_ready(&server);
    let post = |path: &str, headers: &[(&str, &str)], body: &[u8]| server.post(path, headers, body);
    let harmonize = |query: &str, body: &[u8]| post(&format!("/v1/harmonize{query}"), &[], body);
    let (json, form) = (("content-type", "application/json"), ("content-type", "multipart/form-data"));
    let cases: Vec<(Answer, u16, &str, &str)> = vec![
        (harmonize("", b""), 400, "no-melody", "melody=twinkle"),
        (harmonize("?melody=../../etc/passwd", b""), 422, "no-melody", "twinkle"),
        (harmonize("?serch=greedy", b""), 400, "bad-option", "search"),
        (harmonize("?melody=twinkle&search=deep", b""), 400, "bad-option", "greedy"),
        (harmonize("?melody=twinkle&seed=-1", b""), 400, "bad-option", "seed"),
        (harmonize("?melody=twinkle&search=sample&temperature=0", b""), 400, "bad-option", "temperature"),
        (harmonize("?melody=twinkle&search=sample&top_p=2", b""), 400, "bad-option", "top_p"),
        (harmonize("?melody=twinkle&search=sample&variations=99", b""), 400, "bad-option", "variations"),
        (harmonize("?melody=twinkle&key=H", b""), 400, "bad-option", "key"),
        (harmonize("?melody=twinkle&ranges=60-81", b""), 400, "bad-option", "53-74"),
        (harmonize("?melody=twinkle&no_rules=maybe", b""), 400, "bad-option", "true or false"),
        (harmonize("?melody=twinkle&beam_width=8&look_ahead=5", b""), 400, "bad-option", "look_ahead"),
        (harmonize("?melody=twinkle&melody=twinkle", b""), 400, "bad-option", "twice"),
        (harmonize("?melody=twinkle&part=Oboe", b""), 422, "bad-melody", "Oboe"),
        (harmonize("?melody=twinkle", &melody("twinkle")), 400, "bad-option", "two melodies"),
        (harmonize("", b"not music"), 422, "bad-score", "the score"),
        (harmonize("", b"<score-partwise><part-list"), 422, "bad-score", "the score"),
        (harmonize("", &vec![b'<'; 200_000]), 413, "too-large", "100 KiB"),
        (harmonize("", long_melody(17).as_bytes()), 422, "too-long", "272"),
        (post("/v1/harmonize", &[json], b"[1]"), 400, "bad-json", "object"),
        (post("/v1/harmonize", &[json], b"{"), 400, "bad-json", "twinkle"),
        (post("/v1/harmonize", &[form], b"x"), 400, "bad-request", "boundary"),
        (post("/v1/harmonize", &[("content-type", "image/png")], b"x"), 415, "unsupported-type", "image/png"),
        (post("/v1/harmonize", &[("content-encoding", "gzip")], b"x"), 415, "unsupported-type", "gzip"),
        (post("/v1/compose", &[("accept", "image/png")], b""), 406, "not-acceptable", "audio/midi"),
        (post("/v1/compose", &[("sec-fetch-site", "cross-site")], b""), 403, "cross-site", "--allow-origin"),
        (post("/v1/compose?variations=2", &[("accept", "audio/midi")], b""), 400, "bad-option", "JSON"),
        (post("/v1/render", &[], b""), 400, "no-score", "score"),
        (server.get("/v1/harmonize"), 405, "wrong-method", "openapi"),
        (server.get("/v1/melodies/..%2f..%2fetc%2fpasswd"), 422, "no-melody", "twinkle"),
        (server.get("/../../etc/passwd"), 404, "not-found", "openapi"),
    ];
    for (answer, status, code, part) in cases {
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["code"].as_str()), (status, Some(code)), "{answer}");
        assert!(error.to_string().contains(part), "{error} does not say {part:?}");
    }
    assert_eq!(harmonize("", long_melody(16).as_bytes()).status, 200);
}

#[test]
fn who_comes_when_all_places_are_taken_is_told_to_come_back() {
    let house = House::new();
    let (_daemon, server) = served(&house, &["--max-requests", "1"]);
    wait_until_ready(&server);
    // It holds its place as long as its body is on the way.
    let half = server.begin("/v1/harmonize", &melody("twinkle"));
    wait_until("the first to have the place", || server.get("/metrics").text().contains("kapell_requests 1"));
    let refused = server.post("/v1/compose", &[], b"");
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"), "{refused}");
    assert_eq!(refused.json()["error"]["code"], "busy");
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(half.finish().status, 200);
    assert_eq!(server.post("/v1/compose", &[], b"").status, 200);
}

#[test]
fn a_body_that_never_ends_gives_its_place_back() {
    let house = House::new();
    let (_daemon, server) = served(&house, &["--max-requests", "1", "--client-timeout", "1s"]);
    wait_until_ready(&server);
    let answer = server.begin("/v1/harmonize", &melody("twinkle")).given_up();
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (408, &"slow-client".into()), "{answer}");
    server.post("/v1/compose?seed=1", &[], b"").ok();
}

#[test]
fn voices_are_held_to_the_rules_that_a_request_asks_for() {
    let house = House::new();
    let (_daemon, server) = served(&house, &[]);
    wait_until_ready(&server);
    let ask = |more: &str| server.post(&format!("/v1/harmonize?melody=twinkle{more}"), &[], b"").ok().json();
    let bass = |piece: &Value| -> Vec<u64> {
        let notes = piece["parts"][3]["notes"].as_array().unwrap();
        notes.iter().map(|note| note[2].as_u64().unwrap()).collect()
    };
    let (usual, high) = (ask(""), ask("&ranges=60-81,53-74,48-69,48-60"));
    assert!(bass(&high).iter().all(|midi| (48..=60).contains(midi)), "{:?}", bass(&high));
    assert_ne!(bass(&usual), bass(&high));
    let likelihood = |piece: &Value| piece["log_likelihood"].as_f64().unwrap();
    let free = ask("&search=greedy&no_rules=true");
    assert_ne!(likelihood(&free), likelihood(&ask("&search=greedy")));
    assert_eq!(ask("&look_ahead=1"), usual);
    ask("&beam_width=2&look_ahead=3");
}

#[test]
fn a_request_that_takes_too_long_is_given_up_and_so_is_one_whose_client_has_gone() {
    let house = House::new();
    let canceled = |server: &Server| {
        let metrics = server.get("/metrics").text();
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        value("kapell_jobs_canceled_total") >= 1 && value("kapell_jobs_running") == 0
    };
    let path = "/v1/harmonize?search=sample&variations=8&seed=1";
    let (_daemon, server) = served(&house, &["--request-timeout", "250ms", "--cores", "1"]);
    wait_until_ready(&server);
    wait_until("its pieces to be given up", || {
        let late = server.post(path, &[], long_melody(500).as_bytes());
        assert_eq!((late.status, &late.json()["error"]["code"]), (504, &"timed-out".into()), "{late}");
        canceled(&server)
    });

    let (_daemon, server) =
        started(&house, &["--model", house.path("model").to_str().unwrap(), "--cores", "1"], "b.log");
    wait_until_ready(&server);
    let half = server.begin(path, long_melody(500).as_bytes());
    let stream = half.send();
    wait_until("its pieces to begin", || !server.get("/metrics").text().contains("kapell_jobs_running 0"));
    drop(stream);
    wait_until("its pieces to be given up", || canceled(&server));
}

#[test]
fn many_at_once_get_the_same_bytes_as_one_alone() {
    let house = House::new();
    let (_daemon, server) = served(&house, &[]);
    wait_until_ready(&server);
    let paths: Vec<String> = (0..12)
        .map(|seed| match seed % 3 {
            0 => format!("/v1/compose?seed={seed}"),
            1 => format!("/v1/harmonize?melody=old_hundredth&search=sample&seed={seed}"),
            _ => "/v1/harmonize?melody=ode_to_joy&search=greedy".to_owned(),
        })
        .collect();
    let alone: Vec<Vec<u8>> = paths.iter().map(|path| server.post(path, &[], b"").ok().body).collect();
    let together: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let ask = |path: &String| {
            let (server, path) = (&server, path.clone());
            scope.spawn(move || server.post(&path, &[], b"").ok().body)
        };
        let asked: Vec<_> = paths.iter().map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(alone == together, "pieces depend on what is decoded beside them");
}

#[test]
fn what_was_asked_before_sigterm_is_answered_and_nothing_more_is_taken() {
    let house = House::new();
    let (mut daemon, server) = served(&house, &[]);
    wait_until_ready(&server);
    let half = server.begin("/v1/harmonize", &melody("twinkle"));
    daemon.signal(Signal::TERM);
    wait_until("the port to be closed", || server.connect().is_err());
    assert_eq!(half.finish().status, 200);
    assert_eq!(daemon.ended(), 0);
}

#[test]
fn a_port_in_use_and_a_folder_without_a_whole_model_end_the_command() {
    let house = House::new();
    let (_daemon, server) = served(&house, &[]);
    let dir = house.path("model");
    let serve = |model: &Path, http: &str| {
        house.run(&["serve", "--model", model.to_str().unwrap(), "--http", http, "--json"])
    };
    assert_eq!(serve(&dir, &server.0).fails(2).error()["code"], "port-in-use");
    let empty = house.path("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_eq!(serve(&empty, "127.0.0.1:0").fails(2).error()["code"], "not-found");
    std::fs::write(dir.join("vocab.json"), "[]").unwrap();
    assert_eq!(serve(&dir, "127.0.0.1:0").fails(7).error()["code"], "bad-model");
}
