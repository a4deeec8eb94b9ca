//! Where a melody's phrases end: at its fermatas, or, since hymns seldom carry them, where its rhythm, its rests, its
//! words and its bar lines say so.

use kapell_music::score::{Measure, TICKS_PER_FRAME};

use super::line::GridNote;

/// How the ends of phrases are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phrases {
    /// At fermatas where the melody has them, else found.
    #[default]
    Auto,
    /// At fermatas only.
    Fermatas,
    /// After so many bars each.
    Every(u32),
}

/// A word that is no way to tell phrases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to tell phrases: auto, fermatas and every:N (bars) are")]
pub struct ParsePhrasesError(pub String);

impl std::str::FromStr for Phrases {
    type Err = ParsePhrasesError;

    fn from_str(text: &str) -> Result<Self, ParsePhrasesError> {
        let bars = |text: &str| text.strip_prefix("every:")?.parse().ok().filter(|bars| *bars > 0);
        match text {
            "auto" => Ok(Self::Auto),
            "fermatas" => Ok(Self::Fermatas),
            _ => {
                bars(text).map(Self::Every).ok_or_else(|| ParsePhrasesError(text.chars().take(40).collect()))
            }
        }
    }
}

impl std::fmt::Display for Phrases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fermatas => f.write_str("fermatas"),
            Self::Every(bars) => write!(f, "every:{bars}"),
        }
    }
}

/// The last note of a phrase: several where it is tied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PhraseEnd {
    /// Indices into the line.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Whether the model hears it as one, by a fermata. The last note of a melody without its fermata is none.
    pub(super) heard: bool,
}

/// The ends of a melody's phrases, the last note's among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) notes: Vec<PhraseEnd>,
    found: bool,
}

impl Ends {
    /// What a reader should know.
    pub(super) fn remark(&self) -> Option<String> {
        let count = self.notes.len();
        self.found.then(|| {
            format!(
                "no fermatas: the model is told of {count} phrases that were found; --phrases says otherwise"
            )
        })
    }
}

/// A note of the melody with its ties joined.
#[derive(Debug, Clone, Copy)]
struct Whole {
    first: usize,
    last: usize,
    /// Sixteenths.
    start: i64,
    end: i64,
}

/// The ends of phrases; `grid` has a note at least.
pub(super) fn ends(grid: &[GridNote], measures: &[Measure], phrases: Phrases) -> Ends {
    let wholes = join_ties(grid);
    let last = wholes.len() - 1;
    let has_fermata = |whole: &Whole| grid[whole.first..=whole.last].iter().any(|note| note.fermata);
    let fermatas: Vec<usize> = (0..wholes.len()).filter(|&at| has_fermata(&wholes[at])).collect();
    let (mut at, found) = match phrases {
        Phrases::Every(bars) => (every(&wholes, measures, bars), true),
        Phrases::Auto if fermatas.is_empty() => (found(&wholes, grid, measures), true),
        Phrases::Auto | Phrases::Fermatas => (fermatas.clone(), false),
    };
    if at.last() != Some(&last) {
        at.push(last);
    }
    let end = |at: usize| PhraseEnd {
        first: wholes[at].first,
        last: wholes[at].last,
        heard: found || fermatas.contains(&at),
    };
    Ends { notes: at.into_iter().map(end).collect(), found: found && phrases == Phrases::Auto }
}

fn join_ties(grid: &[GridNote]) -> Vec<Whole> {
    let mut wholes: Vec<Whole> = Vec::with_capacity(grid.len());
    for (at, note) in grid.iter().enumerate() {
        match wholes.last_mut() {
            Some(whole) if note.tie_from && whole.end == note.start && grid[whole.last].midi == note.midi => {
                whole.last = at;
                whole.end = note.end;
            }
            _ => wholes.push(Whole { first: at, last: at, start: note.start, end: note.end }),
        }
    }
    wholes
}

/// Sixteenths from the score's start at which measures begin, and the usual length of one.
struct Bars {
    starts: Vec<i64>,
    usual: i64,
    /// The length of a pickup; 0 without one.
    pickup: i64,
}

impl Bars {
    fn of(measures: &[Measure]) -> Self {
        let starts: Vec<i64> = measures.iter().map(|measure| measure.start / TICKS_PER_FRAME).collect();
        let mut lengths: Vec<i64> =
            measures.iter().map(|measure| measure.duration / TICKS_PER_FRAME).collect();
        let first = lengths.first().copied().unwrap_or(0);
        lengths.sort_unstable();
        let usual = lengths.get(lengths.len() / 2).copied().filter(|usual| *usual > 0).unwrap_or(16);
        Self { starts, usual, pickup: if first < usual { first } else { 0 } }
    }
}

/// The notes that sound when every so many bars are over; a pickup belongs to the phrase behind it.
fn every(wholes: &[Whole], measures: &[Measure], bars: u32) -> Vec<usize> {
    let Bars { starts, pickup, .. } = Bars::of(measures);
    let whole_bars = starts.iter().skip(usize::from(pickup > 0));
    let bars = usize::try_from(bars).unwrap_or(usize::MAX).max(1);
    let ends = whole_bars.step_by(bars).skip(1).map(|start| start - pickup);
    let mut at: Vec<usize> =
        ends.filter_map(|end| wholes.partition_point(|whole| whole.start < end).checked_sub(1)).collect();
    at.dedup();
    at
}

// What speaks for an end, and against a phrase, in one currency.
const REST_BEHIND: f64 = 3.0;
const CLAUSE_END: f64 = 2.5;
const DOUBLE_BAR: f64 = 3.0;
const LONG: f64 = 2.0;
const LONGER: f64 = 1.0;
const IN_METRE: f64 = 1.0;
const A_PHRASE: f64 = 1.5;
const A_BAR_OFF: f64 = 0.75;
const TOO_SHORT: f64 = 3.0;
/// Bars of a phrase, at most, and notes.
const BARS_MAX: i64 = 16;
const NOTES_MAX: usize = 256;

/// The best cut of a melody into phrases of about two or four bars whose last notes are long, stand before a rest, end
/// a clause or a section.
fn found(wholes: &[Whole], grid: &[GridNote], measures: &[Measure]) -> Vec<usize> {
    let bars = Bars::of(measures);
    let strengths: Vec<f64> =
        (0..wholes.len()).map(|at| strength(at, wholes, grid, measures, &bars)).collect();
    // By number of notes: the best value of the phrases over them, and where the last of those begins.
    let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
    for end in 0..wholes.len() {
        let mut chosen = (f64::NEG_INFINITY, end);
        for start in (end.saturating_sub(NOTES_MAX)..=end).rev() {
            let length = wholes[end].end - wholes[start].start;
            if length > BARS_MAX * bars.usual && start < end {
                break;
            }
            let value = best[start].0 + strengths[end] - A_PHRASE - misfit(length, bars.usual);
            if value > chosen.0 {
                chosen = (value, start);
            }
        }
        best.push(chosen);
    }
    let mut at = Vec::new();
    let mut end = wholes.len();
    while end > 0 {
        at.push(end - 1);
        end = best[end].1;
    }
    at.reverse();
    at
}

/// What speaks against a phrase of that length.
fn misfit(length: i64, bar: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a melody's sixteenths")]
    let bars = length as f64 / bar as f64;
    let off = (bars - 2.0).abs().min((bars - 4.0).abs());
    A_BAR_OFF * off + if bars < 1.5 { TOO_SHORT } else { 0.0 }
}

/// What speaks for a phrase to end with a note.
fn strength(at: usize, wholes: &[Whole], grid: &[GridNote], measures: &[Measure], bars: &Bars) -> f64 {
    let whole = wholes[at];
    let Some(next) = wholes.get(at + 1) else { return REST_BEHIND };
    let length = whole.end - whole.start;
    let around = [at.checked_sub(1).map(|before| wholes[before]), Some(*next)];
    let mut longer = around.iter().flatten().map(|other| length * 2 >= 3 * (other.end - other.start));
    let mut strength = 0.0;
    if next.start - whole.end >= 2 {
        strength += REST_BEHIND;
    }
    if longer.all(|longer| longer) {
        strength += if length * 2 >= bars.usual || length >= 8 { LONG } else { LONGER };
    }
    if grid[whole.first..=whole.last].iter().any(|note| note.clause_end) {
        strength += CLAUSE_END;
    }
    // Where the next phrase would begin: at a bar, or as far before one as the melody's first note.
    let begins = next.start + bars.pickup;
    let bar = bars.starts.binary_search(&begins);
    if bar.is_ok() {
        strength += IN_METRE;
    }
    let before = bar.ok().and_then(|bar| bar.checked_sub(1)).and_then(|bar| measures.get(bar));
    if bars.pickup == 0 && before.is_some_and(|measure| measure.repeat_end) {
        strength += DOUBLE_BAR;
    }
    strength
}

#[cfg(test)]
mod tests;
