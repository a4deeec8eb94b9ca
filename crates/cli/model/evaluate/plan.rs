//! What is to be set anew: which voices are asked for, and how they are found.

use kapell_model::decode::{Beam, Rules, Search, VOICES};
use kapell_model::measure::harmony::Method;
use serde::Serialize;

use crate::args::{EvaluateArgs, EvaluateSearch};

/// Voices that are asked for, as in the thesis's table.
const ASKED: [&str; 7] = ["S", "A", "T", "B", "AT", "ATB", "SATB"];
const LETTERS: [char; VOICES] = ['S', 'A', 'T', 'B'];
/// The look-ahead that is compared with none.
const LOOK_AHEAD: u16 = 4;

/// How voices are found, as tables and JSON say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    pub(super) search: &'static str,
    /// Of a beam.
    pub(super) width: Option<u16>,
    /// Of a beam; 1 is none.
    pub(super) look_ahead: Option<u16>,
    pub(super) rules: bool,
}

/// Pieces to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) asked: [bool; VOICES],
    pub(super) way: Way,
    /// Of the table of error rates.
    pub(super) in_errors: bool,
    /// Of the table of counterpoint.
    pub(super) in_counterpoint: bool,
}

impl Way {
    fn greedy(rules: bool) -> Self {
        Self { search: "greedy", width: None, look_ahead: None, rules }
    }

    fn beam(width: u16, look_ahead: u16, rules: bool) -> Self {
        Self { search: "beam", width: Some(width), look_ahead: Some(look_ahead), rules }
    }

    /// What the arguments ask for.
    pub(super) fn of(args: &EvaluateArgs) -> Self {
        match args.search {
            EvaluateSearch::Greedy => Self::greedy(!args.no_rules),
            EvaluateSearch::Beam => Self::beam(args.beam_width, args.look_ahead, !args.no_rules),
        }
    }

    /// "beam 5, rules, look-ahead 4".
    pub(super) fn name(&self) -> String {
        let width = self.width.map(|width| format!(" {width}")).unwrap_or_default();
        let rules = if self.rules { "rules" } else { "no rules" };
        let ahead = self.look_ahead.filter(|ahead| *ahead > 1).map(|ahead| format!(", look-ahead {ahead}"));
        format!("{}{width}, {rules}{}", self.search, ahead.unwrap_or_default())
    }
}

impl Task {
    pub(super) fn given(&self) -> [bool; VOICES] {
        self.asked.map(|asked| !asked)
    }

    pub(super) fn method(&self) -> Method {
        let search = match (self.way.width, self.way.look_ahead) {
            (Some(width), Some(ahead)) => {
                Search::Beam(Beam { width: usize::from(width), look_ahead: usize::from(ahead) })
            }
            _ => Search::Greedy,
        };
        Method { search, rules: if self.way.rules { Rules::default() } else { Rules::NONE } }
    }

    pub(super) fn name(&self) -> String {
        format!("{}: {}", letters(self.asked), self.way.name())
    }
}

/// "ATB".
pub(super) fn letters(voices: [bool; VOICES]) -> String {
    LETTERS.iter().zip(voices).filter(|(_, is)| *is).map(|(letter, _)| *letter).collect()
}

/// The error rates' tasks, and those of counterpoint: soprano given, by the way asked for and, to compare, by all.
pub(super) fn tasks(args: &EvaluateArgs) -> Vec<Task> {
    let way = Way::of(args);
    let under_soprano = [false, true, true, true];
    let task = |asked: &str| {
        let asked = LETTERS.map(|letter| asked.contains(letter));
        Task { asked, way, in_errors: true, in_counterpoint: asked == under_soprano }
    };
    let mut tasks: Vec<Task> = ASKED.iter().map(|asked| task(asked)).collect();
    if args.compare {
        let width = args.beam_width;
        let ahead = if args.look_ahead > 1 { args.look_ahead } else { LOOK_AHEAD };
        let ways = [true, false].into_iter().flat_map(|rules| {
            [Way::greedy(rules), Way::beam(width, 1, rules), Way::beam(width, ahead, rules)]
        });
        let others = ways.filter(|other| *other != way);
        tasks.extend(others.map(|way| Task {
            asked: under_soprano,
            way,
            in_errors: false,
            in_counterpoint: true,
        }));
    }
    tasks
}
