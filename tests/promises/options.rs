//! What the runner is told, and what a row gives back.

use std::fmt::{self, Display};

pub(crate) const USAGE: &str = "\
cargo test --release --test promises -- [ROW]... [--long] [--tries N] [--seed S] [--list]

ROW is a number or a name; without one, every row runs in its short form.
--long       the long form, by hand: minutes to hours a row
--tries N    so many tries instead of the form's own
--seed S     the seed of everything that is drawn; a failing row prints it";

/// How a row is to run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) long: bool,
    tries: Option<u64>,
    pub(crate) seed: u64,
    rows: Vec<String>,
    skipped: Vec<String>,
}

pub(crate) enum Asked {
    Run(Options),
    List,
    Help,
}

impl Options {
    /// How often to try: as asked for, or what the form says.
    pub(crate) fn tries(&self, short: u64, long: u64) -> u64 {
        self.tries.unwrap_or(if self.long { long } else { short })
    }

    pub(crate) fn wants(&self, number: u32, name: &str) -> bool {
        let named = |word: &String| *word == number.to_string() || name.contains(word.as_str());
        (self.rows.is_empty() || self.rows.iter().any(named)) && !self.skipped.iter().any(named)
    }

    /// The flags that make a run like this one.
    pub(crate) fn replay(&self) -> String {
        let tries = self.tries.map(|n| format!(" --tries {n}")).unwrap_or_default();
        format!("{}--seed {}{tries}", if self.long { "--long " } else { "" }, self.seed)
    }
}

/// Reads the arguments. Flags of cargo's own harness are let pass, since `cargo test --workspace -- FLAG` gives them
/// to every target.
pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Asked, String> {
    let seed = u64::from(std::process::id()) ^ house_seed();
    let mut options = Options { long: false, tries: None, seed, rows: Vec::new(), skipped: Vec::new() };
    while let Some(arg) = args.next() {
        let (flag, mut value) = match arg.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (arg, None),
        };
        let mut text = || value.take().or_else(|| args.next()).ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "-h" | "--help" => return Ok(Asked::Help),
            "--list" => return Ok(Asked::List),
            "--long" => options.long = true,
            "--tries" => options.tries = Some(number(&flag, &text()?)?),
            "--seed" => options.seed = number(&flag, &text()?)?,
            "--skip" => options.skipped.push(text()?),
            "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => drop(text()?),
            _ if flag.starts_with('-') => {}
            _ => options.rows.push(flag),
        }
    }
    Ok(Asked::Run(options))
}

fn number(flag: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{flag} needs a number, not {text:?}"))
}

/// Another one for each run: what is drawn shall not be the same for ever.
fn house_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_secs()
}

/// What a row has shown.
#[derive(Debug)]
pub(crate) struct Figure {
    text: String,
    /// Tries without a failure, each of which could have failed; none where the figure is of another kind.
    tries: Option<u64>,
}

impl Figure {
    pub(crate) fn zero_in(tries: u64, text: impl Into<String>) -> Self {
        Self { text: text.into(), tries: Some(tries) }
    }

    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), tries: None }
    }

    /// This machine cannot show it.
    pub(crate) fn skipped(why: &str) -> Self {
        Self::plain(format!("SKIPPED, nothing is proven: {why}"))
    }
}

impl Display for Figure {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.tries {
            // Zero failures in n tries: the rate is below 3/n with a confidence of 95%.
            Some(n) => write!(f, " (rate < {:.1e} at 95%)", 3.0 / n.max(1) as f64),
            None => Ok(()),
        }
    }
}

/// Why a row does not hold.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}
