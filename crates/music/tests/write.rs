//! Scores out: what is written reads back as what it was.

use kapell_music::encode::encode_chorale;
use kapell_music::exercises;
use kapell_music::read::read_score;
use kapell_music::score::{KeySignature, Measure, Mode, Notation, Note, Part, Score, TICKS_PER_QUARTER};
use kapell_music::write::{spelling::spell, write_midi, write_musicxml};
use proptest::prelude::*;

const Q: i64 = TICKS_PER_QUARTER;

fn read_back(score: &Score) -> Score {
    read_score(write_musicxml(score).as_bytes(), "written.musicxml").unwrap()
}

/// Without what a writer adds: bar lines and tempi as they are drawn.
fn plain(measures: &[Measure]) -> Vec<Measure> {
    measures.iter().map(|measure| Measure { notation: Default::default(), ..measure.clone() }).collect()
}

fn note(onset: i64, duration: i64, midi: u8) -> Note {
    Note { onset, duration, pitch: spell(midi, 0), ..Note::default() }
}

fn measure(number: &str, start: i64, duration: i64) -> Measure {
    let key = KeySignature { fifths: 0, mode: Some(Mode::Major) };
    let number = number.to_owned();
    let implicit = duration < 4 * Q && start == 0;
    Measure { number, start, duration, key, implicit, ..Measure::default() }
}

fn score(parts: Vec<Vec<Note>>, measures: Vec<Measure>) -> Score {
    let part = |(i, notes): (usize, Vec<Note>)| Part {
        id: format!("P{}", i + 1),
        name: ["Soprano", "Alto", "Tenor", "Bass"][i].to_owned(),
        notes,
        ..Part::default()
    };
    Score { parts: parts.into_iter().enumerate().map(part).collect(), measures, ..Score::default() }
}

/// A part's notes with tied ones joined: (onset, duration, pitch, fermata).
fn joined(part: &Part) -> Vec<(i64, i64, u8, bool)> {
    let mut notes: Vec<(i64, i64, u8, bool)> = Vec::new();
    for n in &part.notes {
        let before = notes.iter_mut().rev().find(|b| b.2 == n.pitch.midi && b.0 + b.1 == n.onset);
        match before {
            Some(b) if n.tie_from => {
                b.1 += n.duration;
                b.3 |= n.fermata;
            }
            _ => notes.push((n.onset, n.duration, n.pitch.midi, n.fermata)),
        }
    }
    notes.sort_unstable();
    notes
}

fn any_line() -> impl Strategy<Value = Vec<Note>> {
    let unit =
        prop_oneof![4 => Just(Q / 4), 2 => Just(Q / 2), 1 => Just(Q / 3), 1 => Just(Q / 6), 1 => Just(Q / 5)];
    let length = (unit, 1_i64..12).prop_map(|(unit, times)| unit * times);
    let step = (prop::option::weighted(0.2, length.clone()), length, 40_u8..80, any::<bool>());
    prop::collection::vec(step, 1..20).prop_map(|steps| {
        let mut at = 0;
        let sing = |(gap, duration, midi, fermata): (Option<i64>, i64, u8, bool)| {
            at += gap.unwrap_or(0);
            let sung = Note { fermata, ..note(at, duration, midi) };
            at += duration;
            sung
        };
        steps.into_iter().map(sing).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_lines_come_back_from_musicxml(lines in prop::collection::vec(any_line(), 1..4), pickup in 0_i64..4) {
        let mut measures = Vec::new();
        if pickup > 0 {
            measures.push(measure("0", 0, pickup * Q));
        }
        measures.push(measure("1", pickup * Q, 4 * Q));
        let before = score(lines, measures);
        let after = read_back(&before);
        prop_assert_eq!(after.parts.len(), before.parts.len());
        for (a, b) in after.parts.iter().zip(&before.parts) {
            prop_assert_eq!(joined(a), joined(b));
            prop_assert_eq!(&a.name, &b.name);
        }
    }

    #[test]
    fn any_lines_make_a_midi_file_that_reads(lines in prop::collection::vec(any_line(), 1..4)) {
        let before = score(lines, Vec::new());
        let bytes = write_midi(&before);
        let file = midly::Smf::parse(&bytes).unwrap();
        prop_assert_eq!(file.tracks.len(), before.parts.len() + 1);
    }
}

#[test]
fn exercises_come_back_from_musicxml_token_for_token() {
    for index in 1..=40 {
        let before = exercises::score(7, index);
        let after = read_back(&before);
        assert!(encode_chorale(&after) == encode_chorale(&before), "{:?}: other tokens", before.title);
        assert_eq!(plain(&after.measures), before.measures, "{:?}", before.title);
        assert_eq!((&after.title, after.tempo), (&before.title, before.tempo));
        let spelled = |score: &Score| -> Vec<_> {
            let pitches =
                |p: &Part| -> Vec<_> { p.notes.iter().filter(|n| !n.tie_from).map(|n| n.pitch).collect() };
            score.parts.iter().map(pitches).collect()
        };
        assert_eq!(spelled(&after), spelled(&before), "{:?}", before.title);
    }
}

#[test]
fn a_note_over_a_bar_line_is_two_tied_notes() {
    let written = score(vec![vec![note(3 * Q, 2 * Q, 60)]], vec![measure("1", 0, 4 * Q)]);
    let notes = &read_back(&written).parts[0].notes;
    let told: Vec<_> = notes.iter().map(|n| (n.onset, n.duration, n.tie_from, n.tie_to)).collect();
    assert_eq!(told, [(3 * Q, Q, false, true), (4 * Q, Q, true, false)]);
}

#[test]
fn chords_and_overlapping_voices_are_kept() {
    let second = Note { voice: 2, ..note(Q, 2 * Q, 48) };
    let notes = vec![note(0, 2 * Q, 60), note(0, 2 * Q, 64), note(Q, 3 * Q, 67), second];
    let written = score(vec![notes], vec![measure("1", 0, 4 * Q)]);
    assert_eq!(joined(&read_back(&written).parts[0]), joined(&written.parts[0]));
}

#[test]
fn repeats_words_and_names_that_need_escaping_are_kept() {
    let mut written =
        score(vec![vec![note(0, 4 * Q, 60)]], vec![measure("1", 0, 4 * Q), measure("2", 4 * Q, 4 * Q)]);
    written.title = Some("Bach & <Sons> \u{1}\"\u{201e}".to_owned());
    written.parts[0].notes[0].notation = Notation::sung("Wer & wo");
    (written.measures[0].repeat_start, written.measures[1].repeat_end) = (true, true);
    let after = read_back(&written);
    assert_eq!(after.title.as_deref(), Some("Bach & <Sons> \"\u{201e}"));
    assert_eq!(after.parts[0].notes[0].lyric(), written.parts[0].notes[0].lyric());
    assert_eq!(plain(&after.measures), written.measures);
}

#[test]
fn an_empty_score_is_written_and_has_no_notes() {
    assert!(write_musicxml(&Score::default()).contains("</score-partwise>"));
    assert_eq!(midly::Smf::parse(&write_midi(&Score::default())).unwrap().tracks.len(), 1);
    let silent = write_musicxml(&score(vec![Vec::new()], Vec::new()));
    assert!(silent.contains("<rest measure=\"yes\"/>"), "{silent}");
}

#[test]
fn a_silent_measure_that_is_cut_short_gets_plain_rests() {
    let measures = vec![measure("1", 0, 3 * Q), measure("2", 3 * Q, 4 * Q)];
    let written = score(vec![vec![note(3 * Q, 4 * Q, 60)]], measures);
    assert!(!write_musicxml(&written).contains("<rest measure"));
    assert_eq!(plain(&read_back(&written).measures), written.measures);
}

#[test]
fn tied_notes_sound_once_in_midi_and_what_ends_does_so_first() {
    use midly::{MidiMessage, TrackEventKind};
    let mut notes = vec![note(0, Q, 60), note(Q, Q, 60), note(2 * Q, Q, 60)];
    notes[0].tie_to = true;
    notes[1].tie_from = true;
    let bytes = write_midi(&score(vec![notes], Vec::new()));
    let file = midly::Smf::parse(&bytes).unwrap();
    let mut at = 0;
    let mut heard = Vec::new();
    for event in &file.tracks[1] {
        at += event.delta.as_int();
        match event.kind {
            TrackEventKind::Midi { message: MidiMessage::NoteOn { key, .. }, .. } => {
                heard.push((at, true, key))
            }
            TrackEventKind::Midi { message: MidiMessage::NoteOff { key, .. }, .. } => {
                heard.push((at, false, key))
            }
            _ => {}
        }
    }
    let told: Vec<_> = heard.into_iter().map(|(at, on, key)| (at, on, key.as_int())).collect();
    assert_eq!(told, [(0, true, 60), (960, false, 60), (960, true, 60), (1440, false, 60)]);
}

#[test]
fn the_midi_file_tells_tempo_metre_and_key() {
    let exercise = exercises::score(1, 2);
    let bytes = write_midi(&exercise);
    let file = midly::Smf::parse(&bytes).unwrap();
    let metas: Vec<String> = file.tracks[0].iter().map(|e| format!("{:?}", e.kind)).collect();
    let told = metas.join(" ");
    assert!(told.contains("Tempo(u24(833333))"), "{told}");
    assert!(told.contains("TimeSignature(3, 2, 24, 8)"), "{told}");
    assert!(told.contains("KeySignature(-3, false)"), "{told}");
}

/// Notes and measures that no reader would give.
fn any_score_at_all() -> impl Strategy<Value = Score> {
    let ticks = || prop_oneof![-3 * Q..40 * Q, Just(0), Just(1), Just(Q)];
    let note = (ticks(), ticks(), any::<[u8; 3]>(), any::<i8>(), any::<[bool; 3]>()).prop_map(
        |(onset, duration, [midi, step, voice], alter, [tie_from, tie_to, fermata])| {
            let pitch = kapell_music::score::Pitch { midi, step, alter };
            Note {
                onset,
                duration,
                pitch,
                tie_from,
                tie_to,
                fermata,
                voice,
                notation: Notation::sung("\u{0}la"),
            }
        },
    );
    let measure =
        (ticks(), ticks(), any::<(u8, u32)>(), any::<i8>()).prop_map(|(start, duration, time, fifths)| {
            let key = KeySignature { fifths, mode: None };
            Measure { time: (u32::from(time.0), time.1), key, ..measure("x\"y", start, duration) }
        });
    let part = prop::collection::vec(note, 0..12);
    (prop::collection::vec(part, 0..4), prop::collection::vec(measure, 0..5), any::<Option<f64>>())
        .prop_map(|(parts, measures, tempo)| Score { tempo, ..score(parts, measures) })
}

proptest! {
    #[test]
    fn no_score_makes_the_writers_panic(score in any_score_at_all()) {
        let text = write_musicxml(&score);
        prop_assert!(text.ends_with("</score-partwise>\n"));
        prop_assert!(midly::Smf::parse(&write_midi(&score)).is_ok());
    }
}
