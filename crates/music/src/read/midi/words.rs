//! Lyrics of a MIDI file: which note they belong to, and which of them are parts of a word.

use super::events::{Line, Song};
use crate::score::{Lyric, Part, Syllabic, Syllable, TICKS_PER_QUARTER};

/// A word and its note further apart than this do not belong together.
const APART_MAX: i64 = TICKS_PER_QUARTER / 4;

/// Lines that are looked at.
const LINES_MAX: usize = 256;

/// A syllable and where its note stands: the line, and the onset before it was moved to the grid.
pub(super) struct Word {
    line: usize,
    struck: i64,
    text: String,
    goes_on: bool,
}

/// Finds the line and note of each syllable: in its own track, else in the line that most of them fit.
pub(super) fn place(song: &Song) -> Vec<Word> {
    // By the recommended practice a space ends a word; without any, hyphens say that it goes on.
    let spaced = song.words.iter().any(|(.., text)| text.ends_with([' ', '\n', '\r']) && text.trim() != "");
    let mut words = Vec::new();
    for track in 0..=song.words.iter().map(|&(track, ..)| track).max().unwrap_or(0) {
        let sung: Vec<_> = song.words.iter().filter(|word| word.0 == track).collect();
        if sung.is_empty() {
            continue;
        }
        let fit = |line: &Line| sung.iter().filter(|word| nearest(line, word.1).is_some()).count();
        let own = |&(_, line): &(usize, &Line)| line.track == track;
        let lines = || song.lines.iter().enumerate().take(LINES_MAX);
        let best = lines().filter(own).max_by_key(|(at, line)| (fit(line), std::cmp::Reverse(*at)));
        let best = best.or_else(|| lines().max_by_key(|(at, line)| (fit(line), std::cmp::Reverse(*at))));
        let Some((line, notes)) = best else { continue };
        for (_, tick, text) in sung {
            let Some((text, goes_on)) = syllable(text, spaced) else { continue };
            words.extend(nearest(notes, *tick).map(|struck| Word { line, struck, text, goes_on }));
        }
    }
    words
}

/// A syllable's letters, and whether its word goes on; none where it is no word but a sign of the file's.
fn syllable(text: &str, spaced: bool) -> Option<(String, bool)> {
    let text = text.trim_start_matches(['/', '\\']);
    let ends_word = text.ends_with(|c: char| c.is_whitespace());
    let letters: String = text.chars().filter(|c| !c.is_control()).collect();
    let letters = letters.trim();
    if letters.is_empty() || letters.starts_with('@') || letters == "-" || letters == "_" {
        return None;
    }
    match letters.strip_suffix('-') {
        Some(before) => Some((before.trim().to_owned(), true)),
        None => Some((letters.to_owned(), spaced && !ends_word)),
    }
}

/// The nearest note's onset, as struck. Lines are in order of their onsets.
fn nearest(line: &Line, tick: i64) -> Option<i64> {
    let after = line.notes.partition_point(|note| note.struck < tick);
    let around = [after.checked_sub(1), Some(after)];
    let near = around.into_iter().flatten().filter_map(|at| line.notes.get(at)).map(|note| note.struck);
    near.min_by_key(|struck| (struck - tick).abs()).filter(|struck| (struck - tick).abs() <= APART_MAX)
}

/// Hangs the words on the notes. A second word to a note is the second verse's.
pub(super) fn attach(words: Vec<Word>, lines: &[Line], parts: &mut [Part]) {
    // By line and verse, whether a word is under way.
    let mut open: Vec<((usize, usize), bool)> = Vec::new();
    for word in words {
        let of_line = &lines[word.line].notes;
        let at = of_line.partition_point(|note| note.struck < word.struck);
        let Some(onset) = of_line.get(at).map(|note| note.onset) else { continue };
        let notes = &mut parts[word.line].notes;
        let at = notes.partition_point(|note| note.onset < onset);
        let Some(note) = notes.get_mut(at).filter(|note| note.onset == onset) else { continue };
        let verse = note.notation.lyrics.len() + 1;
        let key = (word.line, verse);
        let before = open.iter().position(|(of, _)| *of == key).unwrap_or_else(|| {
            open.push((key, false));
            open.len() - 1
        });
        let syllabic = match (open[before].1, word.goes_on) {
            (false, false) => Syllabic::Single,
            (false, true) => Syllabic::Begin,
            (true, true) => Syllabic::Middle,
            (true, false) => Syllabic::End,
        };
        open[before].1 = word.goes_on;
        let syllables = vec![Syllable { text: word.text, syllabic: Some(syllabic), elision: None }];
        note.notation.lyrics.push(Lyric { verse: verse.to_string(), syllables, ..Lyric::default() });
    }
}
