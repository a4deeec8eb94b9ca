//! Each fault and cadence in a few hand-made chords.

use super::*;
use crate::score::Mode;

const C_MAJOR: Key = Key { tonic: 0, mode: Mode::Major };
const A_MINOR: Key = Key { tonic: 9, mode: Mode::Minor };

/// Chords of a quarter each, all voices struck unless the pitch is the one before with a minus; a fermata on the last.
fn quarters(chords: &[[i16; 4]]) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (at, chord) in chords.iter().enumerate() {
        for part in 0..4 {
            let note = |midi: i16| {
                let pitch = u8::try_from(midi.abs()).ok().filter(|pitch| *pitch > 0)?;
                Some(FrameNote { midi: pitch, tied: part > 0 || midi < 0 })
            };
            frames.push(Frame { voices: chord.map(note), fermata: at + 1 == chords.len() });
        }
    }
    frames
}

fn counted(chords: &[[i16; 4]]) -> Counts {
    count(&quarters(chords), &Rules::new(C_MAJOR))
}

#[test]
fn voices_that_move_in_fifths_or_octaves_are_parallel() {
    // Tenor and bass: G over C to A over D. Soprano and bass: C over C to D over D.
    let both = counted(&[[72, 64, 55, 48], [74, 65, 57, 50]]);
    assert_eq!((both.parallel_fifths, both.parallel_octaves, both.parallel_unisons), (1, 1, 0));
    // A twelfth is a fifth, too.
    let compound = counted(&[[67, 64, 60, 48], [69, 65, 60, 50]]);
    assert_eq!((compound.parallel_fifths, compound.parallel_octaves), (1, 0));
    let unison = counted(&[[72, 64, 64, 48], [71, 65, 65, 43]]);
    assert_eq!((unison.parallel_unisons, unison.parallel_octaves), (1, 0));
}

#[test]
fn fifths_that_stay_or_go_apart_or_are_diminished_are_not_parallel() {
    for (what, chords) in [
        ("repeated", [[72, 67, 60, 48], [72, 67, 60, 48]]),
        ("one voice moves", [[67, 64, 60, 48], [67, 65, 60, 48]]),
        ("contrary", [[67, 64, 60, 60], [74, 65, 57, 55]]),
        ("perfect to diminished", [[71, 64, 60, 53], [71, 65, 59, 53]]),
    ] {
        let found = counted(&chords);
        assert_eq!((found.parallel_fifths, found.parallel_octaves), (0, 0), "{what}");
    }
}

#[test]
fn voices_that_change_places_or_rest_are_not_parallel() {
    // Alto and tenor: a fifth with the tenor below, then one with the tenor above; both rise.
    assert_eq!(counted(&[[76, 60, 53, 45], [77, 62, 69, 47]]).parallel_fifths, 0);
    assert_eq!(counted(&[[0, 64, 55, 48], [74, 65, 57, 0]]).parallel_fifths, 0);
}

#[test]
fn parallels_over_the_end_of_a_phrase_are_not_counted() {
    let chords = [[72, 64, 55, 48], [74, 65, 57, 50]];
    let mut frames = quarters(&chords);
    assert_eq!(count(&frames, &Rules::new(C_MAJOR)).parallel_fifths, 1);
    frames[3].fermata = true;
    frames[4..].iter_mut().for_each(|frame| frame.fermata = false);
    let found = count(&frames, &Rules::new(C_MAJOR));
    assert_eq!((found.parallel_fifths, found.parallel_octaves, found.cadences.phrases()), (0, 0, 2));
}

#[test]
fn a_passing_note_between_them_parts_two_fifths() {
    // Tenor and bass: G over C, then A over C before A over D.
    let direct = counted(&[[72, 64, 55, 48], [77, 65, 57, 50]]);
    let passing = counted(&[[72, 64, 55, 48], [-72, -64, 57, -48], [77, 65, -57, 50]]);
    assert_eq!((direct.parallel_fifths, passing.parallel_fifths), (1, 0));
}

#[test]
fn a_lower_voice_above_its_neighbour_crosses_it_as_often_as_one_of_them_strikes() {
    assert_eq!(counted(&[[72, 60, 64, 48]]).crossings, 1);
    assert_eq!(counted(&[[72, 60, 64, 48], [71, -60, -64, -48]]).crossings, 1);
    assert_eq!(counted(&[[72, 60, 64, 48], [-72, 62, -64, -48]]).crossings, 2);
    assert_eq!(counted(&[[72, 64, 64, 48]]).crossings, 0, "a unison is no crossing");
}

#[test]
fn notes_are_out_of_range_where_they_are_struck() {
    assert_eq!(counted(&[[81, 74, 69, 64], [60, 53, 48, 36]]).range_faults, 0);
    assert_eq!(counted(&[[82, 75, 70, 65], [59, 52, 47, 35]]).range_faults, 8);
    assert_eq!(counted(&[[82, 74, 69, 64], [-82, 73, -69, -64]]).range_faults, 1);
    let narrow = Rules { ranges: [(72, 72); VOICES], ..Rules::new(C_MAJOR) };
    assert_eq!(count(&quarters(&[[72, 71, 72, 72]]), &narrow).range_faults, 1);
}

#[test]
fn the_three_upper_voices_keep_within_an_octave_of_their_neighbours() {
    assert_eq!(counted(&[[76, 64, 52, 36]]).spacing_faults, 0);
    assert_eq!(counted(&[[77, 64, 52, 36]]).spacing_faults, 1);
    assert_eq!(counted(&[[77, 64, 51, 36]]).spacing_faults, 2);
}

#[test]
fn a_leading_note_in_an_outer_voice_rises_to_the_tonic() {
    let resolved = [[71, 67, 62, 43], [72, 67, 64, 48]];
    let falls = [[71, 67, 62, 43], [67, 67, 64, 48]];
    let into_submediant = [[71, 67, 62, 43], [69, 64, 60, 45]];
    let found = |chords: &[[i16; 4]]| counted(chords).unresolved_leading_notes;
    assert_eq!((found(&resolved), found(&falls), found(&into_submediant)), (0, 1, 1));
    let bass = [[74, 67, 62, 47], [72, 67, 64, 43], [72, 67, 64, 48]];
    assert_eq!(found(&bass), 1);
    let no_dominant = [[71, 64, 55, 40], [69, 65, 57, 41]];
    assert_eq!(found(&no_dominant), 0, "the fifth of iii owes nothing");
}

#[test]
fn a_leading_note_in_an_inner_voice_rises_at_a_cadence() {
    let cadence = [[74, 71, 67, 43], [72, 67, 64, 48]];
    let goes_on = [[74, 71, 67, 43], [72, 67, 64, 48], [69, 65, 60, 41]];
    let found = |chords: &[[i16; 4]]| counted(chords).unresolved_leading_notes;
    assert_eq!((found(&cadence), found(&goes_on)), (1, 0));
}

#[test]
fn a_leading_note_that_is_held_may_rise_later() {
    let late = [[71, 65, 62, 43], [-71, 64, 60, 48], [72, -64, -60, -48]];
    assert_eq!(counted(&late).unresolved_leading_notes, 0);
    let raised = [[68, 64, 59, 40], [69, 64, 60, 45]];
    let fallen = [[68, 64, 59, 40], [64, 60, 57, 45]];
    let in_a = |chords: &[[i16; 4]]| count(&quarters(chords), &Rules::new(A_MINOR)).unresolved_leading_notes;
    assert_eq!((in_a(&raised), in_a(&fallen)), (0, 1));
}

#[test]
fn a_chord_on_a_beat_that_is_no_triad_or_seventh_is_dissonant() {
    let suspension = counted(&[[72, 67, 65, 48], [-72, -67, 64, -48]]);
    assert_eq!((suspension.chords, suspension.chords_on_beats, suspension.dissonant_chords), (2, 2, 1));
    // The same between two beats is not judged.
    let frames = quarters(&[[72, 67, 64, 48], [-72, -67, 65, -48], [-72, -67, 64, -48]]);
    let wide = Rules { beat: 8, ..Rules::new(C_MAJOR) };
    assert_eq!(count(&frames, &wide).dissonant_chords, 0);
    let shifted = Rules { first_beat: 4, ..wide };
    assert_eq!(count(&frames, &shifted).dissonant_chords, 1);
    assert_eq!(counted(&[[62, 0, 0, 0]]).dissonant_chords, 0, "a single note is no dissonance");
}

#[test]
fn chords_are_told_by_their_pitch_classes() {
    let name = |pitches: &[u8]| identify(pitches.iter().copied()).map(|h| (h.root, h.kind));
    for (pitches, expected) in [
        (&[48, 55, 64, 72][..], Some((0, Kind::Major))),
        (&[52, 55, 60, 72], Some((0, Kind::Major))),
        (&[57, 60, 64], Some((9, Kind::Minor))),
        (&[47, 50, 53], Some((11, Kind::Diminished))),
        (&[52, 56, 60], Some((4, Kind::Augmented))),
        (&[43, 53, 59, 62], Some((7, Kind::DominantSeventh))),
        (&[43, 53, 59], Some((7, Kind::DominantSeventh))),
        (&[50, 53, 57, 60], Some((2, Kind::MinorSeventh))),
        (&[48, 52, 55, 59], Some((0, Kind::MajorSeventh))),
        (&[47, 50, 53, 57], Some((11, Kind::HalfDiminishedSeventh))),
        (&[50, 53, 56, 59], Some((2, Kind::DiminishedSeventh))),
        (&[48, 64], Some((0, Kind::Major))),
        (&[57, 60], Some((9, Kind::Minor))),
        (&[48, 55], Some((0, Kind::Bare))),
        (&[48, 60], Some((0, Kind::Bare))),
        (&[48, 53, 55], None),
        (&[48, 50], None),
        (&[53, 59], None),
        (&[48, 52, 55, 62], None),
        (&[], None),
    ] {
        assert_eq!(name(pitches), expected, "{pitches:?}");
    }
}

#[test]
fn phrases_end_with_the_cadence_that_their_last_chords_make() {
    const I: [i16; 4] = [72, 67, 64, 48];
    const IV: [i16; 4] = [72, 69, 65, 53];
    const V: [i16; 4] = [74, 67, 59, 43];
    const V7: [i16; 4] = [71, 65, 62, 55];
    const VI: [i16; 4] = [72, 64, 60, 45];
    const LEADING_SIXTH: [i16; 4] = [71, 65, 59, 50];
    const E_MAJOR: [i16; 4] = [71, 64, 56, 40];
    const D_MAJOR: [i16; 4] = [74, 69, 66, 50];
    const CLUSTER: [i16; 4] = [74, 73, 72, 48];
    for (chords, expected) in [
        (&[I, V7, I][..], "authentic"),
        (&[I, V, I], "authentic"),
        (&[I, LEADING_SIXTH, I], "authentic"),
        (&[E_MAJOR, VI], "authentic"),
        (&[I, D_MAJOR, V], "authentic"),
        (&[I, V, VI], "deceptive"),
        (&[I, IV, I], "plagal"),
        (&[I, V], "half"),
        (&[IV, V], "half"),
        (&[IV, E_MAJOR], "half"),
        (&[I, V7], "other"),
        (&[V, IV], "other"),
        (&[V, CLUSTER], "other"),
        (&[I], "other"),
    ] {
        let cadences = counted(chords).cadences;
        let found: Vec<&str> = KINDS
            .iter()
            .zip(cadences.kinds())
            .filter(|(_, count)| *count > 0)
            .map(|(kind, _)| *kind)
            .collect();
        assert_eq!(found, [expected], "{chords:?}");
    }
}

#[test]
fn a_suspension_does_not_hide_a_cadence() {
    let chords = [[72, 67, 64, 48], [-72, 67, 62, 43], [71, -67, -62, -43], [72, 67, 64, 48]];
    let found = counted(&chords);
    assert_eq!((found.cadences.authentic, found.dissonant_chords), (1, 1));
}

#[test]
fn silence_has_no_chords_and_no_faults() {
    assert_eq!(count(&[], &Rules::new(C_MAJOR)), Counts::default());
    assert_eq!(count(&[Frame::default(); 8], &Rules::new(C_MAJOR)), Counts::default());
    assert_eq!(Counts::default().per_100_chords(0), 0.0);
}

#[test]
fn counts_of_pieces_add_up() {
    let mut sum = counted(&[[72, 64, 55, 48], [74, 65, 57, 50]]);
    sum += counted(&[[77, 64, 51, 36]]);
    assert_eq!((sum.chords, sum.parallel_fifths, sum.spacing_faults, sum.cadences.phrases()), (3, 1, 2, 2));
    assert!((sum.per_100_chords(sum.spacing_faults) - 200.0 / 3.0).abs() < 1e-12);
}

#[test]
fn a_score_is_counted_by_its_four_voices_whatever_plays_beside_them() {
    let mut exercise = crate::exercises::score(1, 3);
    let flute = crate::score::Part { name: "Flute".into(), ..exercise.parts[0].clone() };
    exercise.parts.insert(0, flute);
    let frames = frames_of(&exercise);
    let found = count(&frames, &Rules::new(crate::key::find_key(&exercise)));
    assert!(found.chords > 20 && found.cadences.authentic > 0, "{found:?}");
    assert_eq!((found.parallel_fifths, found.parallel_octaves, found.crossings), (0, 0, 0), "{found:?}");
    let fermatas = exercise.parts[1].notes.iter().filter(|note| note.fermata).count();
    assert_eq!(found.cadences.phrases(), fermatas as u64);
    assert_eq!(frames_of(&Score::default()), []);
}
