//! Arguments of `kapell model evaluate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kapell_music::corpus::PartOfSplit;

#[derive(Debug, Clone, Args)]
pub(crate) struct EvaluateArgs {
    /// A model of the coordinator's registry, or a folder with one.
    #[arg(value_name = "REF|DIR")]
    pub(crate) model: String,
    /// The part of the corpus: test, which no search has seen, val or train.
    #[arg(long, value_enum, value_name = "PART", default_value_t = On::Test)]
    pub(crate) on: On,
    /// A corpus of this machine's library, in place of the one that the model was trained on.
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus: Option<String>,
    /// How notes are chosen.
    #[arg(long, value_enum, default_value_t = EvaluateSearch::Beam)]
    pub(crate) search: EvaluateSearch,
    /// With --search beam: lines that go on from frame to frame.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) beam_width: u16,
    /// With --search beam: so many times as many lines hear the next frame's given notes; 1 is none.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) look_ahead: u16,
    /// Hold found voices to no ranges, rests, chords and cadences.
    #[arg(long)]
    pub(crate) no_rules: bool,
    /// Harmonise in all ways, to compare them: greedy and beam, with and without rules and look-ahead.
    #[arg(long)]
    pub(crate) compare: bool,
    /// Measure so many pieces only, spread over the part.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pieces: Option<u32>,
    /// Threads; by default all cores that may be used.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Write tables (CSV, Markdown), a line a piece (JSON) and a plot (SVG) into this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum On {
    Test,
    Val,
    Train,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EvaluateSearch {
    /// The likeliest of several lines at once.
    Beam,
    /// Always the likeliest next token.
    Greedy,
}

impl On {
    pub(crate) fn part(self) -> PartOfSplit {
        match self {
            Self::Test => PartOfSplit::Test,
            Self::Val => PartOfSplit::Val,
            Self::Train => PartOfSplit::Train,
        }
    }
}
