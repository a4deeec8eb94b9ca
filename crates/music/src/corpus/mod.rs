//! A corpus as training sees it: token streams of pieces, their vocabulary and their split, in one blob.

pub mod blob;
pub mod build;
pub mod similarity;
pub mod split;
pub mod text;

use serde::{Deserialize, Serialize};

use crate::token::Token;

/// The tokens that stand around every piece. Every vocabulary begins with them: ids 0 and 1.
pub const START: u16 = 0;
pub const END: u16 = 1;

/// A corpus, encoded and split. Immutable once built; named by the digest of its blob.
#[derive(Debug, Clone, PartialEq)]
pub struct Corpus {
    pub name: String,
    pub kind: Kind,
    pub protocol: Protocol,
    /// Every token's spelling, by id. For scores, exactly as `corpus show PIECE --tokens` prints them.
    /// The order of ids: START, END; then for scores `|||`, `(.)` and the notes by ascending MIDI number, struck
    /// before tied; for text the characters by code point. Only what occurs has an id.
    pub vocabulary: Vec<String>,
    /// In the order of training and evaluation: by id, or for `Contiguous` by file name.
    pub pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Four-part scores in the token encoding.
    Scores,
    /// Characters as tokens.
    Text,
}

/// How training and held-out data are told apart, and how validation loss is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Whole pieces, 80/10/10 by tune. Held-out loss: each piece scored from START, all positions.
    Pieces,
    /// BachBot's: the first 90% of the tokens of all pieces in order of file name train, the rest validate as
    /// 50 contiguous rows, cold-started, in windows of `seq_len`, last partial window dropped. No test part.
    Contiguous,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartOfSplit {
    Train,
    Val,
    Test,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// "bwv269", a file's stem, "exercise-0001". Unique within the corpus.
    pub id: String,
    pub part: PartOfSplit,
    /// Token ids, START and END included.
    pub tokens: Vec<u16>,
}

/// What `corpus show` tells of a corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statistics {
    pub pieces: usize,
    /// Sixteenths in all; none for text, which has no frames.
    pub frames: Option<usize>,
    pub tokens: usize,
    pub vocabulary: usize,
    pub split: SplitStatistics,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct SplitStatistics {
    pub train: PartStatistics,
    pub val: PartStatistics,
    pub test: PartStatistics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub struct PartStatistics {
    pub pieces: usize,
    pub tokens: usize,
}

impl PartOfSplit {
    /// "train", "val", "test".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PartOfSplit::Train => "train",
            PartOfSplit::Val => "val",
            PartOfSplit::Test => "test",
        }
    }
}

impl Corpus {
    /// All tokens of all pieces.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.pieces.iter().map(|p| p.tokens.len()).sum()
    }

    /// The place in the joined stream of all pieces where the protocol `Contiguous` cuts: a tenth of the tokens,
    /// rounded down, is held out, the rest comes before.
    #[must_use]
    pub fn contiguous_cut(&self) -> usize {
        let total = self.token_count();
        total - total / 10
    }

    /// The piece of that id.
    #[must_use]
    pub fn piece(&self, id: &str) -> Option<&Piece> {
        self.pieces.iter().find(|p| p.id == id)
    }

    /// A piece's tokens as spelled; an id outside the vocabulary is left out.
    pub fn spelled<'a>(&'a self, piece: &'a Piece) -> impl Iterator<Item = &'a str> {
        piece.tokens.iter().filter_map(|&t| self.vocabulary.get(usize::from(t)).map(String::as_str))
    }

    /// Counts of the whole and of each part. For `Contiguous` a part's tokens are counted up to the exact cut,
    /// and the piece that the cut divides counts where it begins.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut split = SplitStatistics::default();
        for piece in &self.pieces {
            let part = match piece.part {
                PartOfSplit::Train => &mut split.train,
                PartOfSplit::Val => &mut split.val,
                PartOfSplit::Test => &mut split.test,
            };
            part.pieces += 1;
            part.tokens += piece.tokens.len();
        }
        let tokens = self.token_count();
        if self.protocol == Protocol::Contiguous {
            split.train.tokens = self.contiguous_cut();
            split.val.tokens = tokens - split.train.tokens;
        }
        Statistics {
            pieces: self.pieces.len(),
            frames: self.frames(),
            tokens,
            vocabulary: self.vocabulary.len(),
            split,
        }
    }

    fn frames(&self) -> Option<usize> {
        if self.kind == Kind::Text {
            return None;
        }
        let frame_end = Token::FrameEnd.to_string();
        let between = self.vocabulary.iter().position(|t| *t == frame_end);
        let ends = |p: &Piece| p.tokens.iter().filter(|&&t| Some(usize::from(t)) == between).count();
        Some(self.pieces.iter().map(|p| ends(p) + 1).sum())
    }
}
