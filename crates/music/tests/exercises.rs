//! The generated exercises: the same everywhere, and clean.

use std::collections::BTreeMap;

use kapell_music::corpus::split;
use kapell_music::encode::{Token, encode_chorale};
use kapell_music::exercises;
use kapell_music::score::{Score, TICKS_PER_QUARTER};

/// What sounds in each voice, eighth by eighth: soprano first.
fn slices(score: &Score) -> Vec<[u8; 4]> {
    let slots = score.duration() / (TICKS_PER_QUARTER / 2);
    let sounding = |voice: usize, slot: i64| {
        let at = slot * TICKS_PER_QUARTER / 2;
        let note = score.parts[voice].notes.iter().find(|n| n.onset <= at && at < n.onset + n.duration);
        note.expect("no voice rests").pitch.midi
    };
    (0..slots).map(|slot| [0, 1, 2, 3].map(|voice| sounding(voice, slot))).collect()
}

fn all() -> impl Iterator<Item = Score> {
    (1..=exercises::PIECES).map(|index| exercises::score(exercises::SEED, index))
}

#[test]
fn the_built_in_corpus_is_these_very_bytes() {
    let corpus = exercises::corpus(exercises::SEED, exercises::PIECES).unwrap();
    assert_eq!(corpus.digest(), "sha256:2630ff5e660a3f3a44f0323ea60e730ec6833807c35c372dc4b667cbc8065b3f");
    let statistics = corpus.statistics();
    assert_eq!((statistics.pieces, statistics.tokens), (200, 194_424));
}

#[test]
fn no_two_voices_run_in_parallel_fifths_or_octaves() {
    for score in all() {
        for pair in slices(&score).windows(2) {
            for low in 1..4 {
                for high in 0..low {
                    let interval = |s: &[u8; 4]| s[high].abs_diff(s[low]) % 12;
                    let moves = pair[0][high] != pair[1][high] && pair[0][low] != pair[1][low];
                    let parallel =
                        interval(&pair[0]) == interval(&pair[1]) && [0, 7].contains(&interval(&pair[0]));
                    assert!(!(moves && parallel), "{:?}: {:?}", score.title, pair);
                }
            }
        }
    }
}

#[test]
fn voices_keep_their_order_and_their_ranges() {
    for score in all() {
        for slice in slices(&score) {
            assert!(slice.is_sorted_by(|high, low| high >= low), "{:?}: {slice:?}", score.title);
            assert!(
                (60..=79).contains(&slice[0]) && (40..=62).contains(&slice[3]),
                "{:?}: {slice:?}",
                score.title
            );
        }
    }
}

#[test]
fn every_exercise_ends_on_its_tonic_under_a_fermata() {
    for score in all() {
        let bass = score.parts[3].notes.last().unwrap();
        let key = score.measures[0].key;
        let minor = key.mode == Some(kapell_music::score::Mode::Minor);
        let tonic = (i32::from(key.fifths) * 7 + if minor { 9 } else { 0 }).rem_euclid(12);
        assert_eq!(i32::from(bass.pitch.midi) % 12, tonic, "{:?}", score.title);
        assert!(score.parts.iter().all(|p| p.notes.last().unwrap().fermata), "{:?}", score.title);
    }
}

#[test]
fn the_streams_look_like_those_of_chorales() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for score in all() {
        let piece = encode_chorale(&score).unwrap();
        for token in &piece.tokens {
            let kind = match token {
                Token::Start | Token::End => continue,
                Token::FrameEnd => "frames",
                Token::Fermata => "fermatas",
                Token::Note { tied: true, .. } => "held",
                Token::Note { tied: false, .. } => "struck",
            };
            *counts.entry(kind).or_default() += 1;
        }
        assert!((400..3000).contains(&piece.tokens.len()), "{:?}: {}", score.title, piece.tokens.len());
    }
    // Of the chorales' frames 4.0 of 5.04 tokens are notes, a quarter of them struck; an eighth lies under fermatas.
    let notes = counts["held"] + counts["struck"];
    assert!((38..=40).contains(&(notes * 10 / counts["frames"])), "{counts:?}");
    assert!((20..=30).contains(&(counts["struck"] * 100 / notes)), "{counts:?}");
    assert!((8..=25).contains(&(counts["fermatas"] * 100 / counts["frames"])), "{counts:?}");
}

#[test]
fn no_exercise_is_another_one_again() {
    let corpus = exercises::corpus(exercises::SEED, exercises::PIECES).unwrap();
    assert!(split::groups(&corpus).len() > 190);
}
