//! Notes on a time line, cut into what can be written: pieces within a measure, each of one note value.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::score::{Measure, Notation, Note, NoteValue, Part, Rest, Score};

use super::cut::{Beats, full, plain_value, value};

/// Measures that are made up for a score without any, or for notes beyond its last one.
const MEASURES_ADDED_MAX: usize = 100_000;

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
    let pattern = match measures.last() {
        Some(last) => Measure { time: last.time, key: last.key, ..Measure::default() },
        None => Measure::default(),
    };
    let mut start = measures.last().map_or(0, |last| last.start + last.duration);
    let duration = full(pattern.time);
    let end = score.duration();
    let mut added = 0;
    while (start < end || measures.is_empty()) && added < MEASURES_ADDED_MAX {
        let number = (measures.len() + 1).to_string();
        measures.push(Measure { number, start, duration, ..pattern.clone() });
        start += duration;
        added += 1;
    }
    measures
}

/// The notes of a chord, or a written rest.
#[derive(Debug, Clone)]
pub(super) struct Item<'a> {
    pub(super) onset: i64,
    pub(super) duration: i64,
    /// Empty: a rest.
    pub(super) notes: Vec<&'a Note>,
    pub(super) rest: Option<&'a Rest>,
}

impl<'a> Item<'a> {
    fn end(&self) -> i64 {
        self.onset + self.duration
    }

    fn notation(&self) -> Option<&'a Notation> {
        let of_note = self.notes.first().map(|note| &note.notation);
        of_note.or(self.rest.map(|rest| &rest.notation))
    }
}

/// Something to write in one voice of one measure: a note or chord, or a rest; or a part of one.
#[derive(Debug, Clone)]
pub(super) struct Event<'a> {
    /// Ticks from the score's start.
    pub(super) onset: i64,
    /// Ticks.
    pub(super) duration: i64,
    /// Both empty: a gap.
    pub(super) notes: Vec<&'a Note>,
    pub(super) rest: Option<&'a Rest>,
    /// The first and the last piece of its item: where its words and its fermata go.
    pub(super) first: bool,
    pub(super) last: bool,
    pub(super) value: Option<NoteValue>,
    /// The value is the file's own, and so are the brackets over it.
    pub(super) as_written: bool,
    /// Where a bracket that the file does not have begins and ends.
    pub(super) bracket: (bool, bool),
}

impl Event<'_> {
    /// Whether the file says that a tuplet begins or ends here.
    fn has_bracket(&self) -> bool {
        let of_notes = self.notes.iter().map(|note| &note.notation);
        let mut all = of_notes.chain(self.rest.map(|rest| &rest.notation));
        self.as_written && all.any(|notation| notation.marks.iter().any(|mark| mark.name == "tuplet"))
    }
}

/// A part's notes and rests as lines in which nothing overlaps: the file's voices, and as many more as it takes. Notes
/// of one voice, onset and duration are a chord.
pub(super) fn lines(part: &Part) -> Vec<Vec<Item<'_>>> {
    let mut by_voice: BTreeMap<u8, Vec<Item<'_>>> = BTreeMap::new();
    let mut notes: Vec<&Note> = part.notes.iter().filter(|n| n.duration > 0 && n.onset >= 0).collect();
    notes.sort_by_key(|n| (n.voice, n.onset, n.duration, n.pitch.midi));
    for chord in notes.chunk_by(|a, b| (a.voice, a.onset, a.duration) == (b.voice, b.onset, b.duration)) {
        let (onset, duration) = (chord[0].onset, chord[0].duration);
        by_voice.entry(chord[0].voice).or_default().push(Item {
            onset,
            duration,
            notes: chord.to_vec(),
            rest: None,
        });
    }
    for rest in part.rests.iter().filter(|rest| rest.duration > 0 && rest.onset >= 0) {
        let (onset, duration) = (rest.onset, rest.duration);
        let item = Item { onset, duration, notes: Vec::new(), rest: Some(rest) };
        by_voice.entry(rest.voice).or_default().push(item);
    }
    let mut lines = Vec::new();
    for items in by_voice.values_mut() {
        items.sort_by_key(|item| (item.onset, item.rest.is_some(), item.duration));
        lines.append(&mut without_overlaps(std::mem::take(items)));
    }
    lines
}

/// Items in order of onset, each in the first line that is free by then.
fn without_overlaps(items: Vec<Item<'_>>) -> Vec<Vec<Item<'_>>> {
    let mut lines: Vec<Vec<Item<'_>>> = Vec::new();
    // Lines by when they end, and those that have: so many overlapping notes cost no more than others.
    let mut sounding: BinaryHeap<Reverse<(i64, usize)>> = BinaryHeap::new();
    let mut free: BinaryHeap<Reverse<usize>> = BinaryHeap::new();
    for item in items {
        while let Some(&Reverse((_, line))) = sounding.peek().filter(|line| line.0.0 <= item.onset) {
            sounding.pop();
            free.push(Reverse(line));
        }
        let line = match free.pop() {
            Some(Reverse(line)) => line,
            // A rest beside a note of the same voice is none.
            None if item.rest.is_some() && !lines.is_empty() => continue,
            None => {
                lines.push(Vec::new());
                lines.len() - 1
            }
        };
        sounding.push(Reverse((item.end(), line)));
        lines[line].push(item);
    }
    lines
}

/// Whether a line has nothing in a measure.
pub(super) fn is_empty(line: &[Item<'_>], measure: &Measure) -> bool {
    let first = line.partition_point(|item| item.end() <= measure.start);
    line.get(first).is_none_or(|item| item.onset >= measure.start + measure.duration)
}

/// The events of one line within one measure, gaps included; nothing at all gives one gap or more.
pub(super) fn events<'a>(line: &[Item<'a>], measure: &Measure) -> Vec<Event<'a>> {
    let (begin, end) = (measure.start, measure.start + measure.duration);
    let beats = Beats::of(measure);
    let first = line.partition_point(|item| item.end() <= begin);
    let mut events = Vec::new();
    let mut at = begin;
    for item in line[first..].iter().take_while(|item| item.onset < end) {
        let (onset, stop) = (item.onset.max(begin), item.end().min(end));
        gaps(&mut events, beats, measure, at, onset);
        pieces(&mut events, item, beats, begin, (onset, stop));
        at = stop;
    }
    gaps(&mut events, beats, measure, at, end);
    bracket(&mut events);
    events
}

fn pieces<'a>(
    events: &mut Vec<Event<'a>>,
    item: &Item<'a>,
    beats: Beats,
    measure_start: i64,
    (onset, stop): (i64, i64),
) {
    let (at, length) = (onset - measure_start, stop - onset);
    let is_whole = length == item.duration;
    let written = item.notation().and_then(|notation| notation.value.as_ref());
    let written = written.filter(|value| is_whole && value.lasts(length));
    let whole_measure = is_whole && item.rest.is_some_and(|rest| rest.measure);
    let lengths = match (written, item.rest) {
        (Some(_), _) => vec![length],
        _ if whole_measure && at == 0 => vec![length],
        (None, Some(_)) => beats.cut_rest(at, length),
        (None, None) => beats.cut_note(at, length),
    };
    // What no note values add up to stays whole, without one.
    let lengths = if lengths.iter().all(|&piece| value(piece).is_some()) { lengths } else { vec![length] };
    let mut piece_onset = onset;
    for duration in lengths {
        events.push(Event {
            onset: piece_onset,
            duration,
            notes: item.notes.clone(),
            rest: item.rest,
            first: piece_onset == item.onset,
            last: piece_onset + duration == item.end(),
            value: written.cloned().or_else(|| value(duration)),
            as_written: written.is_some(),
            bracket: (false, false),
        });
        piece_onset += duration;
    }
}

fn gaps(events: &mut Vec<Event<'_>>, beats: Beats, measure: &Measure, from: i64, to: i64) {
    let mut onset = from;
    for duration in beats.cut_rest(from - measure.start, to - from) {
        let (notes, value) = (Vec::new(), value(duration));
        let (first, last, as_written, bracket) = (true, true, false, (false, false));
        events.push(Event { onset, duration, notes, rest: None, first, last, value, as_written, bracket });
        onset += duration;
    }
}

/// Says where runs of tuplets begin and end that do not say so: each is as long as a plain value.
fn bracket(events: &mut [Event<'_>]) {
    let is_said = events.iter().any(Event::has_bracket);
    let ratio = |event: &Event<'_>| {
        let tuplet = event.value.as_ref().and_then(|value| value.tuplet.as_ref());
        tuplet.filter(|_| !(event.as_written && is_said)).map(|tuplet| (tuplet.actual, tuplet.normal))
    };
    let mut run: Option<(usize, i64)> = None;
    for at in 0..events.len() {
        let Some(of) = ratio(&events[at]) else {
            run = None;
            continue;
        };
        let (start, before) = run.filter(|&(start, _)| ratio(&events[start]) == Some(of)).unwrap_or((at, 0));
        let length = before + events[at].duration;
        let ends = plain_value(length).is_some_and(|(_, dots)| dots == 0);
        let breaks_off = events.get(at + 1).is_none_or(|next| ratio(next) != Some(of));
        run = Some((start, length));
        if start < at && (ends || breaks_off) {
            events[start].bracket.0 = true;
            events[at].bracket.1 = true;
            run = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::TICKS_PER_QUARTER;

    const Q: i64 = TICKS_PER_QUARTER;

    #[test]
    fn a_score_without_measures_gets_some() {
        let made = measures(&Score::default());
        assert_eq!(made.len(), 1);
        assert_eq!((made[0].start, made[0].duration, made[0].time), (0, 4 * Q, (4, 4)));
    }

    #[test]
    fn triplets_get_brackets_a_beat_long() {
        let notes = (0..6).map(|at| Note { onset: at * Q / 3, duration: Q / 3, ..Note::default() });
        let part = Part { notes: notes.collect(), ..Part::default() };
        let events = events(&lines(&part)[0], &Measure::default());
        let brackets: Vec<(bool, bool)> = events.iter().take(6).map(|event| event.bracket).collect();
        let (start, none, stop) = ((true, false), (false, false), (false, true));
        assert_eq!(brackets, [start, none, stop, start, none, stop]);
    }
}
