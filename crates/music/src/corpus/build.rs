//! From encoded pieces to a corpus: vocabulary, ids, split.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Corpus, END, Kind, PartOfSplit, Piece, Protocol, START, blob, split};
use crate::encode::Token;

/// How the pieces are to be split.
#[derive(Debug, Clone, Default)]
pub struct SplitPlan {
    pub seed: u64,
    /// The parts of pieces that are known from before.
    pub known: BTreeMap<String, PartOfSplit>,
}

/// Why pieces make no corpus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("the corpus would have no piece")]
    Empty,
    #[error("two pieces have the id \"{id}\"")]
    DuplicatePiece { id: String },
    #[error("\"{}\" cannot be a piece's id (empty, too long or with control characters)", id.escape_debug())]
    PieceId { id: String },
    #[error("{symbols} different tokens are more than the 65,536 that a vocabulary holds")]
    Vocabulary { symbols: usize },
}

/// A corpus of encoded scores. The order of `pieces` becomes the corpus's; the order of ids is that of `Token`.
///
/// # Errors
/// No piece, two with one id, an id that cannot be written to a line.
pub fn from_scores(
    name: &str,
    protocol: Protocol,
    pieces: &[(String, Vec<Token>)],
    plan: &SplitPlan,
) -> Result<Corpus, BuildError> {
    let symbols: BTreeSet<Token> = pieces
        .iter()
        .flat_map(|(_, tokens)| tokens.iter().copied())
        .filter(|token| !matches!(token, Token::Start | Token::End))
        .collect();
    let ids = numbered(symbols.iter().copied())?;
    let id_of = |token: &Token| match token {
        Token::Start => START,
        other => ids.get(other).copied().unwrap_or(END),
    };
    let encoded = pieces.iter().map(|(id, tokens)| (id.clone(), tokens.iter().map(id_of).collect()));
    assemble(name, Kind::Scores, protocol, symbols.iter().map(Token::to_string), encoded, plan)
}

/// A corpus of texts, each character a token, START and END around each text.
///
/// # Errors
/// As `from_scores`; and more than 65,534 different characters.
pub fn from_texts(name: &str, texts: &[(String, String)], plan: &SplitPlan) -> Result<Corpus, BuildError> {
    let symbols: BTreeSet<char> = texts.iter().flat_map(|(_, text)| text.chars()).collect();
    let ids = numbered(symbols.iter().copied())?;
    let encoded = texts.iter().map(|(id, text)| {
        let characters = text.chars().filter_map(|c| ids.get(&c).copied());
        (id.clone(), std::iter::once(START).chain(characters).chain([END]).collect())
    });
    let spellings = symbols.iter().map(char::to_string);
    assemble(name, Kind::Text, Protocol::Pieces, spellings, encoded, plan)
}

fn numbered<S: Ord>(symbols: impl ExactSizeIterator<Item = S>) -> Result<BTreeMap<S, u16>, BuildError> {
    let count = symbols.len();
    if count + 2 > usize::from(u16::MAX) + 1 {
        return Err(BuildError::Vocabulary { symbols: count });
    }
    Ok(symbols.zip(END + 1..=u16::MAX).collect())
}

fn assemble(
    name: &str,
    kind: Kind,
    protocol: Protocol,
    spellings: impl Iterator<Item = String>,
    encoded: impl Iterator<Item = (String, Vec<u16>)>,
    plan: &SplitPlan,
) -> Result<Corpus, BuildError> {
    let mut seen = HashSet::new();
    let mut pieces = Vec::new();
    for (id, tokens) in encoded {
        if !blob::is_piece_id(&id) {
            return Err(BuildError::PieceId { id });
        }
        if !seen.insert(id.clone()) {
            return Err(BuildError::DuplicatePiece { id });
        }
        pieces.push(Piece { id, part: PartOfSplit::Train, tokens });
    }
    if pieces.is_empty() {
        return Err(BuildError::Empty);
    }
    let vocabulary = ["START".to_owned(), "END".to_owned()].into_iter().chain(spellings).collect();
    let mut corpus = Corpus { name: name.to_owned(), kind, protocol, vocabulary, pieces };
    split::assign(&mut corpus, &plan.known, plan.seed);
    Ok(corpus)
}
