//! `kapell trial`: see trials, read their logs, try failed ones again, train one again and compare.

mod compare;
mod reproduce;

use kapell_rpc::convert::{
    config_to_wire, options_from_wire, outcome_name, trial_state_from_name, trial_state_name,
};
use kapell_rpc::v1;
use kapell_rpc::view::{TrialDetailView, TrialView};
use kapell_search::options;

use crate::args::{Global, TrialCommand, TrialListArgs};
use crate::error::CliError;
use crate::{Outcome, connect, output};
use kapell_rpc::{Client, Kind};

/// How often a log that is followed is asked for.
const FOLLOW_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) async fn run(command: TrialCommand, global: &Global) -> Outcome {
    let client = connect(global)?;
    match command {
        TrialCommand::List(args) => list(&client, args, global.json).await?,
        TrialCommand::Show { trial } => show(&client.get_trial(parse_reference(&trial)?).await?, global.json),
        TrialCommand::Logs { trial, attempt, follow } => {
            logs(&client, parse_reference(&trial)?, attempt, follow, global.json).await?;
        }
        TrialCommand::Reproduce(args) => return reproduce::run(&client, &args, global.json).await,
        TrialCommand::Retry { trial } => {
            let trial = client.retry_trial(parse_reference(&trial)?).await?;
            if global.json {
                output::json(&TrialView::from(&trial));
            } else {
                output::line(format!("{}/{} is queued again", trial.study, trial.number));
            }
        }
    }
    Ok(0)
}

/// Prints an attempt's log; with `follow` what comes to it, until the attempt ends.
async fn logs(
    client: &Client,
    trial: v1::TrialRef,
    attempt: u32,
    follow: bool,
    json: bool,
) -> Result<(), CliError> {
    let v1::TrialRef { study, number } = trial.clone();
    let mut request = v1::TrialLogsRequest { study, number, attempt, after: 0 };
    loop {
        match client.trial_logs(request.clone()).await {
            Ok(logs) => {
                if json && !(follow && logs.log.is_empty()) {
                    output::json(&serde_json::json!({"attempt": logs.attempt, "log": logs.log}));
                } else if !logs.log.is_empty() {
                    output::line(logs.log.trim_end());
                }
                if !follow || !logs.running {
                    return Ok(());
                }
                (request.attempt, request.after) = (logs.attempt, logs.end);
            }
            Err(error) if follow && error.is_temporary() => {}
            Err(error) if follow && error.kind == Kind::NotFound => {
                let state = client.get_trial(trial.clone()).await?.trial.unwrap_or_default().state();
                let waits = [v1::TrialState::Queued, v1::TrialState::Running, v1::TrialState::Paused];
                if !waits.contains(&state) {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// `STUDY/NUMBER`.
fn parse_reference(text: &str) -> Result<v1::TrialRef, CliError> {
    let bad = || {
        CliError::usage(format!("\"{text}\" is no trial"), "a trial is STUDY/NUMBER, for example my-study/12")
    };
    let (study, number) = text.rsplit_once('/').ok_or_else(bad)?;
    let number = number.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?;
    Ok(v1::TrialRef { study: study.to_owned(), number })
}

async fn list(client: &Client, args: TrialListArgs, json: bool) -> Result<(), CliError> {
    let state =
        args.state.as_deref().and_then(|s| trial_state_from_name(&s.to_uppercase())).unwrap_or_default();
    check_sort(&args.sort)?;
    let request = v1::ListTrialsRequest {
        studies: args.study,
        state: state.into(),
        sort: args.sort,
        descending: args.desc,
        limit: args.limit,
        filter: Some(filter(&args.filter)?),
    };
    let trials = client.list_trials(request).await?;
    if json {
        trials.iter().for_each(|t| output::json(&TrialView::from(t)));
    } else {
        table(&trials);
    }
    Ok(())
}

fn check_sort(key: &str) -> Result<(), CliError> {
    let own = ["number", "objective", "seconds"];
    if own.contains(&key) || options::find(key).is_some() {
        return Ok(());
    }
    let names = own.into_iter().chain(options::OPTIONS.iter().map(|o| o.name));
    let near = options::nearest(key, names).unwrap_or("objective");
    Err(CliError::usage(format!("trials cannot be sorted by \"{key}\""), format!("did you mean \"{near}\"?")))
}

fn filter(filters: &[String]) -> Result<v1::Config, CliError> {
    let mut config = kapell_search::Config::default();
    for text in filters {
        let bad = |hint: String| CliError::usage(format!("\"{text}\" is no filter"), hint);
        let (name, value) =
            text.split_once('=').ok_or_else(|| bad("write OPTION=VALUE, for example layers=3".to_owned()))?;
        let Some(spec) = options::find(name) else {
            let near = options::nearest(name, options::OPTIONS.iter().map(|o| o.name));
            return Err(bad(near.map_or_else(
                || "`kapell study schema` prints all options".to_owned(),
                |n| format!("did you mean \"{n}\"?"),
            )));
        };
        let parsed = value.parse().map(kapell_search::OptionValue::Int);
        let parsed = parsed.or_else(|_| value.parse().map(kapell_search::OptionValue::Float));
        let parsed = parsed.or_else(|_| value.parse().map(kapell_search::OptionValue::Bool));
        let value = parsed.unwrap_or_else(|_| kapell_search::OptionValue::Text(value.to_owned()));
        config.options.insert(name.to_owned(), spec.check(value).map_err(bad)?);
    }
    Ok(config_to_wire(&config))
}

/// A table of trials: the options in which they differ, and how they went.
pub(crate) fn table(trials: &[v1::Trial]) {
    let configs: Vec<kapell_search::Config> = trials
        .iter()
        .map(|t| t.config.as_ref().and_then(|c| options_from_wire(c).ok()).unwrap_or_default())
        .collect();
    let differing: Vec<&str> = options::OPTIONS
        .iter()
        .map(|o| o.name)
        .filter(|name| configs.windows(2).any(|pair| pair[0].get(name) != pair[1].get(name)))
        .collect();
    let mut headers = vec!["trial", "state"];
    headers.extend(&differing);
    headers.extend(["epochs", "train", "val", "best val", "at", "time", "worker", "reason"]);
    let row = |(t, config): (&v1::Trial, &kapell_search::Config)| {
        let state = trial_state_name(t.state());
        let mut row = vec![format!("{}/{}", t.study, t.number), state.to_owned()];
        row.extend(differing.iter().map(|name| config.get(name).map_or_else(String::new, |v| v.to_string())));
        let at = t.best_epoch.map_or_else(|| "-".to_owned(), |e| e.to_string());
        let tail = [
            t.epochs.to_string(),
            output::loss(t.train_loss),
            output::loss(t.val_loss),
            output::loss(t.best_val_loss),
            at,
            output::seconds(t.seconds),
            t.worker.clone(),
            t.reason.clone(),
        ];
        row.extend(tail);
        row
    };
    output::table(&headers, trials.iter().zip(&configs).map(row).collect());
}

fn show(detail: &v1::TrialDetail, json: bool) {
    if json {
        output::json(&TrialDetailView::from(detail));
        return;
    }
    let Some(trial) = &detail.trial else { return };
    table(std::slice::from_ref(trial));
    let config = trial.config.as_ref().and_then(|c| options_from_wire(c).ok()).unwrap_or_default();
    output::line(format!("\nconfig  {}", config.to_json()));
    output::line(format!("corpus  {}", trial.corpus_digest));
    for (name, checkpoint) in [("best", &trial.best), ("last", &trial.last)] {
        if let Some(c) = checkpoint {
            output::line(format!("{name}    {} (epoch {}, {})", c.digest, c.epoch, output::bytes(c.bytes)));
        }
    }
    output::line("");
    let epoch = |m: &v1::Measurement| {
        let speed = format!("{:.0}", m.tokens_per_s);
        vec![
            m.epoch.to_string(),
            output::loss(Some(m.train_loss)),
            output::loss(Some(m.val_loss)),
            output::seconds(m.seconds),
            speed,
            m.attempt.to_string(),
        ]
    };
    output::table(
        &["epoch", "train", "val", "time", "tokens/s", "attempt"],
        detail.measurements.iter().map(epoch).collect(),
    );
    output::line("");
    let attempt = |a: &v1::Attempt| {
        let outcome = match a.outcome() {
            v1::Outcome::Unspecified => "RUNNING",
            outcome => outcome_name(outcome),
        };
        vec![
            a.attempt.to_string(),
            a.worker.clone(),
            outcome.to_owned(),
            format!("from epoch {}", a.start_epoch),
            a.reason.clone(),
        ]
    };
    output::table(
        &["attempt", "worker", "outcome", "start", "reason"],
        detail.attempts.iter().map(attempt).collect(),
    );
    for d in &detail.divergences {
        output::line(format!(
            "\nwarning: epoch {} of attempt {} has other bytes than attempt {} had, on the same numerics:\n  {}\n  {}",
            d.epoch, d.attempt, d.other_attempt, d.weights_digest, d.other_weights_digest
        ));
    }
    if !detail.divergences.is_empty() {
        output::line(format!(
            "that should not be: `kapell trial reproduce {}/{}` tells which of them is right",
            trial.study, trial.number
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_named_by_study_and_number() {
        assert_eq!(parse_reference("a-b/12").map(|r| (r.study, r.number)).ok(), Some(("a-b".to_owned(), 12)));
        for bad in ["a", "a/", "a/0", "a/x", "a/-1"] {
            assert!(parse_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_filter_is_checked_against_the_options() {
        assert!(filter(&["layers=3".into(), "dropout=0".into(), "batch_norm=true".into()]).is_ok());
        assert!(filter(&["layrs=3".into()]).is_err_and(|e| e.hint.contains("layers")));
        assert!(filter(&["layers=three".into()]).is_err());
    }
}
