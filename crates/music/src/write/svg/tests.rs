//! The picture is valid XML that says and shows what the score has.

use super::*;
use crate::read::read_score;
use crate::score::{KeySignature, Lyric, Mode, Note, Part, Syllabic, Syllable};
use crate::write::spelling::spell;
use quick_xml::Reader;
use quick_xml::events::Event;

const Q: i64 = TICKS_PER_QUARTER;

fn note(onset: i64, duration: i64, midi: u8) -> Note {
    Note { onset, duration, pitch: spell(midi, 1), ..Note::default() }
}

fn words(text: &str, syllabic: Syllabic) -> Lyric {
    let syllable = Syllable { text: text.to_owned(), syllabic: Some(syllabic), elision: None };
    Lyric { verse: "1".to_owned(), syllables: vec![syllable], ..Lyric::default() }
}

fn bar(number: usize, start: i64, duration: i64) -> Measure {
    Measure {
        number: number.to_string(),
        start,
        duration,
        time: (4, 4),
        key: KeySignature { fifths: 1, mode: Some(Mode::Major) },
        ..Measure::default()
    }
}

fn score(bars: usize) -> Score {
    let places = || (0..bars).map(|at| i64::try_from(at).unwrap_or(0) * 4 * Q);
    let part = |(name, midi): (&str, u8)| Part {
        name: name.to_owned(),
        notes: places().map(|start| note(start, 4 * Q, midi)).collect(),
        ..Part::default()
    };
    Score {
        title: Some("Now & <then>".into()),
        parts: [("Soprano", 74), ("Alto", 67), ("Tenor", 62), ("Bass", 43)].map(part).to_vec(),
        measures: places().enumerate().map(|(at, start)| bar(at + 1, start, 4 * Q)).collect(),
        ..Score::default()
    }
}

/// How many elements of each name there are; the document must be well-formed.
fn elements(svg: &str) -> std::collections::BTreeMap<String, usize> {
    let mut reader = Reader::from_str(svg);
    reader.config_mut().check_end_names = true;
    let mut counts = std::collections::BTreeMap::new();
    loop {
        match reader.read_event().expect("well-formed XML") {
            Event::Start(element) | Event::Empty(element) => {
                let name = element.name().as_ref().to_owned();
                *counts.entry(name).or_insert(0) += 1;
            }
            Event::Eof => return counts,
            _ => {}
        }
    }
}

/// Every system names its four voices.
fn systems_of(svg: &str) -> usize {
    svg.matches("class=\"letter ").count() / 4
}

#[test]
fn the_picture_is_well_formed_and_tells_its_content_in_words() {
    let svg = write_svg(&score(16));
    assert!(elements(&svg)["rect"] > 64 + 4);
    for told in [
        "<title id=\"roll-title\">Now &amp; &lt;then&gt;</title>",
        "A piano roll of 16 bars in G major, 4/4.",
        "Soprano: 16 notes from D5 to D5.",
        "aria-labelledby=\"roll-title roll-description\"",
        "prefers-color-scheme:dark",
    ] {
        assert!(svg.contains(told), "{told}");
    }
}

#[test]
fn sixteen_bars_fit_one_system_and_more_are_wrapped() {
    for (bars, systems) in [(1, 1), (16, 1), (17, 2), (32, 2), (33, 3), (500, 32)] {
        assert_eq!(systems_of(&write_svg(&score(bars))), systems, "{bars} bars");
    }
    let mut sung = score(16);
    sung.parts[0].notes[0].notation.lyrics = vec![words("Glo", Syllabic::Begin)];
    let svg = write_svg(&sung);
    assert_eq!(systems_of(&svg), 2, "words want more room");
    assert!(svg.contains(">Glo-</text>"));
}

#[test]
fn everything_lies_within_the_picture() {
    for bars in [1, 3, 17] {
        let svg = write_svg(&score(bars));
        let numbers = |name: &str| -> Vec<f64> {
            let attribute = format!(" {name}=\"");
            let found = svg.split(&attribute).skip(1);
            found.filter_map(|rest| rest.split('"').next()?.parse().ok()).collect()
        };
        let height = numbers("height")[0];
        assert!(numbers("y").iter().chain(&numbers("y2")).all(|y| (0.0..=height).contains(y)));
        assert!(numbers("x").iter().chain(&numbers("x2")).all(|x| (0.0..=WIDTH).contains(x)));
    }
}

#[test]
fn tied_notes_are_one_bar_and_a_unison_is_two() {
    let bars = |score: &Score| write_svg(score).matches("<rect x=").count();
    let mut tied = score(2);
    assert_eq!(bars(&tied), 8);
    tied.parts[0].notes[0].tie_to = true;
    tied.parts[0].notes[1].tie_from = true;
    assert_eq!(bars(&tied), 7);
    let mut unison = score(1);
    unison.parts[1].notes[0].pitch = unison.parts[0].notes[0].pitch;
    let svg = write_svg(&unison);
    assert!(svg.contains("height=\"7.2\"") && svg.contains("height=\"3.8\""), "one within the other");
}

#[test]
fn fermatas_pickups_and_repeats_are_shown() {
    let mut piece = score(2);
    piece.measures[0] =
        Measure { implicit: true, number: "0".into(), repeat_start: true, ..bar(0, 0, 4 * Q) };
    piece.measures[1].repeat_end = true;
    piece.parts.iter_mut().for_each(|part| part.notes[1].fermata = true);
    let svg = write_svg(&piece);
    assert_eq!(svg.matches("<title>fermata</title>").count(), 1);
    assert_eq!(svg.matches("r=\"2\"").count(), 4);
    assert!(svg.contains(">2</text>") && !svg.contains(">0</text>"));
}

#[test]
fn a_score_of_nothing_is_an_empty_picture() {
    let svg = write_svg(&Score::default());
    assert!(elements(&svg).contains_key("svg") && svg.contains("Untitled"));
}

#[test]
fn the_picture_of_a_read_melody_has_its_words() {
    let xml = crate::write::write_musicxml(&{
        let mut piece = score(2);
        piece.parts[0].notes[1].notation.lyrics = vec![words("a<b", Syllabic::Single)];
        piece
    });
    let read = read_score(xml.as_bytes(), "piece").expect("our own MusicXML");
    assert!(write_svg(&read).contains(">a&lt;b</text>"));
}
