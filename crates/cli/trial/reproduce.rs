//! `kapell trial reproduce`: trains a trial again on this machine, as a worker does, and compares every epoch.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kapell_model::{EpochResult, Step, TrainError};
use kapell_rpc::convert::{config_from_wire, trial_state_name};
use kapell_rpc::{Client, digest, v1};
use kapell_search::OptionValue;
use kapell_worker::corpora::Corpora;
use kapell_worker::training::{Job, model_trainer};
use kapell_worker::{cores, machine};
use serde::Serialize;
use tokio::sync::mpsc;

use super::compare::{Decision, Epoch, Figures, Match, Record, decide, records};
use super::parse_reference;
use crate::args::ReproduceArgs;
use crate::error::{CliError, exit};
use crate::{Outcome, daemon, output, paths};

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct ResultView<'a> {
    r#type: &'static str,
    trial: &'a str,
    #[serde(flatten)]
    decision: &'a Decision,
    /// Of this machine and program.
    numerics: &'a str,
    program_version: &'a str,
    /// Of the attempts that measured what is on record.
    recorded_numerics: BTreeSet<String>,
    recorded_program_versions: BTreeSet<String>,
    /// Of the last epoch trained here.
    weights_digest: Option<&'a str>,
    /// Of the best epoch on record, trained here.
    best_weights_digest: Option<&'a str>,
    expected_digest: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct EpochView<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    epoch: &'a Epoch,
}

pub(super) async fn run(client: &Client, args: &ReproduceArgs, json: bool) -> Outcome {
    if let Some(expected) = args.expect_digest.as_deref().filter(|d| digest::hex_part(d).is_none()) {
        let hint =
            "give the weights_digest that `kapell trial show --json` prints: sha256: and 64 hex digits";
        return Err(CliError::usage(format!("\"{expected}\" is no digest"), hint));
    }
    let detail = client.get_trial(parse_reference(&args.trial)?).await?;
    let trial = detail.trial.clone().unwrap_or_default();
    let mine = machine::numerics();
    let records = records(&detail, &mine);
    let Some(last) = records.last() else {
        let state = trial_state_name(trial.state());
        let message = format!("{} has no epoch on record yet: it is {state}", args.trial);
        let hint = format!("`kapell study watch {}` follows it", trial.study);
        return Err(CliError::new(exit::NOT_READY, "not-ready", message, hint));
    };
    let job = prepare(client, &trial, last.measurement.epoch).await?;
    if !json {
        introduce(&args.trial, &records, &mine, job.threads);
    }
    let (epochs, broken) = train_and_compare(job, &records, json).await?;

    let last_digest = epochs.last().map(|e| e.reproduced.weights_digest.as_str());
    let best = epochs.iter().find(|e| Some(e.epoch) == trial.best_epoch);
    let best_digest = best.map(|e| e.reproduced.weights_digest.as_str());
    let expected = args.expect_digest.as_deref();
    let met = expected.map(|wanted| (wanted, [last_digest, best_digest].contains(&Some(wanted))));
    let decision = decide(&epochs, records.len(), met, broken.as_deref());
    if json {
        let measured = |a: &&v1::Attempt| detail.measurements.iter().any(|m| m.attempt == a.attempt);
        let used = detail.attempts.iter().filter(measured).filter_map(|a| a.numerics.as_ref());
        output::json(&ResultView {
            r#type: "result",
            trial: &args.trial,
            decision: &decision,
            numerics: &mine.kind,
            program_version: &mine.program_version,
            recorded_numerics: used.clone().map(|n| n.kind.clone()).collect(),
            recorded_program_versions: used.map(|n| n.program_version.clone()).collect(),
            weights_digest: last_digest,
            best_weights_digest: best_digest,
            expected_digest: expected,
        });
    } else {
        conclude(&decision, last_digest.unwrap_or_default());
    }
    Ok(decision.exit_code)
}

/// All that the training needs: options from the coordinator, the corpus by its digest, every core of this machine.
async fn prepare(client: &Client, trial: &v1::Trial, epochs: u32) -> Result<Job, CliError> {
    let mut config = config_from_wire(&trial.config.clone().unwrap_or_default()).map_err(|why| {
        let hint = "use the version of kapell that created the study";
        CliError::usage(format!("the trial's configuration cannot be used here: {why}"), hint)
    })?;
    config.options.insert("epochs".into(), OptionValue::Int(epochs.into()));
    let corpora = Corpora::new(paths::cache_dir()?.join("worker").join("corpora"), client.clone());
    let corpus = corpora.get(&trial.corpus_digest).await?;
    Ok(Job { config, replicate: trial.replicate, threads: cores::available(), corpus, resume: None })
}

/// Trains on a thread of its own, shows each epoch as it comes, and gives them, with the reason if training ended by
/// itself before the last.
async fn train_and_compare(
    job: Job,
    records: &[Record],
    json: bool,
) -> Result<(Vec<Epoch>, Option<String>), CliError> {
    let mut stop = std::pin::pin!(daemon::stopped(daemon::stop_signal()?));
    let abandon = Arc::new(AtomicBool::new(false));
    let (tell, mut told) = mpsc::unbounded_channel();
    let flag = abandon.clone();
    let training = tokio::task::spawn_blocking(move || train(job, flag, &tell));
    let mut epochs = Vec::new();
    loop {
        let result: EpochResult = tokio::select! {
            result = told.recv() => match result {
                Some(result) => result,
                None => break,
            },
            () = &mut stop => {
                abandon.store(true, Ordering::Relaxed);
                return Err(CliError::interrupted("stopped; the same command begins again"));
            }
        };
        let Some(record) = records.iter().find(|r| r.measurement.epoch == result.epoch) else { continue };
        let (train_loss, val_loss) = (result.train_loss, result.val_loss);
        let own = Figures { train_loss, val_loss, weights_digest: result.weights_digest };
        let epoch = Epoch::compare(own, record);
        if json {
            output::json(&EpochView { r#type: "epoch", epoch: &epoch });
        } else {
            output::line(row(&epoch));
        }
        epochs.push(epoch);
    }
    match training.await.map_err(|error| CliError::from(anyhow::Error::new(error)))? {
        Ok(()) => Ok((epochs, None)),
        Err(error @ TrainError::NotFinite { .. }) => Ok((epochs, Some(error.to_string()))),
        Err(error) => Err(CliError::from(anyhow::Error::new(error))),
    }
}

fn train(
    job: Job,
    abandon: Arc<AtomicBool>,
    tell: &mpsc::UnboundedSender<EpochResult>,
) -> Result<(), TrainError> {
    let mut training = model_trainer()(job)?;
    training.abandon_on(abandon);
    loop {
        match training.step()? {
            Step::Updated { .. } => {}
            // Nobody listens any more only where the command has ended.
            Step::EpochEnded(result) => tell.send(result).map_err(|_| TrainError::Abandoned)?,
            Step::Finished => return Ok(()),
        }
    }
}

fn introduce(trial: &str, records: &[Record], mine: &v1::Numerics, threads: usize) {
    let own = format!("{} {} {}", mine.program_version, mine.kind, mine.dtype);
    let promised = records.iter().filter(|r| r.same_numerics).count();
    let record = match promised {
        all if all == records.len() => "as on record: the bytes must be the same".to_owned(),
        0 => "the record is of other numerics, which promise no equal bytes".to_owned(),
        some => format!("as the first {some} epochs on record, whose bytes must be the same"),
    };
    output::line(format!("training {trial} again, {} epochs on {threads} threads", records.len()));
    output::line(format!("numerics {own}: {record}\n"));
    output::line("EPOCH    TRAIN  RECORDED      VAL  RECORDED  WEIGHTS");
}

fn row(epoch: &Epoch) -> String {
    let (own, recorded) = (&epoch.reproduced, &epoch.recorded);
    let digests = || format!("{}, recorded {}", short(&own.weights_digest), short(&recorded.weights_digest));
    let told = match epoch.found {
        Match::Same => format!("same bytes {}", short(&own.weights_digest)),
        Match::Close => format!("other bytes (other numerics): {}", digests()),
        Match::Far => format!("other bytes, and losses too far apart: {}", digests()),
        Match::Differs => format!("DIFFERS: {}", digests()),
    };
    let number = epoch.epoch;
    format!(
        "{number:>5}  {:>7.4}   {:>7.4}  {:>7.4}   {:>7.4}  {told}",
        own.train_loss, recorded.train_loss, own.val_loss, recorded.val_loss
    )
}

fn conclude(decision: &Decision, weights_digest: &str) {
    let Decision { decision: word, epochs, same, reason, .. } = decision;
    output::line(format!("\n{word}: {same} of {epochs} epochs have the same bytes"));
    match reason {
        Some(why) => output::line(why),
        None => output::line(format!("weights {weights_digest}")),
    }
}

/// As much of a digest as a person compares.
fn short(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}
