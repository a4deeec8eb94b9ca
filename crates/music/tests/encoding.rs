//! The token encoding and its inverse: worked examples, and that going round changes nothing.

use kapell_music::decode::{DecodeError, Frame, FrameNote, decode, four_voices};
use kapell_music::encode::{EncodeError, EncodedPiece, Token, encode_chorale, encode_voices};
use kapell_music::key::Key;
use kapell_music::score::{Mode, Notation, Note, Part, Pitch, Score, TICKS_PER_FRAME};
use proptest::prelude::*;

const C_MAJOR: Key = Key { tonic: 0, mode: Mode::Major };

fn note(midi: u8, onset: i64, duration: i64) -> Note {
    let pitch = Pitch { midi, step: 0, alter: 0 };
    let (tie_from, tie_to, fermata) = (false, false, false);
    Note { onset, duration, pitch, tie_from, tie_to, fermata, voice: 1, notation: Notation::default() }
}

/// A voice from words such as "72*4" (a pitch for four frames), "r*2" (a rest), "72~*4" (tied to the next note),
/// "72^*4" (under a fermata). Half frames are written "72*1.5".
fn voice(words: &str) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    let mut onset = 0;
    for word in words.split_whitespace() {
        let (what, frames) = word.split_once('*').expect("PITCH*FRAMES");
        let halves = (frames.parse::<f64>().expect("a number of frames") * 2.0).round();
        let duration = (0..).find(|n| f64::from(*n) >= halves).map_or(0, i64::from) * TICKS_PER_FRAME / 2;
        let pitch: String = what.chars().filter(char::is_ascii_digit).collect();
        if let Ok(midi) = pitch.parse() {
            let tie_from = notes.last().is_some_and(|last| last.tie_to && last.pitch.midi == midi);
            let (tie_to, fermata) = (what.contains('~'), what.contains('^'));
            notes.push(Note { tie_from, tie_to, fermata, ..note(midi, onset, duration) });
        }
        onset += duration;
    }
    notes
}

fn encode(voices: [&str; 4]) -> Result<EncodedPiece, EncodeError> {
    let notes = voices.map(voice);
    encode_voices([&notes[0], &notes[1], &notes[2], &notes[3]], C_MAJOR, 0)
}

/// Tokens in short: "72" struck, "72-" held, "." a fermata, "|" between frames.
fn check(voices: [&str; 4], expected: &str) {
    let tokens = encode(voices).map(|piece| piece.tokens).unwrap_or_default();
    let short = tokens.iter().filter_map(|token| match token {
        Token::Start | Token::End => None,
        Token::FrameEnd => Some("|".to_owned()),
        Token::Fermata => Some(".".to_owned()),
        Token::Note { midi, tied } => Some(format!("{midi}{}", if *tied { "-" } else { "" })),
    });
    assert_eq!(short.collect::<Vec<_>>().join(" "), expected);
    assert_eq!((tokens.first(), tokens.last()), (Some(&Token::Start), Some(&Token::End)));
}

#[test]
fn a_frame_has_the_sounding_notes_from_soprano_to_bass() {
    check(["72*2", "67*1 65*1", "64*2", "48*2"], "72 67 64 48 | 72- 65 64- 48-");
}

#[test]
fn crossing_voices_keep_their_order() {
    check(["60*1", "64*1", "55*1", "48*1"], "60 64 55 48");
}

#[test]
fn a_unison_is_one_token_the_upper_voices() {
    check(["67*2", "65*1 67*1", "60*2", "48*2"], "67 65 60 48 | 67- 60- 48-");
}

#[test]
fn a_tied_note_is_not_struck_again() {
    check(["72~*1 72*1", "r*2", "r*2", "48*1 48*1"], "72 48 | 72- 48");
}

#[test]
fn rests_are_empty_frames_also_at_the_end() {
    check(["r*1 72*1", "", "", ""], "| 72");
    let notes = voice("72*1");
    let piece = encode_voices([&notes, &[], &[], &[]], C_MAJOR, 3 * TICKS_PER_FRAME);
    assert_eq!(piece.map(|piece| (piece.frames, piece.tokens.len())), Ok((3, 5)));
}

#[test]
fn a_fermata_marks_the_last_slice_of_its_note() {
    check(
        ["72^*4", "67*2 65*2", "64*4", "48*4"],
        "72 67 64 48 | 72- 67- 64- 48- | . 72- 65 64- 48- | . 72- 65- 64- 48-",
    );
    check(["72^*2 74*1", "67*3", "64*3", "48*3"], ". 72 67 64 48 | . 72- 67- 64- 48- | 74 67- 64- 48-");
}

#[test]
fn onsets_and_ends_go_to_the_nearest_sixteenth_and_no_note_vanishes() {
    // Thirty-seconds: the first begins on the grid, the second half-way, which goes up.
    check(["72*0.5 74*0.5 76*1", "", "", ""], "72 | 74 76");
    check(["72*1.5 74*0.5", "", "", ""], "72 | 72- | 74");
}

#[test]
fn a_divided_voice_is_written_from_the_top() {
    let bass = [note(40, 0, TICKS_PER_FRAME), note(52, 0, TICKS_PER_FRAME)];
    let piece = encode_voices([&[], &[], &[], &bass], C_MAJOR, 0).map(|piece| piece.tokens);
    let struck = |midi| Token::Note { midi, tied: false };
    assert_eq!(piece, Ok(vec![Token::Start, struck(52), struck(40), Token::End]));
}

fn chorale(names: [&str; 4], voices: [&str; 4]) -> Score {
    let part =
        |(name, words): (&str, &str)| Part { name: name.to_owned(), notes: voice(words), ..Part::default() };
    Score { parts: names.into_iter().zip(voices).map(part).collect(), ..Score::default() }
}

#[test]
fn a_chorale_is_moved_to_c_major() {
    let d_major = chorale(
        ["Soprano", "Alto", "Tenor", "Bass"],
        ["74*4 76*4 78*4 74*8", "69*4 69*4 69*4 69*8", "66*4 64*4 62*4 66*8", "50*4 49*4 50*4 50*8"],
    );
    let piece = encode_chorale(&d_major).map(|piece| (piece.transposition, piece.mode, piece.tokens[1]));
    assert_eq!(piece, Ok((-2, Mode::Major, Token::Note { midi: 72, tied: false })));
}

#[test]
fn three_parts_are_no_chorale() {
    let mut score = chorale(["Soprano", "Alto", "Tenor", "Bass"], ["72*4", "67*4", "64*4", "48*4"]);
    score.parts.remove(2);
    let message = encode_chorale(&score).map_err(|error| error.to_string());
    let expected = "a chorale has four voices, but this score's parts are: Soprano, Alto, Bass; name four of them \
                    Soprano, Alto, Tenor and Bass, or leave exactly four parts";
    assert_eq!(message, Err(expected.to_owned()));
}

#[test]
fn a_voice_without_notes_is_named() {
    let score = chorale(["S.", "A.", "T.", "B."], ["72*4", "67*4", "r*4", "48*4"]);
    assert_eq!(encode_chorale(&score), Err(EncodeError::SilentVoice { voice: "tenor" }));
}

#[test]
fn endless_and_broken_notes_are_refused() {
    let refused = |note: Note| encode_voices([&[note], &[], &[], &[]], C_MAJOR, 0).is_err();
    assert!(refused(note(60, 0, i64::MAX)));
    assert!(refused(note(60, i64::MAX, 1)));
    assert!(refused(note(60, -TICKS_PER_FRAME, TICKS_PER_FRAME)));
    assert!(refused(note(60, 0, 0)));
    assert!(encode_voices([&[], &[], &[], &[]], C_MAJOR, i64::MAX).is_err());
}

#[test]
fn pitches_that_leave_the_midi_range_are_refused() {
    let f_sharp = Key { tonic: 6, mode: Mode::Major };
    let high = [note(126, 0, TICKS_PER_FRAME)];
    let refused = encode_voices([&high, &[], &[], &[]], f_sharp, 0);
    assert_eq!(refused, Err(EncodeError::OutOfRange { voice: "soprano", transposition: 6, midi: 132 }));
}

fn tokens(words: &str) -> Vec<Token> {
    words.split('/').map(|word| word.parse().expect("a token")).collect()
}

#[test]
fn streams_that_are_no_piece_are_refused() {
    assert_eq!(decode(&[]), Err(DecodeError::NoStart("nothing".to_owned())));
    assert_eq!(decode(&tokens("|||/END")), Err(DecodeError::NoStart("|||".to_owned())));
    assert_eq!(decode(&tokens("START/|||/(60, False)")), Err(DecodeError::NoEnd { frames: 1 }));
    for (words, position) in [
        ("START/START/END", 1),
        ("START/END/END", 1),
        ("START/(60, False)/(.)/END", 2),
        ("START/(.)/(.)/END", 2),
    ] {
        let tokens = tokens(words);
        assert_eq!(
            decode(&tokens),
            Err(DecodeError::Misplaced { position, token: tokens[position] }),
            "{words}"
        );
    }
}

#[test]
fn five_notes_are_more_than_four_voices() {
    let notes = (60..65).map(|midi| FrameNote { midi, tied: false }).collect();
    let frames = [Frame::default(), Frame { fermata: false, notes }];
    assert_eq!(four_voices(&frames, 0, 0), Err(DecodeError::TooManyNotes { frame: 1, notes: 5 }));
}

#[test]
fn a_held_note_stays_in_its_voice_even_where_that_moves_another_far() {
    let tokens =
        tokens("START/(72, False)/(60, False)/(59, False)/(48, False)/|||/(59, False)/(60, True)/END");
    let voices = decode(&tokens).and_then(|frames| four_voices(&frames, 0, 0)).unwrap_or_default();
    let pitches =
        voices.map(|notes| notes.iter().map(|note| (note.pitch.midi, note.duration)).collect::<Vec<_>>());
    let frame = TICKS_PER_FRAME;
    assert_eq!(
        pitches,
        [vec![(72, frame), (59, frame)], vec![(60, 2 * frame)], vec![(59, frame)], vec![(48, frame)]]
    );
}

/// Encodes frames by way of four voices.
fn round_trip(frames: &[Frame]) -> Result<Vec<Frame>, String> {
    let voices = four_voices(frames, 0, 0).map_err(|error| error.to_string())?;
    let [s, a, t, b] = &voices;
    let frames = i64::try_from(frames.len()).unwrap_or(0);
    let piece =
        encode_voices([s, a, t, b], C_MAJOR, frames * TICKS_PER_FRAME).map_err(|error| error.to_string())?;
    decode(&piece.tokens).map_err(|error| error.to_string())
}

fn any_voice() -> impl Strategy<Value = Vec<Note>> {
    let event =
        (prop::option::weighted(0.85, 48_u8..80), 1_i64..12, any::<bool>(), prop::bool::weighted(0.15));
    prop::collection::vec(event, 0..20).prop_map(|events| {
        let mut notes: Vec<Note> = Vec::new();
        let mut onset = 0;
        for (midi, half_frames, tie_to, fermata) in events {
            let duration = half_frames * TICKS_PER_FRAME / 2;
            if let Some(midi) = midi {
                let tied = |last: &Note| {
                    last.tie_to && last.pitch.midi == midi && last.onset + last.duration == onset
                };
                let tie_from = notes.last().is_some_and(tied);
                notes.push(Note { tie_from, tie_to, fermata, ..note(midi, onset, duration) });
            }
            onset += duration;
        }
        notes
    })
}

/// Frames as a model might write them: up to four different pitches in any order, held from nowhere or not.
fn any_frames() -> impl Strategy<Value = Vec<Frame>> {
    let note = (50_u8..62, any::<bool>());
    let frame =
        (prop::collection::vec(note, 0..5), prop::bool::weighted(0.3)).prop_map(|(notes, fermata)| {
            let mut frame = Frame::default();
            for (midi, tied) in notes {
                if frame.notes.iter().all(|note| note.midi != midi) {
                    frame.notes.push(FrameNote { midi, tied });
                }
            }
            // A fermata lies on a note.
            frame.fermata = fermata && !frame.notes.is_empty();
            frame
        });
    // A piece of one empty frame is spelt as a piece of none.
    prop::collection::vec(frame, 2..40)
}

/// Where each pitch of some voices sounds: (frame, pitch, struck).
fn sounding(voices: &[Vec<Note>]) -> Vec<(i64, u8, bool)> {
    let mut all: Vec<_> = voices.iter().flatten().collect();
    all.sort_by_key(|note| note.onset);
    let frames = |note: &Note| note.onset / TICKS_PER_FRAME..(note.onset + note.duration) / TICKS_PER_FRAME;
    let mut sounding: Vec<_> = all
        .iter()
        .flat_map(|note| {
            frames(note).enumerate().map(|(nth, frame)| (frame, note.pitch.midi, nth == 0 && !note.tie_from))
        })
        .collect();
    sounding.sort_unstable();
    sounding
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn encoding_decoding_and_encoding_again_changes_nothing(
        s in any_voice(), a in any_voice(), t in any_voice(), b in any_voice(),
    ) {
        let piece = encode_voices([&s, &a, &t, &b], C_MAJOR, 0).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let frames = decode(&piece.tokens).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(frames.len(), piece.frames);
        // Notes that were too short for the grid can overlap, in more than four voices' notes.
        prop_assume!(frames.iter().all(|frame| frame.notes.len() <= 4));
        prop_assert_eq!(round_trip(&frames), Ok(frames));
    }

    #[test]
    fn whatever_a_model_writes_survives_the_way_through_four_voices(frames in any_frames()) {
        prop_assert_eq!(round_trip(&frames), Ok(frames));
    }

    #[test]
    fn notes_on_the_grid_without_unisons_come_back_as_they_were(
        s in any_voice(), a in any_voice(), t in any_voice(), b in any_voice(),
    ) {
        // An octave apart, so that no two voices meet; whole sixteenths.
        let mut voices = [s, a, t, b];
        for (voice, low) in voices.iter_mut().zip([84, 72, 60, 48]) {
            for note in voice.iter_mut() {
                note.pitch.midi = low + note.pitch.midi % 12;
                note.onset *= 2;
                note.duration *= 2;
            }
            // Folding pitches together makes no new ties.
            for at in 1..voice.len() {
                voice[at].tie_from &= voice[at - 1].tie_to && voice[at - 1].pitch.midi == voice[at].pitch.midi;
            }
        }
        let [s, a, t, b] = &voices;
        let piece = encode_voices([s, a, t, b], C_MAJOR, 0).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let frames = decode(&piece.tokens).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let decoded = four_voices(&frames, 0, 0).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(sounding(&decoded), sounding(&voices));
    }

    #[test]
    fn any_stream_of_tokens_is_decoded_or_refused(
        kinds in prop::collection::vec((0_u8..6, 0_u8..128, any::<bool>()), 0..60),
    ) {
        let token = |(kind, midi, tied)| match kind {
            0 => Token::Start,
            1 => Token::End,
            2 => Token::FrameEnd,
            3 => Token::Fermata,
            _ => Token::Note { midi, tied },
        };
        let mut stream = vec![Token::Start];
        stream.extend(kinds.into_iter().map(token).filter(|token| !matches!(token, Token::Start | Token::End)));
        stream.push(Token::End);
        if let Ok(frames) = decode(&stream) {
            let _ = four_voices(&frames, -12, 3);
        }
    }
}
