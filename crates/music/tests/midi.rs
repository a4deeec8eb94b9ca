//! MIDI files as people have them: read as scores, written and read again, and refused where they are none.

use kapell_music::read::{ReadError, read_score};
use kapell_music::score::{KeySignature, Mode, Note, Score, TICKS_PER_QUARTER};
use kapell_music::write::{write_midi, write_musicxml};
use proptest::prelude::*;

const Q: i64 = TICKS_PER_QUARTER;

/// A file of some tracks, each without its end.
fn file(format: u8, division: u16, tracks: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(tracks.len()).unwrap();
    let mut bytes = [b"MThd\0\0\0\x06\0".as_slice(), &[format, 0, count], &division.to_be_bytes()].concat();
    for track in tracks {
        let events = [track.as_slice(), &[0, 0xff, 0x2f, 0]].concat();
        bytes.extend([b"MTrk".as_slice(), &u32::try_from(events.len()).unwrap().to_be_bytes()].concat());
        bytes.extend(events);
    }
    bytes
}

/// An event after so many pulses.
fn event(delta: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(delta & 0x7f).unwrap()];
    let mut rest = delta >> 7;
    while rest > 0 {
        out.insert(0, u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    out.extend(bytes);
    out
}

fn meta(delta: u32, kind: u8, text: &[u8]) -> Vec<u8> {
    event(delta, &[&[0xff, kind, u8::try_from(text.len()).unwrap()], text].concat())
}

/// Notes of (key, pulses before it, pulses that it lasts), with note-offs by velocity 0.
fn notes(channel: u8, played: &[(u8, u32, u32)]) -> Vec<u8> {
    let note = |&(key, before, length): &(u8, u32, u32)| {
        [event(before, &[0x90 | channel, key, 80]), event(length, &[0x90 | channel, key, 0])].concat()
    };
    played.iter().flat_map(note).collect()
}

fn read(bytes: &[u8]) -> Score {
    read_score(bytes, "tune.mid").unwrap_or_else(|error| panic!("{error}"))
}

fn message(bytes: &[u8]) -> String {
    read_score(bytes, "tune.mid").map(|_| ()).expect_err("this was read").to_string()
}

/// Pitch, onset and duration in twelfths of a quarter.
fn told(notes: &[Note]) -> Vec<(u8, i64, i64)> {
    notes.iter().map(|note| (note.pitch.midi, note.onset * 12 / Q, note.duration * 12 / Q)).collect()
}

const TIME_3_4: [u8; 4] = [3, 2, 24, 8];

#[test]
fn tracks_become_parts_with_names_tempo_metre_and_key() {
    let head = [
        meta(0, 3, b"A tune"),
        meta(0, 2, "© N. N.".as_bytes()),
        meta(0, 0x51, &[0x09, 0x27, 0xc0]),
        meta(0, 0x58, &TIME_3_4),
        meta(0, 0x59, &[0xfe, 0]),
        meta(960, 0x51, &[0x07, 0xa1, 0x20]),
    ];
    let tune = [meta(0, 3, b"Melody"), notes(0, &[(70, 0, 480), (69, 0, 240), (67, 0, 720)])].concat();
    let drums = notes(9, &[(35, 0, 480)]);
    let score = read(&file(1, 480, &[head.concat(), tune, drums]));
    assert_eq!((score.title.as_deref(), score.tempo), (Some("A tune"), Some(100.0)));
    assert_eq!((score.credits[0].kind.as_str(), score.credits[0].name.as_str()), ("rights", "© N. N."));
    assert_eq!(score.parts.len(), 1, "drums are no part");
    assert_eq!(score.parts[0].name, "Melody");
    assert_eq!(told(&score.parts[0].notes), [(70, 0, 12), (69, 12, 6), (67, 18, 18)]);
    let pitch = score.parts[0].notes[0].pitch;
    assert_eq!((pitch.step, pitch.alter), (6, -1), "B flat, not A sharp");
    let bars: Vec<_> = score.measures.iter().map(|m| (m.number.as_str(), m.start, m.time)).collect();
    assert_eq!(bars, [("1", 0, (3, 4))]);
    assert_eq!(score.measures[0].key, KeySignature { fifths: -2, mode: Some(Mode::Major) });
    let tempi: Vec<_> = score.measures[0].notation.directions.iter().map(|d| (d.onset, d.tempo)).collect();
    assert_eq!(tempi, [(0, Some(100.0)), (2 * Q, Some(120.0))]);
    assert!(!score.key_guessed && score.remarks.is_empty(), "{:?}", score.remarks);
}

#[test]
fn the_channels_of_a_single_track_are_parts() {
    let both = [
        event(0, &[0x90, 72, 80]),
        event(0, &[0x91, 48, 80]),
        event(480, &[0x80, 72, 0]),
        event(0, &[0x81, 48, 0]),
    ];
    let score = read(&file(0, 480, &[both.concat()]));
    let names: Vec<&str> = score.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["Channel 1", "Channel 2"]);
}

#[test]
fn running_status_overlaps_and_notes_that_nobody_ends_are_read() {
    let track = [
        event(0, &[0x90, 60, 80]),
        // Running status; the same key again ends the note before.
        event(480, &[60, 80]),
        event(480, &[62, 80]),
        event(480, &[60, 0]),
        event(480, &[64, 0]),
    ];
    let score = read(&file(1, 480, &[track.concat()]));
    assert_eq!(told(&score.parts[0].notes), [(60, 0, 12), (60, 12, 24), (62, 24, 24)]);
}

#[test]
fn grace_notes_whose_end_is_written_before_their_beginning_do_not_sound_on() {
    let (on, off) =
        (|key: u8| event(0, &[0x90, key, 80]), |after: u32, key: u8| event(after, &[0x80, key, 0]));
    let tune =
        [on(74), off(480, 74), off(0, 76), on(76), on(78), off(480, 78), on(76), off(480, 76)].concat();
    assert_eq!(told(&read(&file(0, 480, &[tune])).parts[0].notes), [(74, 0, 12), (78, 12, 12), (76, 24, 12)]);
    // Two voices meet: of the ends at the same time one is the first note's, and the next note sounds.
    let unison =
        [on(74), event(240, &[0x90, 74, 80]), off(240, 74), off(0, 74), on(74), off(480, 74)].concat();
    assert_eq!(told(&read(&file(0, 480, &[unison])).parts[0].notes), [(74, 0, 6), (74, 6, 6), (74, 12, 12)]);
}

#[test]
fn a_first_bar_of_a_shorter_metre_is_a_pickup() {
    let head = [meta(0, 0x58, &[1, 2, 24, 8]), meta(480, 0x58, &[4, 2, 24, 8])].concat();
    let tune = notes(0, &[(67, 0, 480), (72, 0, 1920)]);
    let score = read(&file(1, 480, &[head, tune]));
    let bars: Vec<_> =
        score.measures.iter().map(|m| (m.number.as_str(), m.duration, m.implicit, m.time)).collect();
    assert_eq!(bars, [("0", Q, true, (4, 4)), ("1", 4 * Q, false, (4, 4))]);
}

#[test]
fn seconds_become_beats_by_the_tempo() {
    // 25 frames a second of 40 parts: a pulse is a millisecond. At 120 a quarter is 500 of them.
    let tune = notes(0, &[(60, 0, 500), (62, 0, 250), (64, 0, 250)]);
    let score = read(&file(1, 0xe728, &[tune]));
    assert_eq!(told(&score.parts[0].notes), [(60, 0, 12), (62, 12, 6), (64, 18, 6)]);
    assert!(score.remarks.iter().any(|remark| remark.contains("counts in seconds")), "{:?}", score.remarks);
}

#[test]
fn what_was_played_is_written_in_sixteenths_and_triplets_and_said() {
    let tune = notes(0, &[(60, 9, 470), (62, 18, 150), (64, 8, 148), (65, 14, 140), (67, 6, 1800)]);
    let score = read(&file(1, 480, &[tune]));
    assert_eq!(
        told(&score.parts[0].notes),
        [(60, 0, 12), (62, 12, 4), (64, 16, 4), (65, 20, 4), (67, 24, 48)]
    );
    assert!(score.remarks[0].contains("played off the beat's grid"), "{:?}", score.remarks);
}

#[test]
fn triplets_and_thirty_seconds_of_a_notation_program_stay_exact() {
    let tune = notes(0, &[(60, 0, 159), (62, 1, 159), (64, 1, 159), (65, 1, 59), (67, 1, 59), (69, 1, 359)]);
    let score = read(&file(1, 480, &[tune]));
    let onsets: Vec<i64> = score.parts[0].notes.iter().map(|note| note.onset).collect();
    assert_eq!(onsets, [0, Q / 3, 2 * Q / 3, Q, Q * 9 / 8, Q * 5 / 4]);
    let ends: Vec<i64> = score.parts[0].notes.iter().map(Note::end).collect();
    assert_eq!(ends, [Q / 3, 2 * Q / 3, Q, Q * 9 / 8, Q * 5 / 4, 2 * Q]);
    assert!(!score.remarks.iter().any(|remark| remark.contains("played")), "{:?}", score.remarks);
}

#[test]
fn a_key_that_the_file_does_not_say_is_found_and_said() {
    let scale: Vec<(u8, u32, u32)> =
        [62, 64, 66, 67, 69, 71, 73, 74, 69, 66, 62, 62].map(|key| (key, 0, 480)).to_vec();
    for head in [Vec::new(), meta(0, 0x59, &[0, 0])] {
        let mut score = read(&file(1, 480, &[[head, notes(0, &scale)].concat()]));
        assert!(score.key_guessed);
        assert_eq!(score.measures[0].key, KeySignature { fifths: 2, mode: Some(Mode::Major) });
        assert!(score.remarks[0].contains("D major"), "{:?}", score.remarks);
        score.declare_key(KeySignature { fifths: -3, mode: Some(Mode::Minor) });
        let pitch = score.parts[0].notes[2].pitch;
        assert_eq!((pitch.step, pitch.alter, score.measures[1].key.fifths), (4, -1, -3), "G flat now");
    }
}

#[test]
fn lyrics_find_their_notes_and_words_their_syllables() {
    let verse = |texts: [&str; 4]| -> Vec<u8> {
        let sung = texts.map(|text| [meta(0, 5, text.as_bytes()), notes(0, &[(60, 0, 480)])].concat());
        sung.concat()
    };
    for texts in [["Twin-", "kle", "lit-", "tle"], ["Twin", "kle ", "lit", "tle "]] {
        let score = read(&file(1, 480, &[verse(texts)]));
        let told: Vec<_> = score.parts[0].notes.iter().map(|note| note.lyric().unwrap_or_default()).collect();
        assert_eq!(told, ["Twin-", "kle", "lit-", "tle"]);
    }
    // In a track of their own, a little early.
    let words = [meta(470, 5, b"lu-"), meta(490, 5, b"ja")].concat();
    let score = read(&file(1, 480, &[words, notes(0, &[(60, 0, 480), (62, 0, 480), (64, 0, 480)])]));
    let told: Vec<_> = score.parts[0].notes.iter().map(Note::lyric).collect();
    assert_eq!(told, [None, Some("lu-".to_owned()), Some("ja".to_owned())]);
}

#[test]
fn what_is_written_is_read_again_with_its_words_tempi_metres_keys_and_pickup() {
    let head = [
        meta(0, 0x51, &[0x09, 0x27, 0xc0]),
        meta(0, 0x58, &[3, 3, 24, 8]),
        meta(0, 0x59, &[0xfd, 1]),
        meta(720, 0x58, &[6, 3, 24, 8]),
        meta(1440, 0x51, &[0x07, 0xa1, 0x20]),
        meta(0, 0x59, &[0, 0]),
    ];
    let tune =
        [meta(0, 3, b"Soprano"), meta(0, 5, b"Lo-"), notes(0, &[(67, 0, 720), (60, 0, 1440), (64, 0, 1440)])];
    let score = read(&file(1, 480, &[head.concat(), tune.concat()]));
    assert_eq!(score.measures.iter().map(|m| m.implicit).collect::<Vec<_>>(), [true, false, false]);
    let again = read(&write_midi(&score));
    assert_eq!((&again.parts, &again.measures, again.tempo), (&score.parts, &score.measures, Some(100.0)));
    let keys: Vec<i8> = again.measures.iter().map(|measure| measure.key.fifths).collect();
    assert_eq!(keys, [-3, -3, 0]);
    assert_eq!(again.measures[2].notation.directions[0].tempo, Some(120.0));
}

#[test]
fn a_midi_file_in_riff_is_read() {
    let inner = file(1, 480, &[notes(0, &[(60, 0, 480)])]);
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
    let riff = [b"RIFF".as_slice(), &length(inner.len() + 12), b"RMIDdata", &length(inner.len()), &inner];
    assert_eq!(told(&read(&riff.concat()).parts[0].notes), [(60, 0, 12)]);
}

#[test]
fn what_is_no_tune_is_refused_with_a_reason() {
    let tune = || notes(0, &[(60, 0, 480), (62, 0, 480)]);
    let good = file(1, 480, &[tune()]);
    let cases = [
        (file(1, 480, &[notes(9, &[(35, 0, 480)])]), "its only notes are a drum's"),
        (file(1, 480, &[meta(0, 3, b"x")]), "no part of the score has a note"),
        (file(2, 480, &[tune()]), "the head: it is of format 2"),
        (file(1, 0, &[tune()]), "the head: a beat of no length"),
        (good[..good.len() - 9].to_vec(), "track 1: it ends in the middle"),
        (b"MThd\0\0\0\x06".to_vec(), "the head"),
        (
            file(1, 1, &[notes(0, &[(60, 0xfff_ffff, 1), (60, 0xfff_ffff, 1)])]),
            "more than 100000 quarter notes",
        ),
    ];
    for (bytes, expected) in cases {
        let message = message(&bytes);
        assert!(message.starts_with("tune.mid") && message.contains(expected), "{message}: not {expected}");
    }
    let mut promised = good;
    promised[11] = 2;
    assert!(message(&promised).contains("it promises 2 tracks, and 1 are there"));
    let large = [b"MThd".as_slice(), &vec![0; 9 << 20]].concat();
    assert!(matches!(read_score(&large, "x.mid"), Err(ReadError::TooLarge { .. })));
}

/// A line of notes in one or several lengths, one after another.
fn any_tune() -> impl Strategy<Value = Vec<(u8, u32, u32)>> {
    let length = prop_oneof![Just(480_u32), Just(240), Just(120), Just(160), Just(720), Just(960)];
    prop::collection::vec((50_u8..80, prop_oneof![3 => Just(0_u32), 1 => Just(480)], length), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn exact_tunes_come_back_exactly_and_through_musicxml(tune in any_tune()) {
        let score = read(&file(1, 480, &[notes(0, &tune)]));
        let mut at = 0;
        let mut expected = Vec::new();
        for &(key, before, length) in &tune {
            at += i64::from(before);
            expected.push((key, at * 21, i64::from(length) * 21));
            at += i64::from(length);
        }
        let got: Vec<_> = score.parts[0].notes.iter().map(|n| (n.pitch.midi, n.onset, n.duration)).collect();
        prop_assert_eq!(&got, &expected);
        let again = read(&write_midi(&score));
        let got: Vec<_> = again.parts[0].notes.iter().map(|n| (n.pitch.midi, n.onset, n.duration)).collect();
        prop_assert_eq!(&got, &expected);
        prop_assert_eq!(&again.measures[0].key, &score.measures[0].key);
        let back = read_score(write_musicxml(&score).as_bytes(), "x").unwrap();
        let pitches = |score: &Score| -> Vec<_> {
            score.parts[0].notes.iter().filter(|n| !n.tie_from).map(|n| (n.onset, n.pitch)).collect()
        };
        prop_assert_eq!(pitches(&back), pitches(&score));
    }
}

/// Some bytes with stretches overwritten, removed or repeated.
fn damaged(sound: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0_usize..20, 0_u8..4, any::<u8>());
    prop::collection::vec(change, 1..8).prop_map(move |changes| {
        let mut bytes = sound.clone();
        for (place, length, kind, byte) in changes {
            let start = place.index(bytes.len());
            let end = (start + length).min(bytes.len());
            let stretch = bytes[start..end].to_vec();
            match kind {
                0 | 1 => bytes[start] = byte,
                2 if bytes.len() > 60 => drop(bytes.drain(start..end)),
                _ => drop(bytes.splice(start..start, stretch)),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn damaged_files_are_refused_or_read(
        bytes in damaged(file(1, 480, &[
            [meta(0, 3, b"T"), meta(0, 0x58, &TIME_3_4), meta(5, 0x51, &[9, 39, 192]), meta(0, 0x59, &[2, 1])].concat(),
            [meta(0, 5, b"la-"), notes(0, &[(60, 0, 480), (62, 7, 133)]), notes(3, &[(40, 3, 300)])].concat(),
        ]))
    ) {
        if let Ok(score) = read_score(&bytes, "fuzz") {
            prop_assert!(score.parts.iter().flat_map(|part| &part.notes).all(|n| n.onset >= 0 && n.duration > 0));
            prop_assert!(write_musicxml(&score).ends_with("</score-partwise>\n"));
        }
    }

    #[test]
    fn arbitrary_bytes_behind_a_head_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_score(&[b"MThd\0\0\0\x06\0\x01\0\x01\x01\xe0MTrk\0\0\0\xff".as_slice(), &bytes].concat(), "x");
        let _ = read_score(&[b"MThd".as_slice(), &bytes].concat(), "x");
        let _ = read_score(&[b"RIFF\0\0\0\0RMID".as_slice(), &bytes].concat(), "x");
    }
}
