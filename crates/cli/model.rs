//! `kapell model`: promote, list, show, history, pull, verify, evaluate.

mod evaluate;

use std::path::Path;
use std::time::Duration;

use kapell_rpc::convert::{options_from_wire, outcome_name};
use kapell_rpc::v1;
use kapell_rpc::view::{AliasChangeView, ModelView, PromoteView};
use v1::promote_response::Decision;

use crate::args::{Global, ModelCommand, PromoteArgs};
use crate::error::{CliError, exit, file_error};
use crate::{Outcome, connect, output, watch};
use kapell_rpc::Client;

pub(crate) async fn run(command: ModelCommand, global: &Global) -> Outcome {
    let client = connect(global)?;
    match command {
        // It has threads of its own, and asks the registry in its own time.
        ModelCommand::Evaluate(args) => return tokio::task::block_in_place(|| evaluate::run(&args, global)),
        ModelCommand::Promote(args) => return promote(&client, args, global.json).await,
        ModelCommand::List => {
            list(&client.list_models(v1::ListModelsRequest {}).await?.versions, global.json)
        }
        ModelCommand::Show { model, lineage } => {
            show(&client.get_model(v1::ModelRef { r#ref: model }).await?, lineage, global.json)
        }
        ModelCommand::History { model } => {
            history(&client.model_history(v1::ModelRef { r#ref: model }).await?.changes, global.json)
        }
        ModelCommand::Pull { model, dir } => {
            let version = client.get_model(v1::ModelRef { r#ref: model }).await?;
            pull(&client, &version, &dir).await?;
            if global.json {
                output::json(
                    &serde_json::json!({"name": version.name, "version": version.version, "digest": version.digest, "output": dir}),
                );
            } else {
                output::line(format!("{}:{} is in {}", version.name, version.version, dir.display()));
            }
        }
        ModelCommand::Verify { model } => {
            let version = client.get_model(v1::ModelRef { r#ref: model }).await?;
            let scratch =
                tempfile::tempdir().map_err(|e| file_error(&std::env::temp_dir(), "write in", &e))?;
            let bytes = pull(&client, &version, &scratch.path().join("model")).await?;
            if global.json {
                output::json(
                    &serde_json::json!({"name": version.name, "version": version.version, "digest": version.digest, "bytes": bytes, "verified": true}),
                );
            } else {
                output::line(format!(
                    "{}:{} is whole: {} read, {}",
                    version.name,
                    version.version,
                    output::bytes(bytes),
                    version.digest
                ));
            }
        }
    }
    Ok(0)
}

/// Downloads a version into `dir` and checks every byte. Returns their number. The same again, or what a cut
/// download left, is gone on from; a folder with anything else in it is refused.
pub(crate) async fn pull(client: &Client, version: &v1::ModelVersion, dir: &Path) -> Result<u64, CliError> {
    let ours = |name: &str| {
        version.files.iter().any(|f| name == f.name || name.starts_with(&format!("{}.", f.name)))
    };
    let entries = dir.read_dir().into_iter().flatten().flatten();
    let stranger = entries.map(|e| e.file_name().to_string_lossy().into_owned()).find(|name| !ours(name));
    if let Some(name) = stranger {
        let hint = "name an empty folder, or one that does not exist yet";
        return Err(CliError::usage(
            format!("{} has other files in it, such as {name}", dir.display()),
            hint,
        ));
    }
    client.download_directory(&version.digest, dir).await?;
    Ok(version.files.iter().map(|f| f.bytes).sum())
}

async fn promote(client: &Client, args: PromoteArgs, json: bool) -> Outcome {
    if args.wait {
        wait(client, &args.study, args.timeout).await?;
    }
    if args.max_val_loss.is_some_and(|x| !x.is_finite()) {
        return Err(CliError::usage(
            "--max-val-loss is no finite number",
            "give a loss in nats per token, such as 0.45",
        ));
    }
    let answer = client.promote(request(args)).await?;
    if json {
        output::json(&PromoteView::from(&answer));
    } else {
        say(&answer);
    }
    Ok(exit_code(answer.decision()))
}

fn request(args: PromoteArgs) -> v1::PromoteRequest {
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    v1::PromoteRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        study: args.study,
        trial: args.trial.unwrap_or(0),
        name: args.name.unwrap_or_default(),
        alias: args.alias,
        max_val_loss: args.max_val_loss,
        expect_generation: args.expect_generation,
        expect_digest: args.expect_digest,
        allow_partial: args.allow_partial,
        dry_run: args.dry_run,
        actor: format!("{user}@{host}"),
    }
}

/// Promotes the study's best trial to `champion` of the model of the study's name.
pub(crate) async fn promote_best(
    client: &Client,
    study: &str,
    name: &str,
) -> Result<v1::PromoteResponse, CliError> {
    let request = v1::PromoteRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        study: study.to_owned(),
        name: name.to_owned(),
        alias: "champion".into(),
        allow_partial: true,
        actor: "kapell run".into(),
        ..Default::default()
    };
    Ok(client.promote(request).await?)
}

pub(crate) fn exit_code(decision: Decision) -> u8 {
    match decision {
        Decision::Promoted | Decision::Unchanged => 0,
        Decision::Refused => exit::REFUSED,
        Decision::Inconclusive => exit::INCONCLUSIVE,
        Decision::LostRace => exit::LOST_RACE,
        Decision::NotReady => exit::NOT_READY,
        Decision::Unspecified => exit::UNEXPECTED,
    }
}

async fn wait(client: &Client, study: &str, timeout: Option<Duration>) -> Result<(), CliError> {
    let id = client.get_study(v1::StudyRef { study: study.to_owned() }).await?.id;
    let followed = watch::follow(client, &id, 0, None, false);
    let Some(timeout) = timeout else { return followed.await.map(|_| ()) };
    match tokio::time::timeout(timeout, followed).await {
        Ok(result) => result.map(|_| ()),
        Err(_) => {
            let message = format!("{study} was not done within {}", output::seconds(timeout.as_secs_f64()));
            Err(CliError::new(exit::TEMPORARY, "timed-out", message, "try again, or with a longer --timeout"))
        }
    }
}

fn say(answer: &v1::PromoteResponse) {
    let decision =
        answer.decision().as_str_name().trim_start_matches("DECISION_").to_lowercase().replace('_', " ");
    if answer.version > 0 {
        output::line(format!(
            "{decision}: {}@{} is version {} (generation {}, {})",
            answer.name, answer.alias, answer.version, answer.generation, answer.digest
        ));
    } else {
        output::line(decision);
    }
    for gate in &answer.gates {
        let mark = if gate.passed { "passed" } else { "FAILED" };
        output::line(format!("  {mark}  {}: {}", gate.name, gate.reason));
    }
}

fn list(versions: &[v1::ModelVersion], json: bool) {
    if json {
        versions.iter().for_each(|v| output::json(&ModelView::from(v)));
        return;
    }
    let row = |v: &v1::ModelVersion| {
        let created = ModelView::from(v).created_at.unwrap_or_default();
        vec![
            v.name.clone(),
            v.version.to_string(),
            v.aliases.join(" "),
            output::loss(v.val_loss),
            output::loss(v.test_loss),
            format!("{}/{}", v.study, v.trial),
            created,
            v.digest.clone(),
        ]
    };
    let headers = ["name", "version", "aliases", "val loss", "test loss", "trial", "created", "digest"];
    output::table(&headers, versions.iter().map(row).collect());
}

fn show(version: &v1::ModelVersion, lineage: bool, json: bool) {
    if json {
        output::json(&ModelView::from(version));
        return;
    }
    output::line(format!("{}:{}  {}", version.name, version.version, version.aliases.join(" ")));
    output::line(format!("  digest    {}", version.digest));
    output::line(format!("  trial     {}/{}", version.study, version.trial));
    output::line(format!("  val loss  {}", output::loss(version.val_loss)));
    let config = version.config.as_ref().and_then(|c| options_from_wire(c).ok()).unwrap_or_default();
    output::line(format!("  config    {}", config.to_json()));
    for f in &version.files {
        output::line(format!("  file      {} ({}, {})", f.name, output::bytes(f.bytes), f.digest));
    }
    if let (true, Some(l)) = (lineage, &version.lineage) {
        output::line(format!("  study     {} ({})", l.study, l.study_id));
        output::line(format!("  corpus    {} ({})", l.corpus, l.corpus_digest));
        output::line(format!("  split     {}", l.split_digest));
        output::line(format!("  identity  {}", l.config_hash));
        output::line(format!("  from      {} (attempt {}, epoch {})", l.checkpoint, l.attempt, l.epoch));
        if let Some(n) = &l.numerics {
            output::line(format!("  numerics  {} {} {}", n.program_version, n.kind, n.dtype));
        }
        for a in &l.attempts {
            let outcome = outcome_name(a.outcome());
            output::line(format!("  attempt   {} on {}: {outcome} {}", a.attempt, a.worker, a.reason));
        }
    }
}

fn history(changes: &[v1::AliasChange], json: bool) {
    if json {
        changes.iter().for_each(|c| output::json(&AliasChangeView::from(c)));
        return;
    }
    let at = |c: &v1::AliasChange| kapell_rpc::view::instant(c.at_ms).unwrap_or_default();
    let row = |c: &v1::AliasChange| {
        let from = if c.previous_version > 0 { c.previous_version.to_string() } else { "-".to_owned() };
        vec![
            c.alias.clone(),
            c.generation.to_string(),
            from,
            c.version.to_string(),
            at(c),
            c.actor.clone(),
            c.action.clone(),
            c.reason.clone(),
        ]
    };
    let headers = ["alias", "generation", "from", "to", "at", "by", "action", "reason"];
    output::table(&headers, changes.iter().map(row).collect());
}
