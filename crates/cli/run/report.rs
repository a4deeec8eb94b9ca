//! What a finished study comes to: the leaderboard, the promoted model, a harmonised melody, and where it all is.

use std::path::Path;

use kapell_rpc::view::StudyView;
use kapell_rpc::{Client, v1};
use v1::promote_response::Decision;

use crate::error::{CliError, file_error};
use crate::music::{HarmonizeArgs, Melody};
use crate::{model, output, paths, resolve, study, trial};

/// Trials on the leaderboard.
const SHOWN: u32 = 10;
/// The melody that every run sets.
const MELODY: &str = "twinkle";

pub(crate) async fn show(
    client: &Client,
    data_dir: &Path,
    ended: &v1::Study,
    json: bool,
) -> Result<(), CliError> {
    let request = v1::ListTrialsRequest {
        studies: vec![ended.id.clone()],
        state: v1::TrialState::Complete.into(),
        sort: "objective".into(),
        limit: SHOWN,
        ..Default::default()
    };
    let best = client.list_trials(request).await?;
    if !json {
        output::line("");
        trial::table(&best);
        output::line("");
        output::line(format!("coverage   {}", study::coverage(ended.coverage.as_ref())));
        failures(ended);
    }
    if best.is_empty() {
        return finish(ended, None, &[], data_dir, json);
    }
    let promoted = model::promote_best(client, &ended.id, &ended.name).await?;
    if !matches!(promoted.decision(), Decision::Promoted | Decision::Unchanged) {
        let gates: Vec<&str> =
            promoted.gates.iter().filter(|g| !g.passed).map(|g| g.reason.as_str()).collect();
        let message = format!("the best trial was not promoted: {}", gates.join("; "));
        return Err(CliError::new(
            model::exit_code(promoted.decision()),
            "not-promoted",
            message,
            "see `kapell study show`",
        ));
    }
    let dir = resolve::keep(client, data_dir, &promoted).await?;
    let written = harmonize(data_dir, &dir, &promoted)?;
    finish(ended, Some((&promoted, &dir)), &written, data_dir, json)
}

fn failures(ended: &v1::Study) {
    for f in &ended.failures {
        output::line(format!("failed     {} x {} (for example {})", f.count, f.reason, f.example));
    }
}

fn harmonize(data_dir: &Path, dir: &Path, promoted: &v1::PromoteResponse) -> Result<Vec<String>, CliError> {
    let music_dir = data_dir.join("music").join(&promoted.name);
    std::fs::create_dir_all(&music_dir).map_err(|e| file_error(&music_dir, "make", &e))?;
    let label = format!("{}:{}", promoted.name, promoted.version);
    let outputs = ["musicxml", "mid"].map(|ending| music_dir.join(format!("{MELODY}.{ending}")));
    let args = HarmonizeArgs::of_melody(MELODY, outputs.to_vec());
    Melody::read(&args)?.harmonize(dir, &label)?;
    Ok(outputs.iter().map(|p| p.display().to_string()).collect())
}

fn finish(
    ended: &v1::Study,
    promoted: Option<(&v1::PromoteResponse, &Path)>,
    written: &[String],
    data_dir: &Path,
    json: bool,
) -> Result<(), CliError> {
    if json {
        let model = promoted.map(|(p, dir)| {
            serde_json::json!({"name": p.name, "version": p.version, "alias": p.alias, "digest": p.digest, "dir": dir})
        });
        let study = serde_json::to_value(StudyView::from(ended))
            .map_err(|e| CliError::from(anyhow::Error::new(e)))?;
        output::json(
            &serde_json::json!({"study": study, "model": model, "harmonized": written, "data_dir": data_dir}),
        );
        return Ok(());
    }
    if let Some((p, dir)) = promoted {
        output::line(format!(
            "champion   {}:{} (val loss {})",
            p.name,
            p.version,
            output::loss(ended.best.as_ref().and_then(|t| t.objective))
        ));
        output::line(format!("model      {}", dir.display()));
        output::line(format!("harmony    {}", written.join("\n           ")));
    }
    output::line(format!("database   {}", data_dir.join("kapell.db").display()));
    output::line("\nnext");
    for (what, command) in next_commands(ended, promoted, data_dir) {
        output::line(format!("  {what:<26} {command}"));
    }
    Ok(())
}

/// What to type next, by the name under which this program was called.
fn next_commands(
    ended: &v1::Study,
    promoted: Option<(&v1::PromoteResponse, &Path)>,
    data_dir: &Path,
) -> Vec<(&'static str, String)> {
    let kapell = std::env::args().next().unwrap_or_else(|| "kapell".to_owned());
    let own = paths::data_dir(None).is_ok_and(|own| own == data_dir);
    let mut next = Vec::new();
    if let Some((p, dir)) = promoted {
        let model = if own { format!("{}@{}", p.name, p.alias) } else { dir.display().to_string() };
        next.push((
            "set a melody of your own:",
            format!("{kapell} harmonize MELODY.musicxml --model {model}"),
        ));
        next.push(("compose:", format!("{kapell} compose -o new.musicxml --model {model}")));
    }
    let folder = if own { String::new() } else { format!(" --data-dir {}", data_dir.display()) };
    next.push(("query the results:", format!("{kapell} coordinator{folder} &")));
    next.push(("", format!("{kapell} trial list {} --sort objective --json", ended.name)));
    next
}
