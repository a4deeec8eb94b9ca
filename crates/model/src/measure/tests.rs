//! What is measured is what is there.

use super::harmony::{Method, set};
use super::likelihood::{CLASSES, Class, likelihoods};
use super::*;
use crate::decode::{Beam, Rules, Search, Vocabulary};
use crate::evaluate;
use crate::infer::{Model, Stepper};
use crate::{TrainConfig, Trainer};
use kapell_music::corpus::PartOfSplit;
use kapell_music::exercises;

const fn note(midi: u8, tied: bool) -> Token {
    Token::Note { midi, tied }
}

/// A piece of frames, each a list of notes, with a fermata where it says so.
fn piece(frames: &[(&[(u8, bool)], bool)]) -> Reference {
    let mut tokens = vec![Token::Start];
    for (at, (notes, fermata)) in frames.iter().enumerate() {
        if at > 0 {
            tokens.push(Token::FrameEnd);
        }
        if *fermata {
            tokens.push(Token::Fermata);
        }
        tokens.extend(notes.iter().map(|&(midi, tied)| note(midi, tied)));
    }
    tokens.push(Token::End);
    Reference::new("piece", tokens).expect("a piece")
}

fn midis(piece: &Reference) -> Vec<[Option<u8>; VOICES]> {
    piece.frames.iter().map(|frame| frame.voices.map(|note| note.map(|note| note.midi))).collect()
}

#[test]
fn four_notes_are_four_voices_even_where_they_cross() {
    let crossed = piece(&[(&[(72, false), (60, false), (64, false), (48, false)], false)]);
    assert_eq!(midis(&crossed), [[Some(72), Some(60), Some(64), Some(48)]]);
}

#[test]
fn a_unison_is_one_token_of_the_upper_voice_and_sung_by_both() {
    let shared = piece(&[
        (&[(72, false), (67, false), (60, false), (48, false)], false),
        (&[(72, true), (64, false), (48, true)], true),
    ]);
    assert_eq!(midis(&shared)[1], [Some(72), Some(64), Some(64), Some(48)]);
    let classes = shared.classes();
    assert_eq!(
        classes[..5],
        [Class::Voice(0), Class::Voice(1), Class::Voice(2), Class::Voice(3), Class::FrameEnd]
    );
    assert_eq!(
        classes[5..],
        [Class::Fermata, Class::Voice(0), Class::Voice(1), Class::Voice(3), Class::FrameEnd]
    );
}

#[test]
fn a_score_of_a_piece_gives_the_same_frames_back() {
    let corpus = exercises::corpus(3, 6).expect("exercises");
    for exercise in &corpus.pieces {
        let tokens = corpus.spelled(exercise).map(|word| word.parse().expect("a token")).collect();
        let reference = Reference::new(&exercise.id, tokens).expect("a piece");
        let fermatas: Vec<bool> = reference.frames.iter().map(|frame| frame.fermata).collect();
        assert_eq!(frames_of(&reference.score(), &fermatas), reference.frames, "{}", exercise.id);
    }
}

#[test]
fn beats_are_where_most_notes_are_struck() {
    let chord = |tied: bool| [(72, tied), (67, tied), (64, tied), (48, tied)];
    let (struck, held) = (chord(false), chord(true));
    let pickup = [&held[..], &struck, &held, &held, &held, &struck, &held].map(|notes| (notes, false));
    assert_eq!(piece(&pickup).first_beat(), 1);
    assert_eq!(piece(&pickup[1..]).first_beat(), 0);
}

#[test]
fn pieces_are_in_c_major_or_a_minor() {
    let chord = |notes: &[(u8, bool)]| piece(&[(notes, false)]).key;
    assert_eq!(chord(&[(72, false), (67, false), (64, false), (48, false)]).mode, Mode::Major);
    assert_eq!(
        chord(&[(69, false), (64, false), (60, false), (45, false)]),
        Key { tonic: 9, mode: Mode::Minor }
    );
    assert_eq!(
        chord(&[(73, false), (68, false), (65, false), (49, false)]),
        Key { tonic: 0, mode: Mode::Major }
    );
}

#[test]
fn nats_by_class_sum_to_the_loss_that_training_reports() {
    let corpus = exercises::corpus(1, 30).expect("exercises");
    let config = TrainConfig {
        layers: 2,
        hidden: 12,
        embedding: 4,
        seq_len: 16,
        batch_size: 2,
        ..TrainConfig::default()
    };
    let trainer = Trainer::new(config, std::sync::Arc::new(corpus.clone())).expect("a trainer");
    let dir = tempfile::tempdir().expect("a folder");
    trainer.save(&dir.path().join("model")).expect("a writable folder");
    let checkpoint = crate::checkpoint::load(&dir.path().join("model")).expect("a model");
    let reported = evaluate::evaluate(&checkpoint.weights, &corpus, PartOfSplit::Val, 16, 2).expect("a loss");
    let held_out = corpus.pieces.iter().filter(|piece| piece.part == PartOfSplit::Val);
    let references: Vec<Reference> = held_out
        .map(|piece| {
            let tokens = corpus.spelled(piece).map(|word| word.parse().expect("a token")).collect();
            Reference::new(&piece.id, tokens).expect("a piece")
        })
        .collect();
    let vocabulary = Vocabulary::new(&checkpoint.vocabulary).expect("music");
    let measured = likelihoods(&checkpoint.weights, &vocabulary, &references, 2).expect("known tokens");
    for (own, theirs) in measured.iter().zip(&reported.pieces) {
        assert_eq!((own.all.tokens, own.all.nats.to_bits()), (theirs.tokens, theirs.nats.to_bits()));
        let nats: f64 = own.by_class.iter().map(|share| share.nats).sum();
        let tokens: u64 = own.by_class.iter().map(|share| share.tokens).sum();
        assert!((nats - own.all.nats).abs() < 1e-9 && tokens == own.all.tokens);
        assert!(own.by_class[..5].iter().all(|share| share.tokens > 0), "{CLASSES:?}: {own:?}");
    }
    assert_eq!(measured.len(), reported.pieces.len());
}

#[test]
fn a_piece_with_an_unknown_token_is_refused_by_name() {
    let spellings = ["START", "END", "|||", "(60, False)", "(60, True)"].map(str::to_owned);
    let vocabulary = Vocabulary::new(&spellings).expect("music");
    let config = TrainConfig { layers: 1, hidden: 4, embedding: 4, ..TrainConfig::default() };
    let weights = crate::weights::Weights::initial(&config, spellings.len());
    let unknown = piece(&[(&[(61, false)], false)]);
    let error = likelihoods(&weights, &vocabulary, &[unknown], 1).expect_err("refused");
    assert_eq!(error.to_string(), "piece piece has the token (61, False), which the model does not know");
}

#[test]
fn errors_are_counted_by_voice_and_frame() {
    let bach = piece(&[
        (&[(72, false), (67, false), (64, false), (48, false)], false),
        (&[(72, true), (67, true), (64, true), (48, true)], false),
        (&[(72, true), (65, false), (62, false), (50, false)], false),
    ]);
    let ours = piece(&[
        (&[(72, false), (67, false), (64, false), (48, false)], false),
        (&[(72, true), (67, false), (64, true), (48, true)], false),
        (&[(72, true), (65, false), (59, false), (43, false)], false),
    ]);
    let errors = |asked| Errors::between(&bach.frames, &ours.frames, asked);
    let alto = errors([false, true, false, false]);
    assert_eq!((alto.notes, alto.wrong_notes, alto.wrong_pitches, alto.wrong_frames), (3, 1, 0, 1));
    let all = errors([true; VOICES]);
    assert_eq!((all.notes, all.wrong_notes, all.wrong_pitches, all.wrong_frames), (12, 3, 2, 2));
    assert!(
        (all.token_error_rate() - 0.25).abs() < 1e-12 && (all.frame_error_rate() - 2.0 / 3.0).abs() < 1e-12
    );
    let same = Errors::between(&bach.frames, &bach.frames, [true; VOICES]);
    assert_eq!((same.wrong_notes, same.wrong_frames), (0, 0));
}

#[test]
fn resting_where_a_note_should_be_is_an_error_and_resting_together_is_nothing() {
    let bach = piece(&[(&[(72, false), (67, false), (64, false), (48, false)], false), (&[], false)]);
    let errors = Errors::between(&bach.frames, &[], [true; VOICES]);
    assert_eq!((errors.notes, errors.wrong_notes, errors.wrong_frames, errors.frames), (4, 4, 1, 2));
}

/// Some exercises, and a model that has learnt nothing.
fn subject(count: usize) -> (Stepper, std::sync::Arc<Vocabulary>, Vec<Reference>) {
    let corpus = exercises::corpus(1, 20).expect("exercises");
    let config = TrainConfig { layers: 1, hidden: 12, embedding: 4, ..TrainConfig::default() };
    let weights = crate::weights::Weights::initial(&config, corpus.vocabulary.len());
    let vocabulary = Vocabulary::new(&corpus.vocabulary).expect("music");
    let model = Model::new(&weights, corpus.vocabulary.clone()).expect("finite weights");
    let pieces = corpus.pieces.iter().take(count).map(|exercise| {
        let tokens = corpus.spelled(exercise).map(|word| word.parse().expect("a token")).collect();
        Reference::new(&exercise.id, tokens).expect("a piece")
    });
    (Stepper::new(std::sync::Arc::new(model)), std::sync::Arc::new(vocabulary), pieces.collect())
}

const GREEDY: Method = Method { search: Search::Greedy, rules: Rules::NONE };

#[test]
fn given_voices_stay_as_they_were_and_the_others_are_found() {
    let (mut model, vocabulary, pieces) = subject(2);
    let pieces: Vec<&Reference> = pieces.iter().collect();
    for given in [[true, false, false, false], [false, true, false, true], [false; VOICES]] {
        for (piece, set) in pieces.iter().zip(set(&mut model, &vocabulary, &pieces, given, GREEDY)) {
            let set = set.expect("a setting");
            assert_eq!(set.frames.len(), piece.frames.len());
            let errors = Errors::between(&piece.frames, &set.frames, given);
            assert_eq!((errors.wrong_notes, errors.wrong_frames), (0, 0), "{given:?}");
            let others = Errors::between(&piece.frames, &set.frames, given.map(|given| !given));
            assert!(others.wrong_notes > 0, "a model that has learnt nothing finds what the composer wrote");
            let fermatas =
                |frames: &[counterpoint::Frame]| frames.iter().filter(|frame| frame.fermata).count();
            assert_eq!(fermatas(&set.frames), fermatas(&piece.frames));
        }
    }
}

#[test]
fn pieces_in_a_batch_are_set_as_if_alone() {
    let (mut model, vocabulary, pieces) = subject(3);
    let pieces: Vec<&Reference> = pieces.iter().collect();
    let beam = Method { search: Search::Beam(Beam { width: 2, look_ahead: 1 }), rules: Rules::default() };
    let given = [true, false, false, false];
    let together = set(&mut model, &vocabulary, &pieces, given, beam);
    for (piece, expected) in pieces.iter().zip(together) {
        let alone = set(&mut model, &vocabulary, &[piece], given, beam);
        assert_eq!(alone, [expected]);
    }
}
