//! Telling soprano, alto, tenor and bass apart among the parts of a score.

use crate::score::{Part, Score};

/// A voice of a chorale, in the order of the encoding.
pub const VOICE_NAMES: [&str; 4] = ["soprano", "alto", "tenor", "bass"];

/// The first words of part names, in lower case, that mean a voice.
const FIRST_WORDS: [&[&str]; 4] =
    [&["soprano", "s.", "canto", "sopran"], &["alto", "a."], &["tenor", "t."], &["bass", "b."]];

/// The four voices S A T B as indices of `score.parts`: by the first word of each part's name (other parts, such as
/// instruments, may stand beside them); else the four parts called "Voice"; else exactly four parts, in their order.
#[must_use]
pub fn find_voices(score: &Score) -> Option<[usize; 4]> {
    named(&score.parts).or_else(|| called_voice(&score.parts)).or_else(|| by_position(&score.parts))
}

fn first_word(part: &Part) -> String {
    part.name.split_whitespace().next().unwrap_or("").to_lowercase()
}

fn named(parts: &[Part]) -> Option<[usize; 4]> {
    let mut found = [0; 4];
    for (voice, words) in FIRST_WORDS.iter().enumerate() {
        found[voice] = parts.iter().position(|part| words.contains(&first_word(part).as_str()))?;
    }
    Some(found)
}

fn called_voice(parts: &[Part]) -> Option<[usize; 4]> {
    let voices = parts.iter().enumerate().filter(|(_, part)| part.name.trim() == "Voice");
    let voices: Vec<usize> = voices.map(|(index, _)| index).collect();
    voices.try_into().ok()
}

fn by_position(parts: &[Part]) -> Option<[usize; 4]> {
    (parts.len() == 4).then_some([0, 1, 2, 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voices(names: &[&str]) -> Option<[usize; 4]> {
        let part = |name: &&str| Part { name: (*name).to_owned(), ..Part::default() };
        find_voices(&Score { parts: names.iter().map(part).collect(), ..Score::default() })
    }

    #[test]
    fn voices_are_told_by_the_first_word_of_their_names() {
        assert_eq!(voices(&["Horn 1", "Soprano\nOboe 1", "Alto", "TENOR", "Bass"]), Some([1, 2, 3, 4]));
        assert_eq!(voices(&["B.", "T.", "A.", "S."]), Some([3, 2, 1, 0]));
        assert_eq!(voices(&["Soprano 1", "Soprano 2", "Alto", "Tenor", "Bass"]), Some([0, 2, 3, 4]));
    }

    #[test]
    fn four_parts_without_such_names_are_taken_in_their_order() {
        assert_eq!(voices(&["Violin", "Violin", "Viola", "Cello"]), Some([0, 1, 2, 3]));
        assert_eq!(voices(&["Organ", "Voice", "Voice", "Voice", "Voice"]), Some([1, 2, 3, 4]));
    }

    #[test]
    fn other_scores_have_no_four_voices() {
        assert_eq!(voices(&[]), None);
        assert_eq!(voices(&["Soprano", "Alto", "Bass"]), None);
        assert_eq!(voices(&["Piano"]), None);
        assert_eq!(voices(&["Violin", "Violin", "Viola", "Viola", "Cello"]), None);
    }
}
