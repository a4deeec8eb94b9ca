//! Notes on a time line, cut into what can be written: pieces within a measure, each of one note value.

use std::collections::BTreeMap;

use crate::score::{KeySignature, Measure, Note, Part, Score, TICKS_PER_QUARTER};

/// Note values from breve to 256th: MusicXML's name and the length in ticks.
const VALUES: [(&str, i64); 10] = [
    ("breve", 8 * TICKS_PER_QUARTER),
    ("whole", 4 * TICKS_PER_QUARTER),
    ("half", 2 * TICKS_PER_QUARTER),
    ("quarter", TICKS_PER_QUARTER),
    ("eighth", TICKS_PER_QUARTER / 2),
    ("16th", TICKS_PER_QUARTER / 4),
    ("32nd", TICKS_PER_QUARTER / 8),
    ("64th", TICKS_PER_QUARTER / 16),
    ("128th", TICKS_PER_QUARTER / 32),
    ("256th", TICKS_PER_QUARTER / 64),
];
/// Tuplets that are recognised: so many in the time of so many.
const TUPLETS: [(i64, i64); 3] = [(3, 2), (5, 4), (7, 4)];
/// Measures that are made up for a score without any, or for notes beyond its last one.
const MEASURES_ADDED_MAX: usize = 100_000;

/// A note value with dots, perhaps in a tuplet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) name: &'static str,
    pub(super) dots: usize,
    pub(super) tuplet: Option<(i64, i64)>,
}

/// The value of exactly this length, if there is one.
pub(super) fn value(ticks: i64) -> Option<Value> {
    if let Some((name, dots)) = plain_value(ticks) {
        return Some(Value { name, dots, tuplet: None });
    }
    TUPLETS.iter().find_map(|&(actual, normal)| {
        let stretched = ticks * actual;
        let (name, dots) = if stretched % normal == 0 { plain_value(stretched / normal) } else { None }?;
        Some(Value { name, dots, tuplet: Some((actual, normal)) })
    })
}

fn plain_value(ticks: i64) -> Option<(&'static str, usize)> {
    VALUES.iter().find_map(|&(name, length)| {
        let dotted = [length, length + length / 2, length + length / 2 + length / 4];
        // 10,080 has five twos: a halving that is not exact is no note value.
        let exact = |dots: usize| length % (1 << dots) == 0;
        (0..3).find(|&dots| dotted[dots] == ticks && exact(dots)).map(|dots| (name, dots))
    })
}

/// Cuts a length that is no single value into values, longest first; what is left over comes last, unwritable.
pub(super) fn cut(mut ticks: i64) -> Vec<i64> {
    let mut pieces = Vec::new();
    while ticks > 0 {
        let whole = value(ticks).map(|_| ticks);
        let longest = || VALUES.iter().map(|&(_, length)| length).find(|&length| length <= ticks);
        let piece = whole.or_else(longest).unwrap_or(ticks);
        pieces.push(piece);
        ticks -= piece;
    }
    pieces
}

/// The score's measures, or 4/4 ones where it has none, carried on to the end of its last note. Gaps and
/// overlaps are closed: each ends where the next begins.
pub(super) fn measures(score: &Score) -> Vec<Measure> {
    let mut measures: Vec<Measure> = Vec::new();
    for measure in score.measures.iter().filter(|m| m.duration > 0 && m.start >= 0) {
        if measures.last().is_none_or(|last| measure.start > last.start) {
            measures.push(measure.clone());
        }
    }
    if let Some(first) = measures.first_mut() {
        first.duration += first.start;
        first.start = 0;
    }
    for i in 1..measures.len() {
        measures[i - 1].duration = measures[i].start - measures[i - 1].start;
    }
    let (mut start, time, key) = match measures.last() {
        Some(last) => (last.start + last.duration, last.time, last.key),
        None => (0, (4, 4), KeySignature::default()),
    };
    let full = full(time);
    let end = score.duration();
    let mut added = 0;
    while (start < end || measures.is_empty()) && added < MEASURES_ADDED_MAX {
        let number = (measures.len() + 1).to_string();
        let (repeat_start, repeat_end) = (false, false);
        measures.push(Measure {
            number,
            start,
            duration: full,
            time,
            key,
            implicit: false,
            repeat_start,
            repeat_end,
        });
        start += full;
        added += 1;
    }
    measures
}

/// Ticks of a measure that its time signature fills.
pub(super) fn full(time: (u32, u32)) -> i64 {
    i64::from(time.0.clamp(1, 64)) * 4 * TICKS_PER_QUARTER / i64::from(time.1.clamp(1, 64))
}

/// Something to write in one voice of one measure: a rest, or the notes of a chord.
#[derive(Debug, Clone)]
pub(super) struct Event<'a> {
    /// Ticks.
    pub(super) duration: i64,
    /// Empty: a rest.
    pub(super) notes: Vec<Sung<'a>>,
}

/// One note's share of an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sung<'a> {
    pub(super) note: &'a Note,
    pub(super) tie_stop: bool,
    pub(super) tie_start: bool,
    /// The first and the last piece of the note: where its words and its fermata go.
    pub(super) first: bool,
    pub(super) last: bool,
}

/// A part's notes as lines in which nothing overlaps: the file's voices, and as many more as it takes. Notes of
/// one voice, onset and duration are a chord.
pub(super) fn lines(part: &Part) -> Vec<Vec<Vec<&Note>>> {
    let mut by_voice: BTreeMap<u8, Vec<&Note>> = BTreeMap::new();
    for note in part.notes.iter().filter(|n| n.duration > 0 && n.onset >= 0) {
        by_voice.entry(note.voice).or_default().push(note);
    }
    let mut lines = Vec::new();
    for notes in by_voice.values_mut() {
        notes.sort_by_key(|n| (n.onset, n.duration, n.pitch.midi));
        let mut of_voice: Vec<Vec<Vec<&Note>>> = Vec::new();
        for chord in notes.chunk_by(|a, b| (a.onset, a.duration) == (b.onset, b.duration)) {
            let end = |line: &Vec<Vec<&Note>>| line.last().map_or(0, |c| c[0].onset + c[0].duration);
            match of_voice.iter_mut().find(|line| end(line) <= chord[0].onset) {
                Some(line) => line.push(chord.to_vec()),
                None => of_voice.push(vec![chord.to_vec()]),
            }
        }
        lines.append(&mut of_voice);
    }
    lines
}

/// The events of one line within one measure, gaps filled with rests; nothing at all gives one rest.
pub(super) fn events<'a>(line: &[Vec<&'a Note>], measure: &Measure) -> Vec<Event<'a>> {
    let (begin, end) = (measure.start, measure.start + measure.duration);
    let first = line.partition_point(|chord| chord[0].onset + chord[0].duration <= begin);
    let mut events = Vec::new();
    let mut at = begin;
    for chord in line[first..].iter().take_while(|chord| chord[0].onset < end) {
        let (onset, stop) = (chord[0].onset.max(begin), (chord[0].onset + chord[0].duration).min(end));
        rests(&mut events, at, onset);
        let mut piece_onset = onset;
        for piece in cut(stop - onset) {
            let is_first = piece_onset == chord[0].onset;
            let is_last = piece_onset + piece == chord[0].onset + chord[0].duration;
            let sing = |note: &&'a Note| Sung {
                note,
                tie_stop: !is_first || note.tie_from,
                tie_start: !is_last || note.tie_to,
                first: is_first,
                last: is_last,
            };
            let notes = chord.iter().map(sing).collect();
            events.push(Event { duration: piece, notes });
            piece_onset += piece;
        }
        at = stop;
    }
    rests(&mut events, at, end);
    events
}

fn rests(events: &mut Vec<Event<'_>>, from: i64, to: i64) {
    events.extend(cut(to - from).into_iter().map(|duration| Event { duration, notes: Vec::new() }));
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: i64 = TICKS_PER_QUARTER;

    #[test]
    fn lengths_are_cut_into_note_values() {
        let names = |ticks: i64| -> Vec<String> {
            let name = |piece: &i64| match value(*piece) {
                Some(v) => format!("{}{}", v.name, ".".repeat(v.dots)),
                None => "?".to_owned(),
            };
            cut(ticks).iter().map(name).collect()
        };
        assert_eq!(names(Q), ["quarter"]);
        assert_eq!(names(3 * Q), ["half."]);
        assert_eq!(names(Q * 7 / 2), ["half.."]);
        assert_eq!(names(Q * 5 / 2), ["half", "eighth"]);
        assert_eq!(names(Q / 4 * 5), ["quarter", "16th"]);
        assert_eq!(names(9 * Q), ["breve", "quarter"]);
        assert_eq!(names(17), ["?"]);
    }

    #[test]
    fn thirds_fifths_and_sevenths_of_a_beat_are_tuplets() {
        assert_eq!(value(Q / 3), Some(Value { name: "eighth", dots: 0, tuplet: Some((3, 2)) }));
        assert_eq!(value(2 * Q / 3), Some(Value { name: "quarter", dots: 0, tuplet: Some((3, 2)) }));
        assert_eq!(value(Q / 5), Some(Value { name: "16th", dots: 0, tuplet: Some((5, 4)) }));
        assert_eq!(value(Q / 7), Some(Value { name: "16th", dots: 0, tuplet: Some((7, 4)) }));
    }

    #[test]
    fn the_cut_pieces_add_up_to_the_whole() {
        for ticks in 1..=2 * Q {
            assert_eq!(cut(ticks).iter().sum::<i64>(), ticks);
        }
    }

    #[test]
    fn a_score_without_measures_gets_some() {
        let made = measures(&Score::default());
        assert_eq!(made.len(), 1);
        assert_eq!((made[0].start, made[0].duration, made[0].time), (0, 4 * Q, (4, 4)));
    }
}
