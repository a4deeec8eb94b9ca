//! The tokens that a model knows, by id and by meaning.

use std::collections::HashMap;

use kapell_music::encode::Token;

/// A model's vocabulary, read as music.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// By id; none for a spelling that is no token of music (padding, unknown): such an id is never chosen.
    tokens: Vec<Option<Token>>,
    ids: HashMap<Token, u16>,
    start: u16,
    end: u16,
    frame_end: u16,
}

/// Why a vocabulary cannot be decoded to music.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    #[error("this model's vocabulary has no token {0}: it was not trained on scores")]
    Lacks(Token),
    #[error("this model's vocabulary has no notes: it was not trained on scores")]
    NoNotes,
    #[error("this model's vocabulary has the token {0} twice")]
    Twice(Token),
    #[error("this model's vocabulary has {0} tokens, more than 65536")]
    TooLarge(usize),
}

impl Vocabulary {
    /// From every token's spelling, by id.
    ///
    /// # Errors
    /// If START, END or the frame's end is missing, no note is there, or a token stands there twice.
    pub fn new(spellings: &[String]) -> Result<Self, VocabularyError> {
        let tokens: Vec<Option<Token>> = spellings.iter().map(|word| word.parse().ok()).collect();
        let mut ids = HashMap::new();
        for (id, &token) in tokens.iter().enumerate() {
            let id = u16::try_from(id).map_err(|_| VocabularyError::TooLarge(spellings.len()))?;
            if let Some(token) = token
                && ids.insert(token, id).is_some()
            {
                return Err(VocabularyError::Twice(token));
            }
        }
        let of = |token| ids.get(&token).copied().ok_or(VocabularyError::Lacks(token));
        let (start, end, frame_end) = (of(Token::Start)?, of(Token::End)?, of(Token::FrameEnd)?);
        if !ids.keys().any(|token| matches!(token, Token::Note { .. })) {
            return Err(VocabularyError::NoNotes);
        }
        Ok(Self { tokens, ids, start, end, frame_end })
    }

    /// Number of ids, V.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Never: a vocabulary has START, END and more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The token of an id.
    #[must_use]
    pub fn token(&self, id: u16) -> Option<Token> {
        self.tokens.get(usize::from(id)).copied().flatten()
    }

    /// The id of a token.
    #[must_use]
    pub fn id(&self, token: Token) -> Option<u16> {
        match token {
            Token::Start => Some(self.start),
            Token::End => Some(self.end),
            Token::FrameEnd => Some(self.frame_end),
            other => self.ids.get(&other).copied(),
        }
    }

    /// Whether a pitch can be struck and held.
    #[must_use]
    pub fn knows_pitch(&self, midi: u8) -> bool {
        [false, true].iter().all(|&tied| self.ids.contains_key(&Token::Note { midi, tied }))
    }

    /// Whether a note can be struck, or held.
    #[must_use]
    pub fn knows_note(&self, midi: u8, tied: bool) -> bool {
        self.ids.contains_key(&Token::Note { midi, tied })
    }

    /// The pitches that can be struck and held, a bit each.
    #[must_use]
    pub fn pitches(&self) -> u128 {
        (0..=127).filter(|&midi| self.knows_pitch(midi)).fold(0, |bits, midi| bits | 1 << midi)
    }

    /// Ids and their tokens, in order of id.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Token)> + '_ {
        (0..=u16::MAX).zip(&self.tokens).filter_map(|(id, token)| token.map(|token| (id, token)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The special tokens and every note from `low` to `high`, struck and tied.
    pub(crate) fn music(low: u8, high: u8) -> Vocabulary {
        Vocabulary::new(&spellings(low, high)).expect("a vocabulary")
    }

    pub(crate) fn spellings(low: u8, high: u8) -> Vec<String> {
        let notes = (low..=high).flat_map(|midi| [false, true].map(|tied| Token::Note { midi, tied }));
        let special = [Token::Start, Token::End, Token::FrameEnd, Token::Fermata];
        special.into_iter().chain(notes).map(|token| token.to_string()).collect()
    }

    #[test]
    fn ids_and_tokens_are_each_others_inverse() {
        let vocabulary = music(60, 62);
        assert_eq!(vocabulary.len(), 10);
        assert_eq!(vocabulary.iter().count(), 10);
        for (id, token) in vocabulary.iter() {
            assert_eq!((vocabulary.id(token), vocabulary.token(id)), (Some(id), Some(token)));
        }
        assert_eq!(vocabulary.token(10), None);
        assert!(vocabulary.knows_pitch(62) && !vocabulary.knows_pitch(63));
    }

    #[test]
    fn vocabularies_of_other_things_than_music_are_refused() {
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let check = |list: &[&str]| Vocabulary::new(&words(list)).map(|_| ());
        assert_eq!(check(&["START", "END", "a", "b"]), Err(VocabularyError::Lacks(Token::FrameEnd)));
        assert_eq!(check(&["START", "END", "|||", "(.)"]), Err(VocabularyError::NoNotes));
        let twice = Token::Note { midi: 60, tied: true };
        let list = ["START", "END", "|||", "(60, True)", "(60, True)"];
        assert_eq!(check(&list), Err(VocabularyError::Twice(twice)));
    }
}
