//! From melody to score and back, with noise in place of a model.

use kapell_music::encode::encode_voices;
use kapell_music::score::{KeySignature, Measure, Mode, Notation, Note, Part, Signatures, TICKS_PER_QUARTER};
use kapell_music::write::spelling::spell;
use proptest::prelude::*;

use super::vocabulary::tests::music;
use super::*;
use crate::philox::block;

/// Ticks of so many quarter notes.
pub(super) fn beats(quarters: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    let ticks = (quarters * 10_080.0).round() as i64;
    ticks
}

/// Notes of (pitch, onset, duration), in quarter notes.
pub(super) fn line(notes: &[(u8, f64, f64)]) -> Vec<Note> {
    let note = |&(midi, onset, duration): &(u8, f64, f64)| Note {
        onset: beats(onset),
        duration: beats(duration),
        pitch: spell(midi, 0),
        tie_from: false,
        tie_to: false,
        fermata: false,
        voice: 1,
        notation: Notation::default(),
    };
    notes.iter().map(note).collect()
}

/// A score of one part and one measure.
pub(super) fn score_of(notes: Vec<Note>, fifths: i8) -> Score {
    let measure = Measure {
        number: "1".into(),
        start: 0,
        duration: 4 * TICKS_PER_QUARTER,
        time: (4, 4),
        key: KeySignature { fifths, mode: None },
        ..Measure::default()
    };
    let part = Part { id: "X".into(), name: "Voice".into(), notes, ..Default::default() };
    Score { parts: vec![part], measures: vec![measure], ..Score::default() }
}

/// Scores by what was said, as if at random. Frames of few notes are unlikely.
struct Noise(Arc<Vocabulary>);

impl NextToken for Noise {
    type State = u32;

    fn start(&self) -> u32 {
        0
    }

    fn step(&mut self, rows: &mut [&mut u32], tokens: &[u16], logits: &mut [f32]) {
        for ((state, &token), logits) in
            rows.iter_mut().zip(tokens).zip(logits.chunks_exact_mut(self.0.len()))
        {
            **state = block([**state, u32::from(token), 0, 0], [1, 2])[0];
            self.score(**state, logits);
        }
    }
}

impl Noise {
    fn score(&self, state: u32, logits: &mut [f32]) {
        for (logit, at) in logits.iter_mut().zip(0..) {
            let word = block([state, at, 1, 0], [1, 2])[0];
            *logit = f32::from(u16::try_from(word >> 16).expect("a half")) / 16_384.0;
        }
        for (id, token) in self.0.iter() {
            let logit = &mut logits[usize::from(id)];
            match token {
                Token::Note { tied: true, .. } => *logit += 2.0,
                Token::FrameEnd | Token::End => *logit -= 1.0,
                _ => {}
            }
        }
    }
}

fn noise() -> Noise {
    Noise(Arc::new(music(36, 84)))
}

fn set(score: &Score) -> Piece {
    set_by(score, Rules::default(), Search::Greedy)
}

fn set_by(score: &Score, rules: Rules, search: Search) -> Piece {
    let mut model = noise();
    let vocabulary = Arc::clone(&model.0);
    let phrases = if rules == Rules::NONE { Phrases::Fermatas } else { Phrases::Auto };
    let request = Request { rules, phrases, ..Request::of_melody(score, 0) };
    harmonize(&mut model, &vocabulary, request, search).expect("a melody")
}

#[test]
fn a_piece_has_four_named_parts_and_the_melodys_measures() {
    let score = score_of(line(&[(72, 0.0, 1.0), (74, 1.0, 3.0)]), 1);
    let piece = set(&score);
    let names: Vec<&str> = piece.score.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, PART_NAMES);
    assert_eq!(piece.score.measures, score.measures);
    assert_eq!(piece.frames, 16);
    assert_eq!(piece.transposition, -5);
}

#[test]
fn the_measures_have_the_given_parts_signatures() {
    let mut score = score_of(line(&[(72, 0.0, 1.0), (74, 1.0, 3.0)]), 1);
    let key = KeySignature { fifths: -2, mode: Some(Mode::Minor) };
    let own = Signatures { key, time: (2, 2), ..Signatures::default() };
    score.parts.push(Part { name: "Voice".into(), ..score.parts[0].clone() });
    score.parts[1].signatures.insert(0, own.clone());
    let mut model = noise();
    let vocabulary = Arc::clone(&model.0);
    let piece =
        harmonize(&mut model, &vocabulary, Request::of_melody(&score, 1), Search::Greedy).expect("a piece");
    assert_eq!(piece.score.measures[0].signatures(), own);
    assert!(piece.score.parts.iter().all(|part| part.signatures.is_empty()));
}

#[test]
fn behind_a_change_of_key_notes_are_spelt_in_the_new_one() {
    let mut score = score_of(line(&[(72, 0.0, 4.0), (72, 4.0, 4.0), (73, 8.0, 4.0)]), 4);
    for (start, fifths) in [(4.0, 4), (8.0, -4)] {
        let key = KeySignature { fifths, mode: None };
        score.measures.push(Measure { start: beats(start), key, ..score.measures[0].clone() });
    }
    let piece = set(&score);
    for note in piece.score.parts[1..].iter().flat_map(|part| &part.notes) {
        let fifths = if note.onset < beats(8.0) { 4 } else { -4 };
        assert_eq!(note.pitch, spell(note.pitch.midi, fifths), "{note:?}");
    }
}

#[test]
fn nats_per_token_are_of_the_tokens_after_start() {
    let piece = set(&score_of(line(&[(72, 0.0, 1.0)]), 0));
    let scored = f64::from(u32::try_from(piece.tokens.len() - 1).expect("small"));
    assert!((piece.nats_per_token() * scored + piece.log_likelihood).abs() < 1e-9);
    assert!(piece.log_likelihood < 0.0);
}

#[test]
fn a_fermata_is_on_what_sounds_at_its_end_in_every_voice() {
    let mut notes = line(&[(72, 0.0, 1.0), (74, 1.0, 1.0), (72, 2.0, 1.0)]);
    notes[1].fermata = true;
    let piece = set(&score_of(notes, 0));
    for part in &piece.score.parts {
        let with: Vec<&Note> = part.notes.iter().filter(|note| note.fermata).collect();
        assert!(with.len() <= 1, "{}", part.name);
        assert!(with.iter().all(|note| note.onset + note.duration >= beats(2.0) && note.onset < beats(2.0)));
    }
    assert!(piece.score.parts.iter().filter(|part| part.notes.iter().any(|note| note.fermata)).count() > 1);
}

#[test]
fn lower_voices_begin_and_end_with_the_melody() {
    let piece = set(&score_of(line(&[(72, 2.5, 1.0), (74, 3.5, 1.1)]), 0));
    for note in piece.score.parts[1..].iter().flat_map(|part| &part.notes) {
        assert!(note.onset >= beats(2.5) && note.onset + note.duration <= beats(4.6), "{note:?}");
    }
}

#[test]
fn compositions_are_cut_at_the_limit_and_say_so() {
    let mut model = noise();
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 5 };
    let composition = Composition::new(&model.0, 20, &Rules::NONE, "Noise".into());
    let piece = compose(&mut model, &composition, sampling).expect("a piece");
    assert_eq!(piece.score.parts.len(), 4);
    assert!(piece.frames <= 20);
    assert_eq!(piece.remarks.is_empty(), piece.frames < 20);
    assert_eq!(piece.score.measures.len(), piece.frames.div_ceil(16));
}

/// Lines of one note after another, some with rests between, off the grid, doubled, or far from any soprano.
fn any_line() -> impl Strategy<Value = Vec<Note>> {
    let step =
        (40_u8..96, 1_i64..9, 0_i64..3, any::<bool>(), prop_oneof![Just(2520_i64), Just(3360), Just(1260)]);
    prop::collection::vec(step, 1..30).prop_map(|steps| {
        let mut at = 0;
        let mut notes = Vec::new();
        for (midi, length, rest, chord, unit) in steps {
            at += rest / 2 * unit;
            let mut note = line(&[(midi, 0.0, 1.0)]).remove(0);
            (note.onset, note.duration) = (at, length * unit);
            at += note.duration;
            if chord {
                notes.push(Note { pitch: spell(midi - 4, 0), ..note.clone() });
            }
            notes.push(note);
        }
        notes
    })
}

/// One note after another on the grid, within the soprano's range.
fn plain_line() -> impl Strategy<Value = Vec<Note>> {
    prop::collection::vec((62_u8..79, 1_i32..9), 1..30).prop_map(|steps| {
        let mut at = 0.0;
        let note = |(midi, frames)| {
            let length = f64::from(frames) / 4.0;
            at += length;
            (midi, at - length, length)
        };
        line(&steps.into_iter().map(note).collect::<Vec<_>>())
    })
}

/// Four voices' pitches as they sound, by frame.
fn sounding(piece: &Piece) -> Vec<[Option<i16>; VOICES]> {
    let sounding = |sung: Option<Sung>| sung.map(|sung| i16::from(sung.midi) + piece.transposition);
    piece.voices.iter().map(|voices| voices.map(sounding)).collect()
}

#[test]
fn found_phrases_are_heard_by_the_model_and_not_written() {
    let quarters = (0_u8..16).map(|at| (72, f64::from(at), 1.0));
    let score = score_of(line(&quarters.collect::<Vec<_>>()), 0);
    let piece = set(&score);
    assert!(piece.tokens.contains(&Token::Fermata));
    assert!(piece.score.parts.iter().flat_map(|part| &part.notes).all(|note| !note.fermata));
    assert!(piece.remarks.iter().any(|remark| remark.contains("phrases")), "{:?}", piece.remarks);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn the_melody_is_taken_over_as_it_is(notes in any_line(), fifths in -7_i8..=7) {
        let score = score_of(notes.clone(), fifths);
        let piece = set(&score);
        prop_assert_eq!(&piece.score.parts[0].notes, &notes);
        for part in &piece.score.parts[1..] {
            for pair in part.notes.windows(2) {
                prop_assert!(pair[0].onset + pair[0].duration <= pair[1].onset);
            }
            prop_assert!(part.notes.iter().all(|note| note.duration > 0 && note.onset >= 0));
        }
    }

    #[test]
    fn a_piece_encodes_to_the_tokens_that_were_decoded(notes in plain_line(), fifths in -7_i8..=7) {
        let score = score_of(notes, fifths);
        let piece = set_by(&score, Rules::NONE, Search::Greedy);
        let parts: Vec<&[Note]> = piece.score.parts.iter().map(|part| part.notes.as_slice()).collect();
        let key = tonality::tonality_of(&score, &score.parts[0]).key;
        let encoded = encode_voices([parts[0], parts[1], parts[2], parts[3]], key, 0);
        let encoded = encoded.expect("four voices").tokens;
        prop_assert_eq!(encoded, piece.tokens);
    }

    #[test]
    fn free_voices_keep_to_the_rules_whatever_the_model_likes(
        notes in plain_line(),
        fifths in -6_i8..=6,
        wide in any::<bool>(),
    ) {
        let score = score_of(notes, fifths);
        let search = if wide { Search::Beam(Beam { width: 3, look_ahead: 2 }) } else { Search::Greedy };
        let piece = set_by(&score, Rules::default(), search);
        prop_assert!(!piece.remarks.iter().any(|remark| remark.contains("rules")), "{:?}", piece.remarks);
        for (voices, frame) in sounding(&piece).iter().zip(voices::frames_of(&piece.tokens)) {
            for (voice, sung) in voices.iter().enumerate().skip(1) {
                let sung = sung.expect("no rest within a phrase");
                let (low, high) = RANGES[voice];
                prop_assert!((i16::from(low)..=i16::from(high)).contains(&sung), "voice {voice}: {sung}");
                prop_assert!(voices[voice - 1] >= Some(sung), "voice {voice} crosses");
            }
            let struck = frame.notes.iter().any(|note| !note.tied);
            prop_assert!(!struck || frame.notes.len() >= 3);
        }
        let last = sounding(&piece)[piece.frames - 1];
        let bass = last[3].expect("a bass");
        let above: Vec<i16> = last.iter().flatten().map(|midi| (midi - bass).rem_euclid(12)).collect();
        prop_assert!(above.iter().all(|step| [0, 3, 4, 7].contains(step)), "{above:?}");
        prop_assert!(above.contains(&3) != above.contains(&4));
    }
}
