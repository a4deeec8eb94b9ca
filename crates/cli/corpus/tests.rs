//! Folders in, versions out; what is refused, and why.

use std::fs;
use std::path::Path;

use kapell_music::corpus::{Kind, PartOfSplit};
use kapell_music::exercises;
use kapell_music::write::write_musicxml;
use tempfile::TempDir;

use super::fetch::FETCHED;
use super::library::Library;
use super::{Added, CorpusError, add, fetch, load_from, read_split};
use crate::error::exit;

/// A library and a folder of exercises `1..=count` as scores.
fn setting(count: u32) -> (TempDir, Library) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    for index in 1..=count {
        put_exercise(dir.path(), index);
    }
    let library = Library::at(dir.path().join("library"));
    (dir, library)
}

fn put_exercise(dir: &Path, index: u32) {
    let text = write_musicxml(&exercises::score(5, index));
    fs::write(dir.join(format!("in/e{index:02}.musicxml")), text).unwrap();
}

fn add_all(dir: &TempDir, library: &Library) -> Added {
    add(library, "mine", &dir.path().join("in"), None, false).unwrap()
}

#[test]
fn a_folder_of_scores_becomes_a_corpus_that_loads_by_name() {
    let (dir, library) = setting(10);
    let added = add_all(&dir, &library);
    assert_eq!(added.unreadable, []);
    let loaded = load_from(&library, "mine").unwrap();
    assert_eq!(
        (&loaded.bytes, &loaded.digest, loaded.version),
        (&added.loaded.bytes, &added.loaded.digest, 1)
    );
    let split = loaded.corpus.statistics().split;
    assert_eq!([split.train.pieces, split.val.pieces, split.test.pieces], [8, 1, 1]);
}

#[test]
fn adding_the_same_again_makes_no_new_version() {
    let (dir, library) = setting(4);
    assert!(!add_all(&dir, &library).unchanged);
    let again = add_all(&dir, &library);
    assert!(again.unchanged);
    assert_eq!(again.loaded.version, 1);
}

#[test]
fn a_new_version_keeps_the_parts_of_known_pieces_even_of_those_that_were_away() {
    let (dir, library) = setting(20);
    let first = add_all(&dir, &library).loaded.corpus;
    let tested = first.pieces.iter().find(|p| p.part == PartOfSplit::Test).unwrap().id.clone();
    let file = dir.path().join("in").join(format!("{tested}.musicxml"));
    let text = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(add_all(&dir, &library).loaded.version, 2);
    fs::write(&file, text).unwrap();
    (21..=40).for_each(|index| put_exercise(dir.path(), index));
    let third = add_all(&dir, &library).loaded;
    assert_eq!(third.version, 3);
    for piece in &first.pieces {
        assert_eq!(third.corpus.piece(&piece.id).unwrap().part, piece.part, "{}", piece.id);
    }
    assert_eq!(load_from(&library, "mine:1").unwrap().corpus, first);
    let missing = load_from(&library, "mine:9").unwrap_err();
    assert_eq!((missing.exit_code(), missing.code()), (exit::USAGE, "corpus-not-found"));
}

#[test]
fn every_file_that_cannot_be_read_is_told_with_its_reason() {
    let (dir, library) = setting(3);
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join("in").join(name), bytes).unwrap();
    put("cut.mxl", b"PK\x03\x04");
    put("empty.xml", b"");
    put("notes.pdf", b"%PDF");
    put("words.txt", b"words");
    put(".hidden", b"");
    put("e01.xml", &fs::read(dir.path().join("in/e01.musicxml")).unwrap());
    let added = add_all(&dir, &library);
    let files: Vec<&str> = added.unreadable.iter().map(|u| u.file.as_str()).collect();
    // Of two files with one name the first is taken: e01.musicxml.
    assert_eq!(files, ["cut.mxl", "e01.xml", "empty.xml", "notes.pdf", "words.txt"]);
    assert!(added.unreadable.iter().all(|u| !u.reason.is_empty() && !u.reason.starts_with(&u.file)));
    assert_eq!(added.loaded.corpus.pieces.len(), 3);
}

#[test]
fn strict_adds_nothing_where_a_file_cannot_be_read() {
    let (dir, library) = setting(3);
    fs::write(dir.path().join("in/cut.mxl"), b"PK").unwrap();
    let error = add(&library, "mine", &dir.path().join("in"), None, true).unwrap_err();
    assert_eq!((error.exit_code(), error.code()), (exit::USAGE, "unreadable-files"));
    assert!(error.to_string().contains("cut.mxl"), "{error}");
    assert!(library.names().unwrap().is_empty());
}

#[test]
fn a_folder_of_text_becomes_a_corpus_of_characters() {
    let (dir, library) = setting(0);
    for (name, text) in [("a.txt", "abc\n"), ("b.txt", "cab\n"), ("c.txt", "bca\n")] {
        fs::write(dir.path().join("in").join(name), text).unwrap();
    }
    let corpus = add_all(&dir, &library).loaded.corpus;
    assert_eq!((corpus.kind, corpus.vocabulary.len(), corpus.pieces.len()), (Kind::Text, 6, 3));
}

#[test]
fn a_given_split_is_followed_and_must_name_pieces_that_are_there() {
    let (dir, library) = setting(6);
    let file = dir.path().join("split.json");
    fs::write(&file, r#"{"pieces": {"e01": "test", "e02": "val"}}"#).unwrap();
    let corpus = add(&library, "mine", &dir.path().join("in"), Some(&file), false).unwrap().loaded.corpus;
    assert_eq!(corpus.piece("e01").unwrap().part, PartOfSplit::Test);
    assert_eq!(corpus.piece("e02").unwrap().part, PartOfSplit::Val);
    fs::write(&file, "e01\ttrain\nnobody\ttest\n").unwrap();
    let error = add(&library, "mine", &dir.path().join("in"), Some(&file), false).unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
    assert_eq!(error.exit_code(), exit::USAGE);
}

#[test]
fn a_bad_split_file_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("split");
    for (text, told) in [
        ("a\ttrain\nb dev\n", "line 2"),
        ("a\tdev\n", "\"dev\""),
        ("a\ttrain\na\tval\n", "twice"),
        ("{\"a\": \"dev\"}", "dev"),
        ("{\"a\": ", "EOF"),
    ] {
        fs::write(&file, text).unwrap();
        let error = read_split(&file).unwrap_err();
        assert!(error.to_string().contains(told), "{text:?}: {error}");
    }
}

#[test]
fn names_that_are_taken_or_no_names_are_refused() {
    let (dir, library) = setting(1);
    for (name, code) in [
        ("chorales", "built-in-corpus"),
        ("exercises", "built-in-corpus"),
        ("../up", "bad-corpus-name"),
        ("archives", "bad-corpus-name"),
        ("Big", "bad-corpus-name"),
        ("a:b", "bad-corpus-name"),
        ("", "bad-corpus-name"),
    ] {
        let error = add(&library, name, &dir.path().join("in"), None, false).unwrap_err();
        assert_eq!((error.code(), error.exit_code()), (code, exit::USAGE), "{name}");
    }
}

#[test]
fn an_unknown_corpus_is_told_with_the_nearest_name() {
    let (_dir, library) = setting(0);
    let error = load_from(&library, "exercise").unwrap_err();
    assert_eq!(error.to_string(), "there is no corpus \"exercise\" (did you mean \"exercises\"?)");
    let error = load_from(&library, "../../etc").unwrap_err();
    assert_eq!(error.to_string(), "there is no corpus \"../../etc\"");
}

#[test]
fn a_blob_that_was_tampered_with_is_an_integrity_error() {
    let (dir, library) = setting(3);
    add_all(&dir, &library);
    let blob = dir.path().join("library/mine/1.corpus");
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, bytes).unwrap();
    let error = load_from(&library, "mine").unwrap_err();
    assert_eq!((error.exit_code(), error.code()), (exit::INTEGRITY, "damaged"));
}

#[test]
fn an_archive_with_another_hash_is_not_taken() {
    let (dir, library) = setting(0);
    let file = dir.path().join("music21-10.5.1-py3-none-any.whl");
    fs::write(&file, b"something else").unwrap();
    for fetched in FETCHED {
        let error = fetch(&library, fetched.name, Some(&file)).unwrap_err();
        assert_eq!((error.exit_code(), error.code()), (exit::INTEGRITY, "hash-mismatch"));
        assert!(!fetched.is_here(&library));
    }
}

#[test]
fn what_is_not_fetched_says_so() {
    let (_dir, library) = setting(0);
    assert!(matches!(fetch(&library, "exercises", None), Err(CorpusError::NotFetched { .. })));
    assert!(matches!(fetch(&library, "nothing", None), Err(CorpusError::UnknownCorpus { .. })));
}
