//! One token of the encoding, and its spelling.

use std::fmt;
use std::str::FromStr;

/// A token of BachBot's encoding. Displayed and parsed exactly as BachBot spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Token {
    /// `START`: before the first frame.
    Start,
    /// `END`: after the last frame.
    End,
    /// `|||`: between two frames.
    FrameEnd,
    /// `(.)`: this frame lies under a fermata.
    Fermata,
    /// `(60, False)`: a sounding note; `tied` when it goes on from the frame before.
    Note { midi: u8, tied: bool },
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Start => f.write_str("START"),
            Self::End => f.write_str("END"),
            Self::FrameEnd => f.write_str("|||"),
            Self::Fermata => f.write_str("(.)"),
            Self::Note { midi, tied } => write!(f, "({midi}, {})", if tied { "True" } else { "False" }),
        }
    }
}

/// A word that is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no token: START, END, |||, (.) and notes such as (60, False) are")]
pub struct ParseTokenError(pub String);

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "START" => return Ok(Self::Start),
            "END" => return Ok(Self::End),
            "|||" => return Ok(Self::FrameEnd),
            "(.)" => return Ok(Self::Fermata),
            _ => {}
        }
        let note = || {
            let (midi, tied) = word.strip_prefix('(')?.strip_suffix(')')?.split_once(", ")?;
            let tied = match tied {
                "True" => true,
                "False" => false,
                _ => return None,
            };
            // Only the one spelling that `Display` writes: no "+60", no "060".
            let value = midi.parse::<u8>().ok().filter(|value| *value <= 127 && value.to_string() == midi)?;
            Some(Self::Note { midi: value, tied })
        };
        note().ok_or_else(|| ParseTokenError(word.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_parses_back_from_its_spelling() {
        let notes = (0..=127).flat_map(|midi| [true, false].map(|tied| Token::Note { midi, tied }));
        for token in [Token::Start, Token::End, Token::FrameEnd, Token::Fermata].into_iter().chain(notes) {
            assert_eq!(token.to_string().parse(), Ok(token));
        }
    }

    #[test]
    fn tokens_are_spelt_as_bachbot_spells_them() {
        let spelt =
            [Token::Note { midi: 60, tied: false }, Token::Note { midi: 7, tied: true }, Token::Fermata];
        assert_eq!(spelt.map(|token| token.to_string()), ["(60, False)", "(7, True)", "(.)"]);
    }

    #[test]
    fn other_spellings_are_refused() {
        for word in
            ["", "start", "(128, True)", "(060, True)", "(+60, True)", "(60,True)", "(60, true)", "(60, True"]
        {
            assert!(word.parse::<Token>().is_err(), "{word:?} was taken for a token");
        }
    }
}
