//! Which files of a music21 release are chorales, on small archives of our own that are laid out as it is.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use kapell_music::edition::{Edition, EditionError, chorales};
use zip::write::SimpleFileOptions;

fn wheel(files: &[&str]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for name in files {
        zip.start_file(*name, SimpleFileOptions::default()).expect("a member's head");
        zip.write_all(name.as_bytes()).expect("a member");
    }
    zip.finish().expect("a zip").into_inner()
}

fn source_archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, format!("music21-2.2.1/{name}"), content.as_bytes()).expect("a member");
    }
    tar.into_inner().and_then(GzEncoder::finish).expect("an archive")
}

#[test]
fn a_wheel_gives_its_scores_by_id_and_says_what_it_leaves_out() {
    let archive = wheel(&[
        "music21/corpus/bach/",
        "music21/corpus/bach/bwv69.6.xml",
        "music21/corpus/bach/bwv112.5-sc.mxl",
        "music21/corpus/bach/bwv112.5.mxl",
        "music21/corpus/bach/bwv846.mxl",
        "music21/corpus/bach/bwv277.krn",
        "music21/corpus/bach/choraleAnalyses/riemenschneider001.rntxt",
        "music21/corpus/mozart/k80/movement1.mxl",
        "music21/corpus/chorales.py",
    ]);
    let listing = chorales(&archive, Edition::Music21V10).expect("a listing");
    let ids: Vec<&str> = listing.chorales.iter().map(|score| score.id.as_str()).collect();
    assert_eq!(ids, ["bwv112.5", "bwv112.5-sc", "bwv69.6"]);
    assert_eq!(listing.chorales[2].file, "bwv69.6.xml");
    assert_eq!(listing.chorales[2].bytes, b"music21/corpus/bach/bwv69.6.xml");
    let left_out: Vec<(&str, &str)> =
        listing.left_out.iter().map(|file| (file.file.as_str(), file.why)).collect();
    let expected = [
        ("bwv277.krn", "a second copy, in Humdrum"),
        ("bwv846.mxl", "a prelude for keyboard, not a chorale"),
    ];
    assert_eq!(left_out, expected);
}

#[test]
fn of_a_source_archive_only_the_numbered_chorales_count() {
    let table = "class Other:\n  1---||---bwv1.6---||---no---||---1\nclass ChoraleListRKBWV(object):\n\
                 \x20 1---||---269---||---Aus meines Herzens Grunde---||---30\n  2---||---347---||---Title---||---176\n";
    let archive = source_archive(&[
        ("music21/corpus/chorales.py", table),
        ("music21/corpus/bach/bwv269.mxl", "score"),
        ("music21/corpus/bach/bwv1.6.mxl", "score"),
    ]);
    let listing = chorales(&archive, Edition::Music21V2).expect("a listing");
    assert_eq!(listing.chorales.iter().map(|score| score.id.as_str()).collect::<Vec<_>>(), ["bwv269"]);
    assert_eq!(listing.left_out.len(), 1);
    assert_eq!(listing.left_out[0].file, "bwv1.6.mxl");
}

#[test]
fn other_archives_are_refused_with_the_name_of_the_right_one() {
    let message = |archive: &[u8], edition| chorales(archive, edition).map_err(|error| error.to_string());
    let wrong = message(b"PK", Edition::Music21V10).expect_err("no zip was listed");
    assert!(wrong.starts_with("this is no music21 wheel: "), "{wrong}");
    assert!(matches!(chorales(&wheel(&["a.txt"]), Edition::Music21V10), Err(EditionError::NoScores(_))));
    let bare = source_archive(&[("music21/corpus/bach/bwv269.mxl", "score")]);
    let no_table = message(&bare, Edition::Music21V2).expect_err("no table was found");
    assert!(no_table.contains("hand over music21-2.2.1.tar.gz"), "{no_table}");
    assert!(matches!(chorales(b"\x1f\x8bnothing", Edition::Music21V2), Err(EditionError::Archive(_))));
    for length in [0, 10, bare.len() / 2] {
        assert!(
            chorales(&bare[..length], Edition::Music21V2).is_err(),
            "the first {length} bytes were listed"
        );
    }
}
