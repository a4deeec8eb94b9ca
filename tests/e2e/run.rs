//! `kapell run` end to end: from a study file to a harmonised melody, again, interrupted, and refused.

use crate::house::{House, has_files, study, wait_until};

#[test]
fn a_run_trains_promotes_and_harmonises_and_a_second_one_shows_the_same_results() {
    let house = House::new();
    let file = house.write("s.toml", &study("small", "hidden = [8, 12]\ndropout = [0.0, 0.2]", "epochs = 2"));
    let args = ["run", file.to_str().unwrap(), "--json"];
    let first = house.run(&args).ok().one();
    assert_eq!(first["study"]["coverage"]["complete"], 4);
    assert_eq!(first["model"]["alias"], "champion");
    for file in first["harmonized"].as_array().unwrap() {
        assert!(std::fs::metadata(file.as_str().unwrap()).unwrap().len() > 500);
    }
    let xml = std::fs::read(first["harmonized"][0].as_str().unwrap()).unwrap();
    let score = kapell_music::read::read_score(&xml, "twinkle.musicxml").unwrap();
    assert_eq!(score.parts.len(), 4);

    let second = house.run(&args).ok().one();
    assert_eq!(first["study"]["best"], second["study"]["best"]);
    assert_eq!(first["model"], second["model"]);

    let dir = first["model"]["dir"].as_str().unwrap();
    let out = house.path("own.musicxml");
    let own = house
        .run(&["harmonize", "ode_to_joy", "-o", out.to_str().unwrap(), "--model", dir, "--json"])
        .ok()
        .one();
    assert_eq!(own["melody_kept"], true);
    // Without a coordinator, and without a name: the champion that the run left.
    house.run(&["harmonize", "twinkle", "-o", out.to_str().unwrap()]).ok();
    let piece = house.path("new.musicxml");
    house.run(&["compose", "-o", piece.to_str().unwrap(), "--seed", "3", "--json"]).ok();
}

#[test]
fn the_same_name_with_other_content_is_refused_with_the_difference() {
    let house = House::new();
    let file = house.write("s.toml", &study("small", "hidden = [8]", "epochs = 1"));
    house.run(&["run", file.to_str().unwrap()]).ok();
    let other = house.write("o.toml", &study("small", "hidden = [8, 9]", "epochs = 1"));
    let refused = house.run(&["run", other.to_str().unwrap(), "--json"]).fails(2).error();
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("space.hidden: [8] -> [8, 9]"), "{message}");
}

#[test]
fn an_interrupted_run_goes_on_with_the_same_command() {
    let house = House::new();
    let file =
        house.write("s.toml", &study("long", "hidden = [24, 32]\ndropout = [0.0, 0.1]", "epochs = 12"));
    let args = ["run", file.to_str().unwrap(), "--json"];
    let log = std::fs::File::create(house.path("run.log")).unwrap();
    let child = house
        .command(&args)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut run = crate::house::Daemon { child };
    let read = || std::fs::read_to_string(house.path("run.log")).unwrap();
    wait_until("a second epoch", || read().contains("epoch 2/12"));
    run.signal(rustix::process::Signal::INT);
    assert_eq!(run.ended(), 130, "{}", read());
    assert!(read().contains("interrupted"), "{}", read());

    let whole = house.run(&args).ok().one();
    assert_eq!(whole["study"]["coverage"]["complete"], 4);
    assert_eq!(whole["study"]["coverage"]["lost"], 0);
    assert!(has_files(&house.path(".local/share/kapellmeister/models")));
}
