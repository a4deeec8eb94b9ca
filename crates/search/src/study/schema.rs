//! Prints the study file's schema: every key with its default and what it means.

use std::fmt::Write as _;

use crate::options::{OPTIONS, OptionKind, OptionSpec, OptionValue};

const HEAD: &str = r#"# Every key of a study file with its default. Only `name` must be given.
name       = "my-study"               # letters, digits, '-', '_' and '.'; the name of the model, too
corpus     = "chorales"               # see `kapell corpus list`; pinned by digest when the study is created
objective  = { metric = "val_loss", at = "best", direction = "minimize" }
                                      # metric: val_loss | train_loss; at: best | last; direction: minimize | maximize
sampler    = { kind = "grid" }        # every point of the space
pruner     = { kind = "none" }        # every trial runs to its last epoch
replicates = 1                        # seeds per configuration
weight     = 1.0                      # share of the workers beside other studies
retry      = { max_attempts = 3, max_lost = 20 }   # failures of a trial itself; losses without a checkpoint between
checkpoint = { every = "1m", keep = "best+last" }  # keep: best+last | best | last
# limits   = { max_hours = 12, target = 0.35 }     # none by default; the study ends when one is reached
# require  = { device = "cpu" }       # cpu | cuda; left out: any worker
# tags     = { git_sha = "..." }      # texts of your own

[space]                               # any option of [train] may stand here with a list of values
# layers  = [1, 2, 3, 4]
# dropout = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]

[train]                               # what is not searched
"#;

/// The schema as a study file that parses: all keys, their defaults, a comment each.
#[must_use]
pub fn schema_toml() -> String {
    let mut text = HEAD.to_owned();
    for spec in OPTIONS {
        let default = match OptionValue::from(spec.default) {
            OptionValue::Text(t) => format!("\"{t}\""),
            other => other.to_string(),
        };
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "{:<34}# {} ({})", format!("{} = {default}", spec.name), spec.help, bounds(spec));
    }
    text
}

fn bounds(spec: &OptionSpec) -> String {
    let epochs = if spec.identity { "" } else { "; no part of a trial's identity" };
    let range = match spec.kind {
        OptionKind::Int { min, max } if max == i64::MAX => format!("whole, from {min}"),
        OptionKind::Int { min, max } => format!("whole, {min} to {max}"),
        OptionKind::Float { min, below, positive } => {
            let lower = if positive { format!("above {min}") } else { format!("from {min}") };
            if below.is_finite() { format!("{lower}, below {below}") } else { lower }
        }
        OptionKind::Bool => "true or false".to_owned(),
        OptionKind::Choice(words) => words.join(" | "),
    };
    format!("{range}{epochs}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StudySpec;

    #[test]
    fn the_schema_is_a_study_file_of_nothing_but_defaults() {
        let spec = StudySpec::parse(&schema_toml()).unwrap();
        let bare = StudySpec::parse("name = \"my-study\"").unwrap();
        assert_eq!(spec.difference(&bare), Vec::<String>::new());
        assert!(OPTIONS.iter().all(|o| schema_toml().contains(o.name)));
    }
}
