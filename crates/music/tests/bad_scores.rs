//! Files that are no score, damaged or hostile: each is refused with a typed error that says where and what to do,
//! and nothing panics or grows without bound.

use std::io::{Cursor, Write};

use kapell_music::encode::encode_chorale;
use kapell_music::read::{ReadError, SCORE_BYTES_MAX, read_score};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;

const SCORE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 3.1 Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">
<score-partwise version="3.1">
  <part-list><score-part id="P1"><part-name>Soprano</part-name></score-part>
    <score-part id="P2"><part-name>Bass</part-name></score-part></part-list>
  <part id="P1"><measure number="1" implicit="no">
    <attributes><divisions>4</divisions><key><fifths>1</fifths><mode>major</mode></key>
      <time><beats>4</beats><beat-type>4</beat-type></time>
      <transpose><diatonic>-1</diatonic><chromatic>-2</chromatic><octave-change>0</octave-change></transpose></attributes>
    <direction><sound tempo="96.5"/></direction>
    <note><grace/><pitch><step>B</step><octave>4</octave></pitch><voice>1</voice></note>
    <note><pitch><step>C</step><alter>1</alter><octave>5</octave></pitch><duration>8</duration><tie type="start"/>
      <voice>1</voice><lyric><syllabic>single</syllabic><text>Nun</text></lyric></note>
    <note><chord/><pitch><step>E</step><octave>5</octave></pitch><duration>8</duration><voice>1</voice></note>
    <note><pitch><step>C</step><alter>1</alter><octave>5</octave></pitch><duration>8</duration><tie type="stop"/>
      <notations><fermata/></notations></note>
    <backup><duration>16</duration></backup><forward><duration>4</duration></forward>
    <note><rest/><duration>12</duration><voice>2</voice></note>
    <barline location="right"><repeat direction="backward"/></barline></measure></part>
  <part id="P2"><measure number="1"><attributes><divisions>1</divisions></attributes>
    <note><pitch><step>A</step><octave>2</octave></pitch><duration>4</duration></note></measure></part>
</score-partwise>"#;

fn error(bytes: &[u8]) -> ReadError {
    read_score(bytes, "tune.xml").expect_err("this was read as a score")
}

fn message(text: &str) -> String {
    error(text.as_bytes()).to_string()
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default()).expect("a member's head");
        zip.write_all(bytes).expect("a member");
    }
    zip.finish().expect("a zip").into_inner()
}

#[test]
fn the_sound_score_that_the_others_are_made_from_is_read() {
    let score = read_score(SCORE.as_bytes(), "tune.xml").expect("a score");
    assert_eq!(score.parts.iter().map(|part| part.notes.len()).collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn a_file_of_300_megabytes_is_refused_by_its_size() {
    let error = error(&vec![b' '; 300_000_000]);
    assert_eq!(
        error,
        ReadError::TooLarge { name: "tune.xml".to_owned(), bytes: 300_000_000, bytes_max: 50 << 20 }
    );
    assert_eq!(
        error.to_string(),
        "tune.xml: 300000000 bytes are more than the 52428800 that such a file may have; cut it into movements"
    );
}

#[test]
fn a_zip_bomb_is_refused_at_the_cap() {
    let bomb = vec![b' '; SCORE_BYTES_MAX + 1];
    let mxl = zipped(&[("score.xml", &bomb)]);
    assert!(mxl.len() < 200_000, "the bomb itself is small");
    assert_eq!(error(&mxl), ReadError::InflatesTooFar { name: "tune.xml".to_owned() });
    let table = [b"<container>".to_vec(), vec![b' '; 2 << 20]].concat();
    let mxl = zipped(&[("META-INF/container.xml", &table), ("score.xml", SCORE.as_bytes())]);
    assert_eq!(error(&mxl), ReadError::InflatesTooFar { name: "tune.xml".to_owned() });
}

#[test]
fn a_truncated_mxl_is_refused_wherever_it_ends() {
    let whole = zipped(&[("score.xml", SCORE.as_bytes())]);
    assert!(read_score(&whole, "tune.mxl").is_ok());
    for length in 4..whole.len() - 1 {
        let error = error(&whole[..length]);
        assert!(matches!(error, ReadError::Container { .. }), "{length} bytes: {error}");
        assert!(error.to_string().contains("copy or export it again"));
    }
}

#[test]
fn an_mxl_with_a_broken_score_is_refused() {
    let mut mxl = zipped(&[("score.xml", SCORE.as_bytes())]);
    let data = 30 + "score.xml".len();
    mxl[data + 100] ^= 0xff;
    assert!(matches!(error(&mxl), ReadError::Container { .. }));
    let table = b"<container><rootfiles><rootfile full-path='gone.xml'/></rootfiles></container>";
    let mxl = zipped(&[("META-INF/container.xml", table), ("score.xml", SCORE.as_bytes())]);
    assert!(error(&mxl).to_string().contains("names gone.xml, which is not inside"));
}

#[test]
fn truncated_xml_is_refused_with_its_line() {
    for (length, _) in SCORE.char_indices().skip(1).step_by(7) {
        let text = &SCORE[..length];
        let lines = text.lines().count();
        match error(text.as_bytes()) {
            ReadError::Xml { line, .. } => assert!(line <= lines, "line {line} of {lines}"),
            ReadError::NotMusicXml { .. } => assert!(!text.contains("<score-partwise"), "{text}"),
            other => panic!("{length} bytes: {other}"),
        }
    }
}

#[test]
fn entity_bombs_and_external_entities_are_never_expanded() {
    let bomb = r#"<?xml version="1.0"?>
<!DOCTYPE lolz [ <!ENTITY lol "lol"> <!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;"> ]>
<score-partwise><part-list/><work><work-title>&lol2;</work-title></work></score-partwise>"#;
    assert_eq!(error(bomb.as_bytes()), ReadError::Entities { name: "tune.xml".to_owned(), line: 2 });
    let external = r#"<!DOCTYPE score-partwise [ <!ENTITY file SYSTEM "file:///etc/passwd"> ]>
<score-partwise><work><work-title>&file;</work-title></work></score-partwise>"#;
    assert!(matches!(error(external.as_bytes()), ReadError::Entities { .. }));
    let parameter = r#"<!DOCTYPE score-partwise [ <!ENTITY % all SYSTEM "http://127.0.0.1/x.dtd"> %all; ]>
<score-partwise/>"#;
    assert!(matches!(error(parameter.as_bytes()), ReadError::Entities { .. }));
    let undeclared = SCORE.replace("Nun", "&nun;");
    assert!(matches!(error(undeclared.as_bytes()), ReadError::Entities { line: 13, .. }));
    let in_attribute = SCORE.replace("\"P1\"><part-name", "\"&p;\"><part-name");
    assert!(matches!(error(in_attribute.as_bytes()), ReadError::Entities { .. }));
}

#[test]
fn the_five_entities_of_xml_and_characters_by_number_are_read() {
    let text = SCORE.replace("Soprano", "A&amp;B &lt;&#233;&#x2014;&gt;&quot;&apos;");
    let score = read_score(text.as_bytes(), "tune.xml").expect("a score");
    assert_eq!(score.parts[0].name, "A&B <é—>\"'");
}

#[test]
fn what_is_no_musicxml_is_named_with_a_way_out() {
    let mscz = zipped(&[("META-INF/container.xml", b"<container/>"), ("tune.mscx", b"<museScore/>")]);
    let finale = zipped(&[("NotationMetadata.xml", b"<metadata/>"), ("score.dat", b"x")]);
    let cases: [(&[u8], &str); 13] = [
        (b"", "tune.xml: an empty file; copy or export the score again"),
        (&mscz, "tune.xml: a MuseScore file; in MuseScore: File > Export > MusicXML"),
        (b"<museScore version='3'/>", "tune.xml: a MuseScore file; in MuseScore: File > Export > MusicXML"),
        (b"%PDF-1.7", "tune.xml: a PDF; export MusicXML from the program that made it"),
        (
            b"**kern\n4c",
            "tune.xml: a Humdrum file; convert it to MusicXML, for example with music21 or Verovio",
        ),
        (b"<html><body/></html>", "tune.xml: XML, but not MusicXML; export the score as MusicXML"),
        (b"<!-- nothing -->", "tune.xml: XML without an element; export the score as MusicXML"),
        (b"\x7fELF", "tune.xml: not a score that is known here; export it as MusicXML or MIDI"),
        (
            b"X:1\nT:Tune",
            "tune.xml: an ABC tune; convert it to MusicXML, for example with EasyABC or abc2xml",
        ),
        (&finale, "tune.xml: a Finale file; in Finale: File > Export > MusicXML"),
        (
            b"\x89PNG\r\n",
            "tune.xml: a picture; read it with a music scanner such as Audiveris, and export MusicXML",
        ),
        (b"\x0fSIBELIUS\0", "tune.xml: a Sibelius file; in Sibelius: File > Export > MusicXML"),
        (
            b"RIFF\x24\0\0\0WAVEfmt ",
            "tune.xml: a sound recording; write the melody in a notation program and export it as MusicXML",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(error(bytes).to_string(), expected);
    }
    let pictures = zipped(&[("1.png", b"\x89PNG"), ("2.png", b"\x89PNG")]);
    assert!(error(&pictures).to_string().starts_with("tune.xml: a zip without a score inside; export"));
    let several = zipped(&[("a.mid", b"MThd"), ("b.mid", b"MThd")]);
    assert!(error(&several).to_string().contains("unpack it and hand over one of them"));
    let drums = "<score-partwise><part id='P1'><measure><note><unpitched/><duration>4</duration></note></measure></part>\
                 </score-partwise>";
    assert!(message(drums).contains("its only notes are a drum's"));
    let no_score = zipped(&[("readme.txt", b"hello")]);
    assert!(error(&no_score).to_string().starts_with("tune.xml: a zip without a score inside"));
}

#[test]
fn a_score_without_notes_says_so() {
    let expected = "tune.xml: no part of the score has a note; there is nothing to read";
    assert_eq!(message("<score-partwise><part-list/></score-partwise>"), expected);
    let rests = "<score-partwise><part id='P1'><measure><note><rest/><duration>4</duration></note></measure></part>\
                 </score-partwise>";
    assert_eq!(message(rests), expected);
}

#[test]
fn a_score_with_three_parts_is_read_but_is_no_chorale() {
    let part = |id: usize| {
        format!(
            "<part id='P{id}'><measure><note><pitch><step>C</step><octave>4</octave></pitch><duration>4</duration>\
             </note></measure></part>"
        )
    };
    let text = format!("<score-partwise>{}{}{}</score-partwise>", part(1), part(2), part(3));
    let score = read_score(text.as_bytes(), "trio.xml").expect("a score");
    let refused = encode_chorale(&score).expect_err("three parts were encoded").to_string();
    assert!(
        refused.starts_with("a chorale has four voices, but this score's parts are: (no name), (no name)")
    );
}

#[test]
fn broken_numbers_are_refused_where_they_stand() {
    for (right, wrong, what) in [
        ("<divisions>4", "<divisions>0", "line 7, part P1, measure 1: divisions must be above 0"),
        ("<divisions>4", "<divisions>-4", "measure 1: \"-4\" is no divisions"),
        ("<duration>8", "<duration>99999999999999999999", "is no duration"),
        ("<step>C", "<step>H", "a pitch without a step from A to G and an octave from 0 to 9"),
        ("<octave>5", "<octave>12", "a pitch without a step from A to G and an octave from 0 to 9"),
        ("<alter>1", "<alter>NaN", "a pitch altered by NaN semitones"),
        ("<fifths>1", "<fifths>100", "a key of 100 fifths"),
        ("<beats>4", "<beats>0", "a time signature with 0"),
        ("<beat-type>4", "<beat-type>4294967295", "a time signature with 4294967295"),
        ("<chromatic>-2", "<chromatic>-2000000000", "a transposition by -2000000000"),
        (
            "<octave-change>0",
            "<octave-change>-6",
            "line 13, part P1, measure 1: a note outside the MIDI range",
        ),
        ("<part id=\"P2\"", "<part id=\"P1\"", "this part comes a second time"),
    ] {
        let text = SCORE.replacen(right, wrong, 1);
        assert_ne!(text, SCORE, "{right} is not in the score");
        let message = message(&text);
        assert!(message.contains(what), "{wrong}: {message}");
    }
}

#[test]
fn music_that_lasts_for_days_is_refused() {
    let long = SCORE.replacen("<duration>8", "<duration>9000000000000000000", 1);
    assert!(message(&long).contains("the score is more than 100000 quarter notes long"));
    let many =
        format!("<score-partwise><part id='P'>{}</part></score-partwise>", "<measure/>".repeat(100_001));
    assert!(message(&many).contains("more than 100000 measures"));
    let crowd: String = (0..=1_000).map(|id| format!("<part id='{id}'/>")).collect();
    assert!(message(&format!("<score-partwise>{crowd}</score-partwise>")).contains("more than 1000 parts"));
}

#[test]
fn deep_nesting_and_crowds_of_attributes_are_read_over() {
    let deep = format!("{}{}", "<x>".repeat(200_000), "</x>".repeat(200_000));
    let text = SCORE.replacen("<part-list>", &format!("{deep}<part-list>"), 1);
    assert!(read_score(text.as_bytes(), "tune.xml").is_ok());
    let attributes: String = (0..200_000).map(|n| format!(" a{n}='1'")).collect();
    let text = SCORE.replacen("<part id=\"P1\"", &format!("<part{attributes} id=\"P1\""), 1);
    assert!(read_score(text.as_bytes(), "tune.xml").is_ok());
}

/// Numbers and names that a damaged file could have in the place of others.
const ODD: [&str; 14] = [
    "0",
    "-1",
    "1",
    "2.5",
    "9223372036854775807",
    "99999999999999999999",
    "1e308",
    "NaN",
    "",
    "127",
    "-7",
    "C",
    "stop",
    "0.000000001",
];

/// The sound score with the texts of some elements exchanged for odd ones.
fn mutated_numbers() -> impl Strategy<Value = String> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6).prop_map(
        |changes| {
            let mut text = SCORE.to_owned();
            for (place, odd) in changes {
                let starts: Vec<usize> = text.match_indices('>').map(|(at, _)| at + 1).collect();
                let start = starts[place.index(starts.len())];
                let end = text[start..].find('<').map_or(start, |length| start + length);
                text.replace_range(start..end, ODD[odd.index(ODD.len())]);
            }
            text
        },
    )
}

/// Some bytes with stretches overwritten, removed or repeated.
fn damaged(sound: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0_usize..40, 0_u8..3, any::<u8>());
    prop::collection::vec(change, 1..8).prop_map(move |changes| {
        let mut bytes = sound.clone();
        for (place, length, kind, byte) in changes {
            let start = place.index(bytes.len());
            let end = (start + length).min(bytes.len());
            let stretch = bytes[start..end].to_vec();
            match kind {
                0 => bytes[start] = byte,
                1 if bytes.len() > 100 => drop(bytes.drain(start..end)),
                _ => drop(bytes.splice(start..start, stretch)),
            }
        }
        bytes
    })
}

/// Reads and, where that goes well, encodes: only panics and hangs are failures.
fn survives(bytes: &[u8]) {
    if let Ok(score) = read_score(bytes, "fuzz") {
        assert!(
            score.parts.iter().flat_map(|part| &part.notes).all(|note| note.onset >= 0 && note.duration > 0)
        );
        let _ = encode_chorale(&score);
    }
}

/// For each property; `PROPTEST_CASES=1000000 cargo test --release -p kapell-music --test bad_scores` is the long form.
fn cases() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig::with_cases(asked.unwrap_or(2_000))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn arbitrary_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&bytes);
        survives(&[b"<score-partwise>".as_slice(), &bytes].concat());
        survives(&[b"PK\x03\x04".as_slice(), &bytes].concat());
    }

    #[test]
    fn damaged_xml_is_refused_or_read(bytes in damaged(SCORE.as_bytes().to_vec())) {
        survives(&bytes);
    }

    #[test]
    fn damaged_mxl_is_refused_or_read(bytes in damaged(zipped(&[("score.xml", SCORE.as_bytes())]))) {
        survives(&bytes);
    }

    #[test]
    fn odd_numbers_are_refused_or_read(text in mutated_numbers()) {
        survives(text.as_bytes());
    }
}
