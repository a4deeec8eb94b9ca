//! Ends of phrases of tunes as hymn books print them.

use kapell_music::score::TICKS_PER_QUARTER;

use super::*;

/// A line of quarter notes' lengths; 0 makes the note before it one with a rest behind, of a quarter.
fn line(lengths: &[f64]) -> Vec<GridNote> {
    let mut start = 0;
    let mut notes = Vec::new();
    for &length in lengths {
        if length == 0.0 {
            start += 4;
            continue;
        }
        #[expect(clippy::cast_possible_truncation, reason = "test data")]
        let end = start + (4.0 * length) as i64;
        notes.push(GridNote { start, end, midi: 72, tie_from: false, fermata: false, clause_end: false });
        start = end;
    }
    notes
}

/// Measures of so many quarters, behind a pickup.
fn measures(pickup: i64, quarters: i64, count: i64) -> Vec<Measure> {
    let measure = |start: i64, quarters: i64| Measure {
        start: start * TICKS_PER_QUARTER,
        duration: quarters * TICKS_PER_QUARTER,
        ..Measure::default()
    };
    let first = (pickup > 0).then(|| measure(0, pickup));
    let whole = (0..count).map(|at| measure(pickup + at * quarters, quarters));
    first.into_iter().chain(whole).collect()
}

fn at(ends: &Ends) -> Vec<usize> {
    ends.notes.iter().map(|end| end.last).collect()
}

#[test]
fn half_notes_among_quarters_end_phrases() {
    // Twinkle: three times six quarters and a half.
    let notes = line(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0].repeat(3));
    let found = ends(&notes, &measures(0, 4, 6), Phrases::Auto);
    assert_eq!(at(&found), [6, 13, 20]);
    assert!(found.notes.iter().all(|end| end.heard) && found.remark().is_some());
}

#[test]
fn a_pickup_belongs_to_the_phrase_behind_it() {
    // Common metre: a quarter, then bars of four, phrases of 8 and 6 syllables whose last notes are long.
    let first = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    let second = [1.0, 1.0, 1.0, 1.0, 1.0, 3.0];
    let notes = line(&[first.as_slice(), &second, &first, &second].concat());
    let found = ends(&notes, &measures(1, 4, 8), Phrases::Auto);
    assert!(at(&found).contains(&13) && at(&found).contains(&27), "{:?}", at(&found));
}

#[test]
fn fermatas_are_believed_before_anything_else() {
    let mut notes = line(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0].repeat(2));
    notes[3].fermata = true;
    for phrases in [Phrases::Auto, Phrases::Fermatas] {
        let found = ends(&notes, &measures(0, 4, 4), phrases);
        assert_eq!(at(&found), [3, 13]);
        // The last note without its fermata is an end that the model is not told of.
        assert_eq!(found.notes.iter().map(|end| end.heard).collect::<Vec<_>>(), [true, false]);
        assert_eq!(found.remark(), None);
    }
}

#[test]
fn every_so_many_bars_count_from_the_first_whole_one() {
    let notes = line(&[1.0; 33]);
    let found = |pickup, bars| at(&ends(&notes, &measures(pickup, 4, 9), Phrases::Every(bars)));
    assert_eq!(found(0, 4), [15, 31, 32]);
    assert_eq!(found(1, 4), [15, 31, 32]);
    assert_eq!(found(1, 2), [7, 15, 23, 31, 32]);
}

#[test]
fn rests_and_clauses_end_phrases_where_the_rhythm_says_nothing() {
    let mut notes = line(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0].repeat(3));
    assert_eq!(at(&ends(&notes, &measures(0, 4, 6), Phrases::Auto)), [6, 13, 20]);
    notes = line(&[1.0; 24]);
    notes[7].clause_end = true;
    notes[15].clause_end = true;
    assert_eq!(at(&ends(&notes, &measures(0, 4, 6), Phrases::Auto)), [7, 15, 23]);
}

#[test]
fn even_quarters_fall_into_phrases_of_whole_bars() {
    let found = at(&ends(&line(&[1.0; 64]), &measures(0, 4, 16), Phrases::Auto));
    assert!(found.iter().all(|end| (end + 1) % 4 == 0), "{found:?}");
    assert!((2..=8).contains(&found.len()), "{found:?}");
}

#[test]
fn a_tied_note_is_one_end() {
    let mut notes = line(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    notes[7].tie_from = true;
    let found = ends(&notes, &measures(0, 4, 2), Phrases::Auto);
    assert_eq!((found.notes[0].first, found.notes[0].last), (6, 7));
}

#[test]
fn long_melodies_without_a_hint_take_no_time() {
    let found = ends(&line(&[0.25; 16_000]), &[], Phrases::Auto);
    assert!(found.notes.len() > 100);
}

#[test]
fn ways_to_tell_phrases_are_read_back() {
    for phrases in [Phrases::Auto, Phrases::Fermatas, Phrases::Every(4)] {
        assert_eq!(phrases.to_string().parse(), Ok(phrases));
    }
    for text in ["", "every", "every:0", "every:x", "bars:4"] {
        assert!(text.parse::<Phrases>().is_err(), "{text}");
    }
}
