//! Lengths cut into note values as musicians write them: at the beats.

use crate::score::{Measure, NOTE_VALUES, NoteValue, TICKS_PER_QUARTER, Tuplet};

/// Tuplets that are recognised: so many in the time of so many.
const TUPLETS: [(u32, u32); 3] = [(3, 2), (5, 4), (7, 4)];

/// The value of exactly this length, if there is one.
pub(super) fn value(ticks: i64) -> Option<NoteValue> {
    if let Some((name, dots)) = plain_value(ticks) {
        return Some(NoteValue { name: name.to_owned(), dots, tuplet: None });
    }
    TUPLETS.iter().find_map(|&(actual, normal)| {
        let stretched = ticks.checked_mul(i64::from(actual))?;
        let exact = stretched % i64::from(normal) == 0;
        let (name, dots) = if exact { plain_value(stretched / i64::from(normal)) } else { None }?;
        let tuplet = Some(Tuplet { actual, normal, normal_type: None });
        Some(NoteValue { name: name.to_owned(), dots, tuplet })
    })
}

/// Breve to 256th.
fn plain_values() -> impl Iterator<Item = (&'static str, i64)> {
    NOTE_VALUES.into_iter().skip(1)
}

pub(super) fn plain_value(ticks: i64) -> Option<(&'static str, u8)> {
    plain_values().find_map(|(name, length)| {
        let dotted = [length, length + length / 2, length + length / 2 + length / 4];
        // 10,080 has five twos: a halving that is not exact is no note value.
        let exact = |dots: u8| length % (1 << dots) == 0;
        let found = (0..3_u8).find(|&dots| dotted[usize::from(dots)] == ticks && exact(dots));
        found.map(|dots| (name, dots))
    })
}

/// The beats of a measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beats {
    /// Ticks. In compound metres of three of the written beats.
    beat: i64,
    compound: bool,
    /// Beats of a full measure.
    count: i64,
    /// Ticks of the full measure that are missing before this one: of a pickup.
    missing: i64,
}

impl Beats {
    pub(super) fn of(measure: &Measure) -> Self {
        let full = full(measure.time);
        let unit = 4 * TICKS_PER_QUARTER / i64::from(measure.time.1.clamp(1, 64));
        let compound = measure.time.1 >= 8 && measure.time.0.is_multiple_of(3);
        let beat = if compound { 3 * unit } else { unit.min(TICKS_PER_QUARTER) };
        let missing = if measure.implicit { (full - measure.duration).max(0) } else { 0 };
        Self { beat, compound, count: full / beat, missing }
    }

    /// A note that begins `at` ticks into the measure, as the lengths of tied notes.
    pub(super) fn cut_note(self, at: i64, duration: i64) -> Vec<i64> {
        self.cut(at, duration, |at, left| if self.fits(at, left) { Some(left) } else { None })
    }

    /// A silence, as the lengths of rests: never across a beat that it does not begin on.
    pub(super) fn cut_rest(self, at: i64, duration: i64) -> Vec<i64> {
        self.cut(at, duration, |at, left| {
            if at % self.beat != 0 || left < self.beat {
                return None;
            }
            let aligned = |length: &i64| *length <= left && *length % self.beat == 0 && at % length == 0;
            if self.compound {
                Some(self.beat)
            } else {
                plain_values().map(|(_, length)| length).find(aligned)
            }
        })
    }

    fn cut(self, at: i64, duration: i64, whole: impl Fn(i64, i64) -> Option<i64>) -> Vec<i64> {
        let (mut at, mut left) = (at + self.missing, duration);
        let mut pieces = Vec::new();
        while left > 0 {
            let piece = whole(at, left).unwrap_or_else(|| self.piece(at, left)).clamp(1, left);
            pieces.push(piece);
            at += piece;
            left -= piece;
        }
        pieces
    }

    /// Whether a note is read at once as one value.
    fn fits(self, at: i64, duration: i64) -> bool {
        let Some(value) = value(duration) else { return false };
        let (beat, end) = (self.beat, at + duration);
        if value.dots > 1 {
            return false;
        }
        if at / beat == (end - 1) / beat {
            return true;
        }
        if value.tuplet.is_some() {
            // Quarters of a triplet over two beats.
            return !self.compound && at % (2 * beat / 3) == 0 && duration % (2 * beat / 3) == 0;
        }
        if at % beat == 0 {
            return !self.compound || duration % beat == 0;
        }
        // A syncopation, but not over the middle of a bar that has one.
        let halves = if self.count % 2 == 0 { self.count * beat / 2 } else { i64::MAX };
        !self.compound && duration == beat && at % (beat / 2).max(1) == 0 && at / halves == (end - 1) / halves
    }

    /// The first piece of what does not fit: up to the next beat, or as many beats as one value has.
    fn piece(self, at: i64, left: i64) -> i64 {
        let to_beat = self.beat - at % self.beat;
        if at % self.beat != 0 || left < self.beat {
            let chunk = left.min(to_beat);
            let shorter = || plain_values().map(|(_, length)| length).find(|&length| length <= chunk);
            return if value(chunk).is_some() { chunk } else { shorter().unwrap_or(chunk) };
        }
        let lengths = plain_values().flat_map(|(_, length)| [length + length / 2, length]);
        let whole_beats = |length: &i64| *length <= left && length % self.beat == 0 && self.fits(at, *length);
        lengths.into_iter().find(whole_beats).unwrap_or(self.beat)
    }
}

/// Ticks of a measure that its time signature fills.
pub(super) fn full(time: (u32, u32)) -> i64 {
    i64::from(time.0.clamp(1, 64)) * 4 * TICKS_PER_QUARTER / i64::from(time.1.clamp(1, 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: i64 = TICKS_PER_QUARTER;

    fn name(ticks: &i64) -> String {
        match value(*ticks) {
            Some(value) => format!("{}{}", value.name, ".".repeat(usize::from(value.dots))),
            None => "?".to_owned(),
        }
    }

    fn check(time: (u32, u32), at: i64, duration: i64, notes: &str, rests: &str) {
        let beats = Beats::of(&Measure { time, ..Measure::default() });
        let told = |pieces: Vec<i64>| pieces.iter().map(name).collect::<Vec<_>>().join(" ");
        assert_eq!(told(beats.cut_note(at, duration)), notes, "notes in {time:?} at {at} of {duration}");
        assert_eq!(told(beats.cut_rest(at, duration)), rests, "rests in {time:?} at {at} of {duration}");
    }

    #[test]
    fn lengths_are_cut_at_the_beats() {
        check((4, 4), 0, Q, "quarter", "quarter");
        check((4, 4), 0, 3 * Q, "half.", "half quarter");
        check((4, 4), Q, 3 * Q, "half.", "quarter half");
        check((4, 4), 0, Q * 7 / 2, "half. eighth", "half quarter eighth");
        check((4, 4), 0, Q * 5 / 2, "half eighth", "half eighth");
        check((4, 4), Q / 2, Q, "quarter", "eighth eighth");
        check((4, 4), Q * 3 / 2, Q, "eighth eighth", "eighth eighth");
        check((4, 4), Q * 3 / 4, Q * 5 / 2, "16th half 16th", "16th quarter quarter 16th");
    }

    #[test]
    fn compound_metres_have_dotted_beats() {
        check((6, 8), 0, Q * 3 / 2, "quarter.", "quarter.");
        check((6, 8), 0, 2 * Q, "quarter. eighth", "quarter. eighth");
        check((6, 8), Q, 2 * Q, "eighth quarter.", "eighth quarter.");
        check((6, 8), 0, 3 * Q, "half.", "quarter. quarter.");
    }

    #[test]
    fn thirds_fifths_and_sevenths_of_a_beat_are_tuplets() {
        let told = |ticks: i64| {
            let value = value(ticks).expect("a value");
            let tuplet = value.tuplet.expect("a tuplet");
            (value.name, value.dots, tuplet.actual, tuplet.normal)
        };
        assert_eq!(told(Q / 3), ("eighth".to_owned(), 0, 3, 2));
        assert_eq!(told(2 * Q / 3), ("quarter".to_owned(), 0, 3, 2));
        assert_eq!(told(Q / 5), ("16th".to_owned(), 0, 5, 4));
        assert_eq!(told(Q / 7), ("16th".to_owned(), 0, 7, 4));
    }

    #[test]
    fn the_cut_pieces_add_up_to_the_whole() {
        for time in [(4, 4), (3, 2), (6, 8), (5, 4), (7, 8), (3, 8), (1, 64)] {
            let beats = Beats::of(&Measure { time, ..Measure::default() });
            for (at, ticks) in (1..2 * Q).step_by(13).flat_map(|ticks| [(0, ticks), (ticks % Q, ticks)]) {
                assert_eq!(beats.cut_note(at, ticks).iter().sum::<i64>(), ticks);
                assert_eq!(beats.cut_rest(at, ticks).iter().sum::<i64>(), ticks);
            }
        }
    }
}
