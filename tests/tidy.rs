//! Holds the house together: the arrows between the crates, who may use what, and files that fit a head.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates a crate may depend on. Arrows point down only.
const ARROWS: &[(&str, &[&str])] = &[
    ("search", &[]),
    ("dispatch", &["search"]),
    ("music", &[]),
    ("model", &["music"]),
    ("rpc", &["search"]),
    ("coordinator", &["dispatch", "rpc", "search"]),
    ("worker", &["model", "music", "rpc", "search"]),
    ("serve", &["model", "music"]),
];

/// Packages that only these crates may use (tests of the root package may open a database).
const ONLY: &[(&str, &[&str])] = &[
    ("sqlx", &["coordinator"]),
    ("candle-core", &["model"]),
    ("candle-nn", &["model"]),
    ("quick-xml", &["music"]),
    ("midly", &["music"]),
    ("tonic-prost-build", &["rpc"]),
    ("axum", &["serve"]),
];

/// Crates that know no clock, no network, no disk and no event loop.
const PURE: &[&str] = &["search", "dispatch", "music"];
const IMPURE: &[&str] = &["std::fs", "std::net", "std::process", "std::thread", "Instant::now", "SystemTime"];

/// Lines of a file that a person can hold in mind, with room to finish a thought.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn all_files() -> Vec<PathBuf> {
    ["crates", "tests"].iter().flat_map(|dir| rust_files(&root().join(dir))).collect()
}

fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let table: toml::Table = toml::from_str(&fs::read_to_string(manifest).unwrap()).unwrap();
    let sections = ["dependencies", "build-dependencies", "dev-dependencies"];
    sections.iter().filter_map(|s| table.get(*s)?.as_table()).flat_map(|t| t.keys().cloned()).collect()
}

fn crate_names() -> Vec<String> {
    let dirs = fs::read_dir(root().join("crates")).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> = dirs
        .filter(|e| e.path().join("Cargo.toml").is_file())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_arrows_between_the_crates_point_down_only() {
    let known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let found = crate_names();
    assert_eq!(
        found.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        known,
        "a crate that ARROWS does not know, or the reverse"
    );
    for (name, allowed) in ARROWS {
        for dependency in dependencies(&root().join("crates").join(name).join("Cargo.toml")) {
            if let Some(ours) = dependency.strip_prefix("kapell-") {
                assert!(allowed.contains(&ours), "{name} may not depend on {ours}");
            }
        }
    }
}

#[test]
fn what_a_crate_has_to_itself_no_other_crate_uses() {
    for name in crate_names() {
        let used = dependencies(&root().join("crates").join(&name).join("Cargo.toml"));
        for (package, crates) in ONLY {
            assert!(
                !used.contains(*package) || crates.contains(&name.as_str()),
                "{name} may not use {package}"
            );
        }
    }
}

#[test]
fn the_pure_crates_touch_neither_clock_nor_disk_nor_network() {
    for name in PURE {
        for file in rust_files(&root().join("crates").join(name).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            for word in IMPURE {
                assert!(!text.contains(word), "{} uses {word}", file.display());
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_fits_a_head() {
    for file in all_files() {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} does not begin by saying what it is for", file.display());
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines: what is it really made of?", file.display());
    }
}

#[test]
fn unsafe_code_lives_in_the_kernels_only_and_in_the_way_to_a_simulated_disk() {
    let allowed = |f: &PathBuf| {
        f.components().any(|c| c.as_os_str() == "kernels") || f.ends_with("tests/promises/disk/vfs.rs")
    };
    for file in all_files().into_iter().filter(|f| !allowed(f)) {
        let text = fs::read_to_string(&file).unwrap();
        let word = concat!("unsafe", " {");
        assert!(
            !text.contains(word) && !text.contains(concat!("unsafe", " fn")),
            "{} is unsafe",
            file.display()
        );
    }
}

#[test]
fn sql_is_spoken_in_the_store_only() {
    for file in all_files().into_iter().filter(|f| {
        !f.components().any(|c| ["store", "store.rs", "tests"].iter().any(|s| c.as_os_str() == *s))
    }) {
        let text = fs::read_to_string(&file).unwrap();
        for word in [concat!("SELECT", " "), concat!("INSERT", " INTO"), concat!("UPDATE ", "trials")] {
            assert!(!text.contains(word), "{} speaks SQL: {word}", file.display());
        }
    }
}
