//! A corpus as training and evaluation walk through it.

use std::borrow::Cow;
use std::sync::Arc;

use kapell_music::corpus::{Corpus, PartOfSplit, Protocol};

use crate::config::TrainConfig;

/// Rows that BachBot's protocol cuts its validation tokens into.
const CONTIGUOUS_ROWS: usize = 50;

/// Why a corpus cannot be trained or evaluated on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    #[error("the corpus has {tokens} training tokens, and {rows} rows of {seq_len} want at least {needed}")]
    TooSmall { tokens: usize, rows: usize, seq_len: usize, needed: usize },
    #[error("the corpus has no {part} part to evaluate on")]
    NothingHeldOut { part: &'static str },
    #[error("piece {piece} has the token {token}, and the vocabulary ends at {vocabulary}")]
    UnknownToken { piece: String, token: u16, vocabulary: usize },
    #[error("piece {piece} has the token {token}, which the model does not know")]
    UnknownWord { piece: String, token: String },
}

/// The training tokens as B parallel rows in windows of T.
///
/// The stream is the training pieces one after the other in order of id (for BachBot's protocol the first nine
/// tenths of all tokens). It is cut into B rows of equal length, a whole number of windows; what is left over at its
/// end is not trained on.
///
/// It walks the corpus itself: trials of one process share the tokens in memory.
#[derive(Debug, Clone)]
pub(crate) struct Windows {
    corpus: Arc<Corpus>,
    /// The stream's pieces, by their place in the corpus, and where in the stream each begins.
    starts: Vec<(usize, usize)>,
    rows: usize,
    seq_len: usize,
    /// Windows in an epoch.
    pub(crate) count: usize,
}

impl Windows {
    pub(crate) fn new(corpus: &Arc<Corpus>, config: &TrainConfig) -> Result<Self, DataError> {
        check_tokens(corpus)?;
        let (rows, seq_len) = (config.batch_size, config.seq_len);
        let is_contiguous = corpus.protocol == Protocol::Contiguous;
        let (mut starts, mut tokens) = (Vec::new(), 0);
        for (place, piece) in corpus.pieces.iter().enumerate() {
            if is_contiguous || piece.part == PartOfSplit::Train {
                starts.push((place, tokens));
                tokens += piece.tokens.len();
            }
        }
        if is_contiguous {
            tokens = corpus.contiguous_cut();
        }
        let count = tokens.saturating_sub(1) / (rows * seq_len);
        if count == 0 {
            let needed = rows * seq_len + 1;
            return Err(DataError::TooSmall { tokens, rows, seq_len, needed });
        }
        Ok(Self { corpus: corpus.clone(), starts, rows, seq_len, count })
    }

    /// Writes window `index`, time-major: position (t, b) is element t * B + b.
    pub(crate) fn fill(&self, index: usize, inputs: &mut [u16], targets: &mut [u16]) {
        for row in 0..self.rows {
            let start = (row * self.count + index) * self.seq_len;
            for (place, token) in self.stream_from(start).take(self.seq_len + 1).enumerate() {
                if place < self.seq_len {
                    inputs[place * self.rows + row] = token;
                }
                if place > 0 {
                    targets[(place - 1) * self.rows + row] = token;
                }
            }
        }
    }

    /// The stream from a position on that lies within it.
    fn stream_from(&self, position: usize) -> impl Iterator<Item = u16> + '_ {
        let span = self.starts.partition_point(|&(_, start)| start <= position).saturating_sub(1);
        let skipped = position - self.starts[span].1;
        let pieces = self.starts[span..].iter().enumerate();
        pieces.flat_map(move |(ahead, &(piece, _))| {
            let tokens = &self.corpus.pieces[piece].tokens;
            tokens[if ahead == 0 { skipped } else { 0 }..].iter().copied()
        })
    }

    pub(crate) fn tokens_per_window(&self) -> usize {
        self.rows * self.seq_len
    }
}

/// Token streams that are scored each from a zero state: name and tokens, of which the first is only input.
///
/// By the protocol of pieces these are the part's pieces; by BachBot's the rows of its validation tokens, cut as
/// training rows are, to whole windows of `seq_len`.
pub(crate) fn held_out(
    corpus: &Corpus,
    of: PartOfSplit,
    seq_len: usize,
) -> Result<Vec<Sequence<'_>>, DataError> {
    check_tokens(corpus)?;
    let name = match of {
        PartOfSplit::Train => "training",
        PartOfSplit::Val => "validation",
        PartOfSplit::Test => "test",
    };
    let sequences: Vec<Sequence<'_>> = match corpus.protocol {
        Protocol::Pieces => {
            let long_enough = part(corpus, of).filter(|(_, tokens)| tokens.len() > 1);
            long_enough.map(|(name, tokens)| Sequence { name: name.into(), tokens: tokens.into() }).collect()
        }
        Protocol::Contiguous => {
            let all = all_tokens(corpus);
            let (train, val) = all.split_at(corpus.contiguous_cut());
            match of {
                PartOfSplit::Train => contiguous_rows(train, seq_len),
                PartOfSplit::Val => contiguous_rows(val, seq_len),
                PartOfSplit::Test => Vec::new(),
            }
        }
    };
    if sequences.is_empty() { Err(DataError::NothingHeldOut { part: name }) } else { Ok(sequences) }
}

/// A stream to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence<'a> {
    pub(crate) name: String,
    pub(crate) tokens: Cow<'a, [u16]>,
}

fn contiguous_rows(stream: &[u16], seq_len: usize) -> Vec<Sequence<'static>> {
    let length = stream.len().saturating_sub(1) / (CONTIGUOUS_ROWS * seq_len) * seq_len;
    if length == 0 {
        return Vec::new();
    }
    let row = |row: usize| Sequence {
        name: format!("row-{row:02}"),
        tokens: stream[row * length..=(row + 1) * length].to_vec().into(),
    };
    (0..CONTIGUOUS_ROWS).map(row).collect()
}

fn part(corpus: &Corpus, part: PartOfSplit) -> impl Iterator<Item = (&str, &[u16])> {
    let of_part = corpus.pieces.iter().filter(move |piece| piece.part == part);
    of_part.map(|piece| (piece.id.as_str(), piece.tokens.as_slice()))
}

fn all_tokens(corpus: &Corpus) -> Vec<u16> {
    corpus.pieces.iter().flat_map(|piece| &piece.tokens).copied().collect()
}

fn check_tokens(corpus: &Corpus) -> Result<(), DataError> {
    let vocabulary = corpus.vocabulary.len();
    for piece in &corpus.pieces {
        if let Some(&token) = piece.tokens.iter().find(|&&token| usize::from(token) >= vocabulary) {
            return Err(DataError::UnknownToken { piece: piece.id.clone(), token, vocabulary });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kapell_music::corpus::{Kind, Piece};

    fn corpus(protocol: Protocol, pieces: &[(PartOfSplit, std::ops::Range<u16>)]) -> Arc<Corpus> {
        let piece = |(place, (part, tokens)): (usize, &(PartOfSplit, std::ops::Range<u16>))| Piece {
            id: format!("p{place}"),
            part: *part,
            tokens: tokens.clone().collect(),
        };
        Arc::new(Corpus {
            name: "counting".into(),
            kind: Kind::Text,
            protocol,
            vocabulary: (0..2000).map(|token| token.to_string()).collect(),
            pieces: pieces.iter().enumerate().map(piece).collect(),
        })
    }

    #[test]
    fn windows_follow_each_row_and_targets_are_the_next_tokens() {
        let corpus = corpus(
            Protocol::Pieces,
            &[(PartOfSplit::Train, 0..10), (PartOfSplit::Val, 500..520), (PartOfSplit::Train, 10..26)],
        );
        let config = TrainConfig { seq_len: 4, batch_size: 3, ..TrainConfig::default() };
        let windows = Windows::new(&corpus, &config).expect("26 tokens are enough");
        assert_eq!(windows.count, 2);
        let (mut inputs, mut targets) = (vec![0; 12], vec![0; 12]);
        windows.fill(1, &mut inputs, &mut targets);
        assert_eq!(inputs, [4, 12, 20, 5, 13, 21, 6, 14, 22, 7, 15, 23]);
        assert_eq!(targets, [5, 13, 21, 6, 14, 22, 7, 15, 23, 8, 16, 24]);
        let small = TrainConfig { seq_len: 13, batch_size: 2, ..config };
        let error = Windows::new(&corpus, &small).map(|windows| windows.count);
        assert_eq!(error, Err(DataError::TooSmall { tokens: 26, rows: 2, seq_len: 13, needed: 27 }));
    }

    #[test]
    fn windows_cross_pieces_of_any_length_and_copy_none_of_them() {
        let train = PartOfSplit::Train;
        let pieces =
            [(train, 0..0), (train, 0..1), (train, 1..2), (train, 2..2), (train, 2..25), (train, 25..25)];
        let corpus = corpus(Protocol::Pieces, &pieces);
        let config = TrainConfig { seq_len: 3, batch_size: 2, ..TrainConfig::default() };
        let windows = Windows::new(&corpus, &config).expect("25 tokens are enough");
        assert!(Arc::ptr_eq(&windows.corpus, &corpus));
        let (mut inputs, mut targets) = (vec![0; 6], vec![0; 6]);
        for index in 0..4_u16 {
            windows.fill(usize::from(index), &mut inputs, &mut targets);
            let begins = [3 * index, 12 + 3 * index];
            let row = |ahead: u16| begins.map(|begin| begin + ahead);
            assert_eq!(inputs, [row(0), row(1), row(2)].concat());
            assert_eq!(targets, [row(1), row(2), row(3)].concat());
        }
    }

    #[test]
    fn the_contiguous_protocol_trains_on_the_first_nine_tenths() {
        let corpus = corpus(Protocol::Contiguous, &[(PartOfSplit::Train, 0..7), (PartOfSplit::Val, 7..20)]);
        let config = TrainConfig { seq_len: 17, batch_size: 1, ..TrainConfig::default() };
        assert_eq!(Windows::new(&corpus, &config).map(|windows| windows.count), Ok(1));
        let longer = TrainConfig { seq_len: 18, ..config };
        let error = Windows::new(&corpus, &longer).map(|windows| windows.count);
        assert_eq!(error, Err(DataError::TooSmall { tokens: 18, rows: 1, seq_len: 18, needed: 19 }));
    }

    #[test]
    fn the_contiguous_protocol_scores_fifty_rows_of_whole_windows() {
        // 1,500 tokens: 1,350 train, 150 validate: 149 / (50 * 2) = 1 window of 2 a row.
        let corpus =
            corpus(Protocol::Contiguous, &[(PartOfSplit::Train, 0..1400), (PartOfSplit::Train, 1400..1500)]);
        let rows = held_out(&corpus, PartOfSplit::Val, 2).expect("long enough");
        assert_eq!(rows.len(), 50);
        assert_eq!(rows[1], Sequence { name: "row-01".into(), tokens: vec![1352, 1353, 1354].into() });
        let test = held_out(&corpus, PartOfSplit::Test, 2);
        assert_eq!(test, Err(DataError::NothingHeldOut { part: "test" }));
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_refused() {
        let mut corpus = corpus(Protocol::Pieces, &[(PartOfSplit::Train, 0..100)]);
        Arc::make_mut(&mut corpus).vocabulary.truncate(99);
        let error = Windows::new(&corpus, &TrainConfig::default()).map(|windows| windows.count);
        assert_eq!(error, Err(DataError::UnknownToken { piece: "p0".into(), token: 99, vocabulary: 99 }));
    }
}
