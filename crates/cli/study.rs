//! `kapell study`: create, list, show, watch, pause, resume, cancel, delete, schema.

use std::io::Read as _;
use std::path::Path;

use kapell_rpc::convert::{options_from_wire, study_state_name};
use kapell_rpc::v1;
use kapell_rpc::view::StudyView;
use kapell_search::StudySpec;
use kapell_search::study::{apply_overrides, schema_toml};

use crate::args::{CreateArgs, Global, StudyCommand};
use crate::error::{CliError, exit, file_error};
use crate::{Outcome, connect, corpus, estimate, output, watch};
use kapell_rpc::Client;

/// A study file may not be larger than this.
const FILE_BYTES_MAX: u64 = 4 << 20;

pub(crate) async fn run(command: StudyCommand, global: &Global) -> Outcome {
    match command {
        StudyCommand::Schema => {
            output::line(schema_toml().trim_end());
            Ok(0)
        }
        StudyCommand::Create(args) => create(args, global).await,
        StudyCommand::List => {
            let studies = connect(global)?.list_studies(v1::ListStudiesRequest {}).await?.studies;
            list(&studies, global.json);
            Ok(0)
        }
        StudyCommand::Show { study } => {
            let client = connect(global)?;
            show(&client.get_study(v1::StudyRef { study }).await?, global.json);
            tell_warnings(&client, global.json).await?;
            Ok(0)
        }
        StudyCommand::Watch { study, after } => {
            watch::watch(&connect(global)?, &study, after, global.json).await
        }
        StudyCommand::Pause { study } => {
            say(&connect(global)?.pause_study(v1::StudyRef { study }).await?, global)
        }
        StudyCommand::Resume { study } => {
            say(&connect(global)?.resume_study(v1::StudyRef { study }).await?, global)
        }
        StudyCommand::Cancel { study } => {
            say(&connect(global)?.cancel_study(v1::StudyRef { study }).await?, global)
        }
        StudyCommand::Delete { study } => {
            let deleted = connect(global)?.delete_study(v1::StudyRef { study: study.clone() }).await?;
            if global.json {
                output::json(
                    &serde_json::json!({"study": study, "trials": deleted.trials, "freed_bytes": deleted.freed_bytes}),
                );
            } else {
                output::line(format!(
                    "{study} is gone: {} trials, {}",
                    deleted.trials,
                    output::bytes(deleted.freed_bytes)
                ));
            }
            Ok(0)
        }
    }
}

fn say(study: &v1::Study, global: &Global) -> Outcome {
    if global.json {
        output::json(&StudyView::from(study));
    } else {
        output::line(format!("{} is {}", study.name, study_state_name(study.state())));
    }
    Ok(0)
}

/// A study file, read and checked, with the overrides in place.
pub(crate) struct StudyFile {
    pub text: String,
    pub spec: StudySpec,
}

impl StudyFile {
    /// Reads `path`, or standard input for `-`.
    pub(crate) fn read(path: &Path, set: &[String], tag: &[String]) -> Result<Self, CliError> {
        let mut text = String::new();
        let read = if path == Path::new("-") {
            std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut text)
        } else {
            std::fs::File::open(path).and_then(|f| f.take(FILE_BYTES_MAX).read_to_string(&mut text))
        };
        match read {
            Ok(_) => Self::parse(&text, &path.display().to_string(), set, tag),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(CliError::usage(
                format!("{} is no UTF-8 text", path.display()),
                "a study file is TOML; see `kapell study schema`",
            )),
            Err(e) => Err(file_error(path, "read", &e)),
        }
    }

    pub(crate) fn parse(text: &str, name: &str, set: &[String], tag: &[String]) -> Result<Self, CliError> {
        let hint = "`kapell study schema` prints every key with its default";
        let bad = |message: String| CliError::new(exit::USAGE, "bad-study-file", message, hint);
        let text = apply_overrides(text, set, tag).map_err(|e| bad(format!("{name}: {e}")))?;
        let spec = StudySpec::parse(&text).map_err(|errors| bad(format!("{name}:\n{errors}")))?;
        Ok(Self { text, spec })
    }
}

async fn create(args: CreateArgs, global: &Global) -> Outcome {
    let file = StudyFile::read(&args.file, &args.set, &args.tag)?;
    let corpus = corpus::load(&file.spec.corpus)?;
    if args.dry_run {
        estimate::print(&file.spec, &corpus.corpus, global.json)?;
        return Ok(0);
    }
    let client = connect(global)?;
    let made = submit(&client, &file, &corpus).await?;
    let Some(study) = made.study else {
        return Err(anyhow::anyhow!("the coordinator answered without a study").into());
    };
    if global.json {
        output::json(&StudyView::from(&study));
    } else if made.created {
        output::line(format!("created {}: {} trials ({})", study.name, file.spec.trials(), study.id));
    } else {
        output::line(format!("{} is there already, with the same content ({})", study.name, study.id));
    }
    tell_warnings(&client, global.json).await?;
    if args.wait {
        return watch::watch(&client, &study.id, 0, global.json).await;
    }
    if !global.json {
        output::remark(format!("follow it with: kapell study watch {}", study.name));
    }
    Ok(0)
}

/// Says what keeps the coordinator from its work, such as a disk that is nearly full.
pub(crate) async fn tell_warnings(client: &Client, json: bool) -> Result<(), CliError> {
    if !json {
        let info = client.server_info(v1::ServerInfoRequest {}).await?;
        info.warnings.iter().for_each(|w| output::remark(format!("warning: {w}")));
    }
    Ok(())
}

/// Uploads the corpus where it is not there yet, and creates the study.
pub(crate) async fn submit(
    client: &Client,
    file: &StudyFile,
    corpus: &corpus::LoadedCorpus,
) -> Result<v1::CreateStudyResponse, CliError> {
    client.upload_bytes(corpus.bytes.as_slice()).await?;
    let request = v1::CreateStudyRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        spec_toml: file.text.clone(),
        corpus_digest: corpus.digest.clone(),
        split_digest: corpus.corpus.split_digest(),
        vocabulary: u32::try_from(corpus.corpus.vocabulary.len()).unwrap_or(u32::MAX),
    };
    Ok(client.create_study(request).await?)
}

fn list(studies: &[v1::Study], json: bool) {
    if json {
        studies.iter().for_each(|s| output::json(&StudyView::from(s)));
        return;
    }
    let row = |s: &v1::Study| {
        let counts = s.trials.unwrap_or_default();
        let done = counts.complete + counts.pruned;
        let best = s.best.as_ref();
        vec![
            s.name.clone(),
            study_state_name(s.state()).to_owned(),
            format!("{done}/{}", counts.total),
            counts.running.to_string(),
            counts.failed.to_string(),
            output::loss(best.and_then(|t| t.objective)),
            best.map_or_else(|| "-".to_owned(), |t| format!("{}/{}", t.study, t.number)),
            s.corpus.clone(),
            s.id.clone(),
        ]
    };
    let headers = ["name", "state", "done", "running", "failed", "best", "trial", "corpus", "id"];
    output::table(&headers, studies.iter().map(row).collect());
}

/// One study for people: what it is, where it stands, its coverage, failures and best trial.
pub(crate) fn show(study: &v1::Study, json: bool) {
    if json {
        output::json(&StudyView::from(study));
        return;
    }
    let counts = study.trials.unwrap_or_default();
    output::line(format!("{}  {}  ({})", study.name, study_state_name(study.state()), study.id));
    if !study.reason.is_empty() {
        output::line(format!("  {}", study.reason));
    }
    output::line(format!("  corpus    {} ({})", study.corpus, study.corpus_digest));
    output::line(format!(
        "  trials    {} complete, {} running, {} queued, {} paused, {} pruned, {} failed, {} canceled",
        counts.complete,
        counts.running,
        counts.queued,
        counts.paused,
        counts.pruned,
        counts.failed,
        counts.canceled
    ));
    output::line(format!("  coverage  {}", coverage(study.coverage.as_ref())));
    if let Some(best) = &study.best {
        let config = best.config.as_ref().and_then(|c| options_from_wire(c).ok()).unwrap_or_default();
        let at = best.best_epoch.unwrap_or_default();
        output::line(format!(
            "  best      {}/{}: {} (epoch {at})",
            best.study,
            best.number,
            output::loss(best.objective)
        ));
        output::line(format!("            {}", config.to_json()));
    }
    for f in &study.failures {
        output::line(format!(
            "  failed    {} x {} (for example {}, on {})",
            f.count,
            f.reason,
            f.example,
            f.workers.join(", ")
        ));
    }
}

/// `864/864 complete, 0 duplicates, 0 lost`, and what else there is to say.
pub(crate) fn coverage(coverage: Option<&v1::Coverage>) -> String {
    let Some(c) = coverage else { return "unknown".to_owned() };
    let mut text =
        format!("{}/{} complete, {} duplicates, {} lost", c.complete, c.configurations, c.duplicates, c.lost);
    for (count, word) in
        [(c.missing, "not done"), (c.pruned, "pruned"), (c.failed, "failed"), (c.canceled, "canceled")]
    {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text
}
