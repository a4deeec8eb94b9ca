//! The report of `examples/reproduction`: its verdict, tables and plots on made-up losses, and on a real search.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::house::{House, Ran, study};

/// PyTorch's losses by epoch, as the README of the example has them.
const PYTORCH: [(u64, f64); 7] =
    [(1, 0.867), (2, 0.556), (4, 0.438), (8, 0.397), (11, 0.378), (16, 0.374), (30, 0.372)];

/// Runs the report in a house of its own.
fn report(house: &House, args: &[&str]) -> Ran {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/reproduction/report.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).args(["--kapell", env!("CARGO_BIN_EXE_kapell")]).args(args);
    command.env("HOME", house.home.path()).env_remove("XDG_DATA_HOME").stdin(Stdio::null());
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("the README asks for python3, which does not start: {e}"));
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// PyTorch's curve, straight between its points.
fn pytorch(epoch: u64) -> f64 {
    let after = PYTORCH.iter().position(|&(at, _)| at >= epoch).unwrap();
    let (to, high) = PYTORCH[after];
    let (from, low) = PYTORCH[after.saturating_sub(1)];
    let share = if to == from { 0.0 } else { (epoch - from) as f64 / (to - from) as f64 };
    low + (high - low) * share
}

/// A trial as `kapell trial show --json` prints it, as far as the report reads it.
fn trial(number: u64, changed: &Value, epochs: u64, val_loss: impl Fn(u64) -> f64) -> Value {
    let mut config = json!({
        "layers": 3, "hidden": 256, "embedding": 32, "seq_len": 128, "dropout": 0.3, "batch_size": 50,
        "learning_rate": 0.002, "lr_decay": {"every": 5, "factor": 0.5, "reset_moments": true},
        "grad_clip": {"kind": "value", "max": 5.0}, "batch_norm": true, "dtype": "f32", "seed": 1,
    });
    config.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    let measured = (1..=epochs).map(|epoch| {
        json!({
            "epoch": epoch, "train_loss": 0.25 + 0.8 / epoch as f64, "val_loss": val_loss(epoch),
            "seconds": 60.0, "weights_digest": format!("sha256:{epoch:064x}"),
        })
    });
    json!({
        "id": format!("made-up/{number}"), "config": config, "state": "COMPLETE",
        "program_version": "kapell 0.1.0", "attempts_log": [{"numerics": "made-up"}],
        "measurements": measured.collect::<Vec<_>>(),
    })
}

/// Saves a study as the report does.
fn save(house: &House, name: &str, trials: &[Value]) -> PathBuf {
    let out = house.path("out");
    std::fs::create_dir_all(&out).unwrap();
    let lines: Vec<String> =
        std::iter::once(&json!({"corpus": "bachbot"})).chain(trials).map(Value::to_string).collect();
    std::fs::write(out.join(format!("{name}.jsonl")), lines.join("\n") + "\n").unwrap();
    out
}

/// Three seeds, of which one is off PyTorch's curve by `off` from the fifth epoch on.
fn seeds(off: f64) -> [Value; 3] {
    [1, 2, 3].map(|seed| {
        let off = if seed == 3 { off } else { 0.0 };
        trial(seed, &json!({ "seed": seed }), 30, move |e| pytorch(e) + if e > 4 { off } else { 0.0 })
    })
}

fn redraw(house: &House, out: &Path) -> Ran {
    report(house, &["--redraw", "--out", out.to_str().unwrap()])
}

/// The rows of a CSV by the names in its head.
fn rows(path: &Path) -> Vec<serde_json::Map<String, Value>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap();
    let row = |line: Vec<&str>| {
        assert_eq!(line.len(), head.len());
        head.iter()
            .zip(line)
            .map(|(name, value)| ((*name).to_owned(), value.parse::<f64>().map_or(Value::Null, Value::from)))
            .collect()
    };
    lines.map(row).collect()
}

/// Points of the series of that name in a picture.
fn series(svg: &str, name: &str) -> Vec<(f64, f64)> {
    let end = svg.find(&format!("<title>{name}</title></polyline>")).unwrap_or_else(|| panic!("no {name}"));
    let start = svg[..end].rfind("points=\"").unwrap() + "points=\"".len();
    let points = svg[start..].split('"').next().unwrap();
    points
        .split(' ')
        .map(|point| point.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap())
        .collect()
}

/// What every viewer asks of a picture: it is XML, by Python's parser, and refers to nothing outside itself.
fn assert_self_contained(path: &Path) {
    let check = "import sys, xml.etree.ElementTree as e; r = e.parse(sys.argv[1]).getroot(); \
                 assert r.tag == '{http://www.w3.org/2000/svg}svg', r.tag; \
                 assert not [a for n in r.iter() for a in n.attrib if 'href' in a]";
    let ran = Command::new("python3").args(["-c", check]).arg(path).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn a_report_says_by_its_exit_code_whether_the_mean_of_the_seeds_matches() {
    let house = House::new();
    // A third of what one seed is off: 0.0147 is let through, 0.0153 is not.
    for (off, code) in [(0.0, 0), (0.044, 0), (-0.044, 0), (0.046, 3), (-0.046, 3)] {
        let out = save(&house, "seeds", &seeds(off));
        let ran = redraw(&house, &out).fails(code);
        assert_eq!(ran.stdout.contains("does not match"), code == 3, "{}", ran.stdout);
        let page = std::fs::read_to_string(out.join("README.md")).unwrap();
        let row = page.lines().find(|line| line.starts_with("| 16 |")).unwrap();
        let within = if code == 3 { "| no |" } else { "| yes |" };
        assert!(row.contains(&format!("{:+.4}", off / 3.0)) && row.contains(within), "{row}");
    }
}

#[test]
fn only_the_epochs_from_the_fourth_on_are_asked_to_match() {
    let house = House::new();
    let early = seeds(0.0).map(|mut trial| {
        trial["measurements"][1]["val_loss"] = json!(0.7);
        trial
    });
    redraw(&house, &save(&house, "seeds", &early)).ok();
    let fourth = seeds(0.0).map(|mut trial| {
        trial["measurements"][3]["val_loss"] = json!(0.46);
        trial
    });
    redraw(&house, &save(&house, "seeds", &fourth)).fails(3);
}

#[test]
fn a_search_that_goes_on_is_not_judged_and_another_model_is_not_compared() {
    let house = House::new();
    let mut going_on = seeds(0.0);
    going_on[2]["state"] = json!("RUNNING");
    going_on[2]["measurements"].as_array_mut().unwrap().truncate(9);
    let ran = redraw(&house, &save(&house, "seeds", &going_on)).fails(6);
    assert!(ran.stdout.contains("1 of 3 trials are not complete, 2 of 5 epochs"), "{}", ran.stdout);

    let mut other = seeds(0.0);
    other[0]["config"]["hidden"] = json!(128);
    let ran = redraw(&house, &save(&house, "seeds", &other)).fails(3);
    assert!(ran.stdout.contains("hidden is 128, not 256"), "{}", ran.stdout);

    let out = house.path("empty");
    assert!(redraw(&house, &out).fails(6).stdout.contains("has not been run"));
    let broken = house.path("out").join("seeds.jsonl");
    std::fs::write(broken, "{\"corpus\": \"bachbot\"}\n{}\n").unwrap();
    let ran = redraw(&house, &house.path("out")).fails(2);
    assert!(ran.stderr.contains("not what this program saves"), "{}", ran.stderr);
}

#[test]
fn tables_and_plots_show_every_seed_their_mean_and_what_was_published() {
    let house = House::new();
    let out = save(&house, "seeds", &seeds(0.03));
    redraw(&house, &out).ok();
    let table = rows(&out.join("seeds.csv"));
    assert_eq!(table.len(), 30);
    let at = |name: &str| table[15][name].as_f64();
    assert_eq!(
        (at("epoch"), at("validation_seed_3"), at("validation_mean")),
        (Some(16.0), Some(0.404), Some(0.384))
    );
    assert_eq!(
        (at("train_mean"), at("validation_PyTorch"), at("difference")),
        (Some(0.3), Some(0.374), Some(0.01))
    );
    assert_eq!(table[16]["difference"], Value::Null);

    let svg = std::fs::read_to_string(out.join("seeds.svg")).unwrap();
    assert_self_contained(&out.join("seeds.svg"));
    let mean = series(&svg, "validation, mean of 3 seeds");
    assert_eq!(mean.len(), 30);
    assert!(mean.is_sorted_by(|a, b| a.0 < b.0), "epochs go to the right: {mean:?}");
    assert!(mean[0].1 < mean[29].1, "a smaller loss is lower, so its y is larger: {mean:?}");
    // The mean lies between the seeds, a third of the way.
    let (one, three) = (series(&svg, "validation, seed 1"), series(&svg, "validation, seed 3"));
    assert!(three[20].1 < mean[20].1 && mean[20].1 < one[20].1);
    for level in ["published: validation 0.477", "published: training 0.324"] {
        assert!(svg.contains(&format!("<title>{level}</title></line>")), "{level}");
    }
    // What stands at the right edge: two means, two published levels and PyTorch's end, none on top of another.
    let labels = svg.lines().filter(|line| line.starts_with("<text x=\"731.0\""));
    let mut heights: Vec<f64> = labels
        .map(|line| line.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
        .collect();
    heights.sort_by(f64::total_cmp);
    assert_eq!(heights.len(), 5);
    assert!(heights.windows(2).all(|pair| pair[1] - pair[0] > 14.0), "{heights:?}");
    assert_eq!(svg.matches("class=\"mark\"").count(), PYTORCH.len());
    assert_eq!(svg.matches("class=\"bar\"").count(), 5);
}

#[test]
fn the_dropouts_are_drawn_in_order_with_training_dashed() {
    let house = House::new();
    let rates = [0.5, 0.0, 0.3];
    let trials: Vec<Value> = (1..)
        .zip(rates)
        .map(|(number, rate)| {
            trial(number, &json!({ "dropout": rate }), 15, move |e| pytorch(e) + (rate - 0.3) * (rate - 0.3))
        })
        .collect();
    let out = save(&house, "dropout", &trials);
    // Without the seeds there is nothing to judge.
    redraw(&house, &out).fails(6);
    let head = std::fs::read_to_string(out.join("dropout.csv")).unwrap();
    let head = head.lines().next().unwrap();
    assert!(head.ends_with("validation_dropout_0.0,validation_dropout_0.3,validation_dropout_0.5"), "{head}");
    let svg = std::fs::read_to_string(out.join("dropout.svg")).unwrap();
    assert_self_contained(&out.join("dropout.svg"));
    for rate in ["0.0", "0.3", "0.5"] {
        assert_eq!(series(&svg, &format!("validation, dropout {rate}")).len(), 15);
        assert_eq!(series(&svg, &format!("training, dropout {rate}")).len(), 15);
    }
    assert_eq!(svg.lines().filter(|line| line.contains("<title>training, dropout")).count(), 6);
    let dashed = |name: &str| {
        let lines: Vec<&str> =
            svg.lines().filter(|line| line.contains("polyline") && line.contains(name)).collect();
        lines.iter().filter(|line| line.contains("stroke-dasharray")).count()
    };
    assert_eq!((dashed("<title>training, dropout"), dashed("<title>validation, dropout")), (3, 0));
    let places = series(&svg, "validation");
    assert!(places[1].1 > places[0].1 && places[1].1 > places[2].1, "0.3 is the lowest: {places:?}");
}

#[test]
fn the_report_reads_a_finished_study_from_its_data_folder_and_a_running_one_from_its_coordinator() {
    let mut house = House::new();
    let file = house.write("s.toml", &study("small", "seed = [1, 2]", "hidden = 8\nepochs = 2"));
    house.run(&["run", file.to_str().unwrap(), "--data-dir", house.path("data").to_str().unwrap()]).ok();
    let (data, out) = (house.path("data"), house.path("out"));
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let ran = report(&house, &["--data-dir", data, "--seeds", "small", "--out", out]).fails(3);
    assert!(ran.stdout.contains("corpus is exercises, not bachbot"), "{}", ran.stdout);
    assert!(ran.stderr.contains("no study bachbot-dropout"), "{}", ran.stderr);
    let saved = std::fs::read_to_string(house.path("out").join("seeds.jsonl")).unwrap();
    let table = rows(&house.path("out").join("seeds.csv"));

    let coordinator = house.coordinator();
    let shown = house.trial("small/2");
    assert_eq!(
        table[1]["validation_seed_2"].as_f64().map(|v| (v * 1e6).round()),
        shown["measurements"][1]["val_loss"].as_f64().map(|v| (v * 1e6).round())
    );
    let held = report(&house, &["--data-dir", data, "--out", out]).fails(2);
    assert!(held.stderr.contains("--coordinator URL"), "{}", held.stderr);
    let asked = ["--coordinator", &house.url, "--seeds", "small", "--out", out];
    report(&house, &asked).fails(3);
    assert_eq!(saved, std::fs::read_to_string(house.path("out").join("seeds.jsonl")).unwrap());
    drop(coordinator);
    report(&house, &asked).fails(75);
    report(&house, &["--data-dir", out]).fails(2);
}
