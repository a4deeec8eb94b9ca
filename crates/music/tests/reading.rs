//! The reader: what MusicXML says comes out as a score. What it refuses is in `bad_scores.rs`.

use std::io::{Cursor, Write};

use kapell_music::exercises;
use kapell_music::read::{ReadError, read_score};
use kapell_music::score::{KeySignature, Measure, Mode, Note, Score, TICKS_PER_QUARTER};
use kapell_music::write::write_musicxml;
use zip::write::SimpleFileOptions;

/// A partwise score of one part.
fn one_part(measures: &str) -> String {
    format!(
        r#"<?xml version="1.0"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 3.1 Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">
<score-partwise>
  <part-list><score-part id="P1"><part-name>Soprano</part-name></score-part></part-list>
  <part id="P1">{measures}</part>
</score-partwise>"#
    )
}

/// A note of so many divisions, with more elements after them.
fn note(pitch: &str, duration: u32, more: &str) -> String {
    let (step, octave) = pitch.split_at(1);
    format!(
        "<note><pitch><step>{step}</step><octave>{octave}</octave></pitch><duration>{duration}</duration>{more}</note>"
    )
}

const TWO: &str = "<attributes><divisions>2</divisions></attributes>";

/// Without what a writer adds: bar lines and tempi as they are drawn.
fn plain(measures: &[Measure]) -> Vec<Measure> {
    measures.iter().map(|measure| Measure { notation: Default::default(), ..measure.clone() }).collect()
}

fn read(text: &str) -> Score {
    read_score(text.as_bytes(), "test.musicxml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Notes in short: pitch@onset+duration in eighths, with `~` and `^` for ties to and fermatas, `_` for ties from.
fn check(measures: &str, expected: &str) {
    assert_eq!(short(&read(&one_part(measures)).parts[0].notes), expected, "{measures}");
}

fn short(notes: &[Note]) -> String {
    let eighths = |ticks: i64| ticks as f64 / (TICKS_PER_QUARTER / 2) as f64;
    let words = notes.iter().map(|note| {
        let marks = [("_", note.tie_from), ("~", note.tie_to), ("^", note.fermata)];
        let marks: String = marks.iter().filter(|(_, set)| *set).map(|(mark, _)| *mark).collect();
        format!("{}@{}+{}{marks}", note.pitch.midi, eighths(note.onset), eighths(note.duration))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn notes_follow_each_other_and_rests_are_gaps() {
    let rest = "<note><rest/><duration>2</duration></note>";
    check(
        &format!("<measure number='1'>{TWO}{}{rest}{}</measure>", note("C4", 2, ""), note("D4", 4, "")),
        "60@0+2 62@4+4",
    );
}

#[test]
fn chords_share_their_onset() {
    let chord = note("E4", 2, "").replace("<note>", "<note><chord/>");
    check(
        &format!("<measure number='1'>{TWO}{}{chord}{}</measure>", note("C4", 2, ""), note("D4", 2, "")),
        "60@0+2 64@0+2 62@2+2",
    );
}

#[test]
fn backup_and_forward_move_in_time_and_voices_are_kept() {
    let measures = format!(
        "<measure number='1'>{TWO}{}<backup><duration>4</duration></backup><forward><duration>2</duration></forward>{}\
         </measure><measure number='2'>{}</measure>",
        note("C5", 4, "<voice>1</voice>"),
        note("C4", 2, "<voice>2</voice>"),
        note("D5", 4, "<voice>1</voice>"),
    );
    check(&measures, "72@0+4 60@2+2 74@4+4");
    let score = read(&one_part(&measures));
    assert_eq!(score.parts[0].notes.iter().map(|note| note.voice).collect::<Vec<_>>(), [1, 2, 1]);
}

#[test]
fn grace_and_cue_notes_are_dropped() {
    let grace = "<note><grace/><pitch><step>D</step><octave>5</octave></pitch></note>";
    let cue = note("E5", 2, "").replace("<note>", "<note><cue/>");
    check(&format!("<measure number='1'>{TWO}{grace}{cue}{}</measure>", note("C5", 2, "")), "72@2+2");
}

#[test]
fn ties_and_fermatas_are_noted() {
    let measures = format!(
        "<measure number='1'>{TWO}{}{}{}</measure>",
        note("C5", 2, "<tie type='start'/><notations><tied type='start'/></notations>"),
        note("C5", 2, "<tie type='stop'/><tie type='start'/>"),
        note("C5", 2, "<notations><tied type='stop'/><fermata type='upright'/></notations>"),
    );
    check(&measures, "72@0+2~ 72@2+2_~ 72@4+2_^");
}

#[test]
fn triplets_are_exact() {
    let divisions = "<attributes><divisions>3</divisions></attributes>";
    let triplet = note("C5", 1, "").repeat(3);
    let score = read(&one_part(&format!("<measure number='1'>{divisions}{triplet}</measure>")));
    let onsets: Vec<i64> = score.parts[0].notes.iter().map(|note| note.onset).collect();
    assert_eq!(onsets, [0, 3360, 6720]);
    assert_eq!(score.duration(), TICKS_PER_QUARTER);
}

#[test]
fn divisions_that_no_tick_fits_do_not_drift() {
    // 1024 divisions: a tick is no whole number of them.
    let divisions = "<attributes><divisions>1024</divisions></attributes>";
    let notes = note("C5", 1, "").repeat(4096);
    let score = read(&one_part(&format!("<measure number='1'>{divisions}{notes}</measure>")));
    assert_eq!(score.duration(), 4 * TICKS_PER_QUARTER);
    let ends = score.parts[0].notes.windows(2).all(|pair| pair[0].onset + pair[0].duration == pair[1].onset);
    assert!(ends, "a gap or an overlap between notes that follow each other");
}

#[test]
fn pickups_and_changes_of_signature_make_the_time_line() {
    let score = read(&one_part(&format!(
        "<measure number='0' implicit='yes'><attributes><divisions>2</divisions><key><fifths>-3</fifths><mode>minor\
         </mode></key><time><beats>4</beats><beat-type>4</beat-type></time></attributes>{}</measure>\
         <measure number='1'>{}</measure>\
         <measure number='2'><attributes><key><fifths>0</fifths></key><time><beats>3</beats><beat-type>8</beat-type>\
         </time></attributes>{}</measure>",
        note("G4", 2, ""),
        note("C5", 8, ""),
        note("C5", 3, ""),
    )));
    let measures: Vec<_> =
        score.measures.iter().map(|m| (m.number.as_str(), m.start, m.duration, m.time)).collect();
    let quarter = TICKS_PER_QUARTER;
    assert_eq!(
        measures,
        [
            ("0", 0, quarter, (4, 4)),
            ("1", quarter, 4 * quarter, (4, 4)),
            ("2", 5 * quarter, 3 * quarter / 2, (3, 8))
        ]
    );
    assert!(score.measures[0].implicit && !score.measures[1].implicit);
    assert_eq!(score.measures[1].key, KeySignature { fifths: -3, mode: Some(Mode::Minor) });
    assert_eq!(score.measures[2].key, KeySignature { fifths: 0, mode: None });
}

#[test]
fn repeats_are_noted_and_not_expanded() {
    let score = read(&one_part(&format!(
        "<measure number='1'><barline location='left'><repeat direction='forward'/></barline>{TWO}{}</measure>\
         <measure number='2'>{}<barline location='right'><repeat direction='backward'/></barline></measure>",
        note("C4", 8, ""),
        note("D4", 8, ""),
    )));
    let repeats: Vec<_> = score.measures.iter().map(|m| (m.repeat_start, m.repeat_end)).collect();
    assert_eq!(repeats, [(true, false), (false, true)]);
    assert_eq!(score.parts[0].notes.len(), 2);
}

#[test]
fn transposing_parts_sound_where_they_sound() {
    let horn = "<attributes><divisions>2</divisions><key><fifths>1</fifths></key><transpose><diatonic>-4</diatonic>\
                <chromatic>-7</chromatic></transpose></attributes>";
    let f_sharp =
        "<note><pitch><step>F</step><alter>1</alter><octave>5</octave></pitch><duration>2</duration></note>";
    let score = read(&one_part(&format!("<measure number='1'>{horn}{f_sharp}</measure>")));
    let pitch = score.parts[0].notes[0].pitch;
    // F sharp 5, written for a horn in F, is B 4; G major is C major.
    assert_eq!((pitch.midi, pitch.step, pitch.alter), (71, 6, 0));
    assert_eq!(score.measures[0].key.fifths, 0);

    let octave_bass = "<attributes><transpose><chromatic>0</chromatic><octave-change>-1</octave-change></transpose>\
                       </attributes>";
    check(&format!("<measure number='1'>{TWO}{octave_bass}{}</measure>", note("C4", 2, "")), "48@0+2");
    let b_flat = "<attributes><transpose><chromatic>-2</chromatic></transpose></attributes>";
    check(&format!("<measure number='1'>{TWO}{b_flat}{}</measure>", note("C5", 2, "")), "70@0+2");
}

#[test]
fn title_composer_tempo_and_lyrics_are_kept() {
    let lyric = "<lyric><syllabic>begin</syllabic><text>Twin</text></lyric>";
    let text = one_part(&format!(
        "<measure number='1'>{TWO}<direction><sound tempo='96'/></direction>{}{}</measure>",
        note("C4", 2, lyric),
        note("C4", 2, "<lyric><syllabic>end</syllabic><text>k&amp;le</text></lyric>")
    ));
    let head = "<work><work-title>A &lt;tune&gt;</work-title></work><identification><creator type='composer'>N. N.\
                </creator></identification><part-list>";
    let score = read(&text.replacen("<part-list>", head, 1));
    assert_eq!((score.title.as_deref(), score.composer.as_deref()), (Some("A <tune>"), Some("N. N.")));
    assert_eq!(score.tempo, Some(96.0));
    let lyrics: Vec<_> = score.parts[0].notes.iter().map(|note| note.lyric()).collect();
    assert_eq!(lyrics, [Some("Twin-".to_owned()), Some("k&le".to_owned())]);
}

#[test]
fn a_measure_of_rests_that_is_too_long_does_not_push_the_parts_apart() {
    let text = format!(
        "<score-partwise><part-list><score-part id='A'><part-name>A</part-name></score-part><score-part id='B'>\
         <part-name>B</part-name></score-part></part-list>\
         <part id='A'><measure number='1'>{TWO}{}</measure><measure number='2'>{}</measure></part>\
         <part id='B'><measure number='1'>{TWO}<note><rest/><duration>16</duration></note></measure>\
         <measure number='2'>{}</measure></part></score-partwise>",
        note("C5", 8, ""),
        note("D5", 8, ""),
        note("D4", 8, ""),
    );
    let score = read(&text);
    let onsets: Vec<_> = score.parts.iter().map(|part| part.notes.last().map(|note| note.onset)).collect();
    assert_eq!(onsets, [Some(4 * TICKS_PER_QUARTER); 2]);
}

#[test]
fn a_jump_forward_at_the_end_of_an_incomplete_measure_is_no_music() {
    let forward = "<forward><duration>4</duration></forward>";
    let measures = format!(
        "<measure number='0' implicit='yes'>{TWO}{}{forward}</measure><measure number='1'>{}{forward}</measure>",
        note("C5", 2, ""),
        note("D5", 4, ""),
    );
    check(&measures, "72@0+2 74@2+4");
    assert_eq!(read(&one_part(&measures)).duration(), 3 * TICKS_PER_QUARTER);
}

#[test]
fn a_pickup_is_as_long_as_its_notes_though_another_part_rests_for_a_whole_bar() {
    let part = |id: &str, pickup: &str| {
        let bar = note("C4", 8, "");
        format!(
            "<part id='{id}'><measure number='0' implicit='yes'>{TWO}{pickup}</measure><measure number='1'>{bar}\
             </measure></part>"
        )
    };
    let rest = "<note><rest/><duration>8</duration></note>";
    let score = read(&format!(
        "<score-partwise>{}{}</score-partwise>",
        part("A", &note("G4", 2, "")),
        part("B", rest)
    ));
    assert_eq!(score.measures[1].start, TICKS_PER_QUARTER);
    assert_eq!(short(&score.parts[1].notes), "60@2+8");
}

#[test]
fn measures_in_which_parts_differ_last_as_long_as_the_longest() {
    let forward = "<forward><duration>6</duration></forward>";
    let measures = format!(
        "<measure number='1'>{TWO}{}{forward}</measure><measure number='2'>{}</measure>",
        note("C5", 2, ""),
        note("D5", 8, "")
    );
    check(&measures, "72@0+2 74@8+8");
}

/// The same music, measure by measure of all parts.
const TIMEWISE: &str = "<score-timewise><part-list><score-part id='P1'><part-name>Soprano</part-name></score-part>\
    <score-part id='P2'><part-name>Bass</part-name></score-part></part-list>\
    <measure number='1'><part id='P1'>[two]<note><pitch><step>C</step><octave>5</octave></pitch><duration>8</duration>\
    </note></part><part id='P2'>[two]<note><pitch><step>C</step><octave>3</octave></pitch><duration>8</duration></note>\
    </part></measure><measure number='2'><part id='P1'><note><pitch><step>D</step><octave>5</octave></pitch>\
    <duration>8</duration></note></part><part id='P2'><note><rest/><duration>8</duration></note></part></measure>\
    </score-timewise>";
const PARTWISE: &str = "<score-partwise><part-list><score-part id='P1'><part-name>Soprano</part-name></score-part>\
    <score-part id='P2'><part-name>Bass</part-name></score-part></part-list>\
    <part id='P1'><measure number='1'>[two]<note><pitch><step>C</step><octave>5</octave></pitch><duration>8</duration>\
    </note></measure><measure number='2'><note><pitch><step>D</step><octave>5</octave></pitch><duration>8</duration>\
    </note></measure></part><part id='P2'><measure number='1'>[two]<note><pitch><step>C</step><octave>3</octave></pitch>\
    <duration>8</duration></note></measure><measure number='2'><note><rest/><duration>8</duration></note></measure>\
    </part></score-partwise>";

#[test]
fn a_slip_beyond_a_bar_that_another_part_fills_does_not_push_the_parts_apart() {
    let durations = |first: u32, last: u32| {
        let divisions = "<attributes><divisions>12</divisions></attributes>";
        let part = |id: &str, duration: u32, more: &str| {
            let bar = note("C5", duration, "");
            let next = note("D5", 48, "");
            format!(
                "<part id='{id}'><measure number='1'>{divisions}{bar}{more}</measure><measure number='2'>{next}</measure></part>"
            )
        };
        let more = if last > 0 { note("E5", last, "") } else { String::new() };
        let text =
            format!("<score-partwise>{}{}</score-partwise>", part("a", first, &more), part("b", 48, ""));
        let score = read(&text);
        let ends: Vec<i64> = score.parts[0].notes.iter().map(Note::end).collect();
        (score.measures[0].duration * 12 / TICKS_PER_QUARTER, ends[0] * 12 / TICKS_PER_QUARTER)
    };
    assert_eq!(durations(50, 0), (48, 48), "a sixth of a quarter too long");
    assert_eq!(durations(51, 0), (51, 51), "a sixteenth is no slip");
    assert_eq!(durations(48, 2), (50, 48), "a note behind the bar is kept");
}

#[test]
fn timewise_and_partwise_are_the_same_score() {
    let (timewise, partwise) = (TIMEWISE.replace("[two]", TWO), PARTWISE.replace("[two]", TWO));
    let score = read(&timewise);
    assert_eq!(score, read(&partwise));
    assert_eq!(score.parts.len(), 2);
    assert_eq!(score.measures.len(), 2);
    assert_eq!(score.parts[1].duration(), 8 * TICKS_PER_QUARTER);
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default()).expect("a member's head");
        zip.write_all(bytes).expect("a member");
    }
    zip.finish().expect("a zip").into_inner()
}

const CONTAINER: &[u8] = br#"<?xml version="1.0"?><container><rootfiles>
    <rootfile full-path="scores/the one.xml"/><rootfile full-path="other.pdf"/></rootfiles></container>"#;

#[test]
fn a_compressed_score_is_found_by_its_table_of_contents() {
    let score = one_part(&format!("<measure number='1'>{TWO}{}</measure>", note("C4", 8, "")));
    let decoy = score.replace("<step>C</step>", "<step>D</step>");
    let with_table = zipped(&[
        ("META-INF/container.xml", CONTAINER),
        ("decoy.xml", decoy.as_bytes()),
        ("scores/the one.xml", score.as_bytes()),
    ]);
    assert_eq!(read_score(&with_table, "a.mxl"), Ok(read(&score)));
    let without = zipped(&[("__MACOSX/decoy.xml", decoy.as_bytes()), ("only.musicxml", score.as_bytes())]);
    assert_eq!(read_score(&without, "any name"), Ok(read(&score)));
}

#[test]
fn other_encodings_of_text_are_read() {
    let score = one_part(&format!(
        "<measure number='1'>{TWO}{}</measure>",
        note("C4", 8, "<lyric><text>süß</text></lyric>")
    ));
    let expected = Ok(read(&score));
    let utf_16: Vec<u8> =
        "\u{feff}".encode_utf16().chain(score.encode_utf16()).flat_map(u16::to_be_bytes).collect();
    assert_eq!(read_score(&utf_16, "utf16.xml"), expected);
    assert_eq!(read_score(format!("\u{feff}{score}").as_bytes(), "bom.xml"), expected);
    let latin = score.replacen("version=\"1.0\"", "version=\"1.0\" encoding=\"ISO-8859-1\"", 1);
    let latin: Vec<u8> = latin.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
    assert_eq!(read_score(&latin, "latin.xml"), expected);
}

#[test]
fn what_is_written_is_read_back_note_for_note() {
    for index in 1..=12 {
        let score = exercises::score(7, index);
        let back = read(&write_musicxml(&score));
        assert_eq!(back.parts.len(), 4);
        for (part, written) in back.parts.iter().zip(&score.parts) {
            assert_eq!(part.name, written.name);
            assert_eq!(sounding(&part.notes), sounding(&written.notes), "exercise {index}, {}", part.name);
        }
        assert_eq!(plain(&back.measures), score.measures, "exercise {index}");
    }
}

/// Onset, end and pitch, ties joined: a writer may cut notes at bar lines.
fn sounding(notes: &[Note]) -> Vec<(i64, i64, u8)> {
    let mut joined: Vec<(i64, i64, u8)> = Vec::new();
    for note in notes {
        let end = note.onset + note.duration;
        match joined.last_mut() {
            Some(last) if note.tie_from && last.1 == note.onset && last.2 == note.pitch.midi => last.1 = end,
            _ => joined.push((note.onset, end, note.pitch.midi)),
        }
    }
    joined
}

#[test]
fn places_of_errors_are_line_part_and_measure() {
    let text = one_part(
        "<measure number='1'></measure>\n<measure number='2a'>\n<note><duration>x</duration></note></measure>",
    );
    let Err(ReadError::Music { place, .. }) = read_score(text.as_bytes(), "a.xml") else {
        panic!("this was read")
    };
    assert_eq!((place.line, place.part.as_deref(), place.measure.as_deref()), (7, Some("P1"), Some("2a")));
}
