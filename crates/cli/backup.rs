//! `kapell coordinator backup` and `restore`.

use std::path::Path;

use kapell_coordinator::DataDirError;
use kapell_coordinator::backup::{self, BackupError, Written};
use kapell_rpc::{Kind, v1};

use crate::args::Global;
use crate::error::{CliError, exit};
use crate::{Outcome, connect, output, paths};

/// Takes a backup: of a data folder that nobody holds, or else from the coordinator.
pub(crate) async fn backup(dir: &Path, data_dir: Option<&Path>, global: &Global) -> Outcome {
    let written = match data_dir {
        Some(folder) => match backup::from_data_dir(folder, dir).await {
            Err(BackupError::DataDir(DataDirError::Locked { .. })) => {
                from_holder(folder, dir, global).await?
            }
            other => other?,
        },
        None => match backup::from_coordinator(&connect(global)?, dir).await {
            Err(BackupError::Coordinator(error)) if error.kind == Kind::Unreachable => {
                let folder = paths::data_dir(None)?;
                match backup::from_data_dir(&folder, dir).await {
                    // Whoever holds it does not listen there.
                    Err(BackupError::DataDir(_)) => return Err(error.into()),
                    other => other?,
                }
            }
            other => other?,
        },
    };
    show(&written, global.json);
    Ok(0)
}

/// From the coordinator, if it is the one that holds this data folder.
async fn from_holder(folder: &Path, dir: &Path, global: &Global) -> Result<Written, CliError> {
    let client = connect(global)?;
    let hint = "name the coordinator that holds it with --coordinator URL";
    let info = client.server_info(v1::ServerInfoRequest {}).await.map_err(|error| {
        let message = format!("{} is held by a coordinator, and {error}", folder.display());
        CliError::new(error.exit_code(), error.code(), message, hint)
    })?;
    if folder.canonicalize().ok().as_deref() != Some(Path::new(&info.data_dir)) {
        let message =
            format!("the coordinator at {} keeps {}, not {}", client.url(), info.data_dir, folder.display());
        return Err(CliError::usage(message, hint));
    }
    Ok(backup::from_coordinator(&client, dir).await?)
}

fn show(written: &Written, json: bool) {
    if json {
        output::json(&serde_json::json!({
            "backup": written.dir, "bytes": written.bytes, "blobs": written.blobs, "damaged": written.damaged,
        }));
        return;
    }
    output::line(format!(
        "backup     {} ({}, {} blobs, checked)",
        written.dir.display(),
        output::bytes(written.bytes),
        written.blobs
    ));
    for digest in &written.damaged {
        output::remark(format!("warning: left out, since its stored file is damaged: {digest}"));
    }
}

/// Makes a data folder of a backup.
pub(crate) async fn restore(dir: &Path, data_dir: Option<&Path>, global: &Global) -> Outcome {
    let data_dir = paths::data_dir(data_dir)?;
    let restored = backup::restore(dir, &data_dir).await?;
    let taken_at = kapell_rpc::view::instant(restored.created_at_ms);
    if global.json {
        output::json(&serde_json::json!({
            "data_dir": restored.data_dir, "bytes": restored.bytes, "blobs": restored.blobs,
            "requeued": restored.requeued, "backup_taken_at": taken_at, "damaged": restored.damaged,
        }));
        return Ok(0);
    }
    output::line(format!(
        "restored   {} ({}, {} blobs, as of {})",
        restored.data_dir.display(),
        output::bytes(restored.bytes),
        restored.blobs,
        taken_at.unwrap_or_default()
    ));
    if restored.requeued > 0 {
        output::line(format!("requeued   {} trials that ran then", restored.requeued));
    }
    output::remark(format!("start it with: kapell coordinator --data-dir {}", restored.data_dir.display()));
    Ok(0)
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> Self {
        let code = if error.exit_code() == exit::UNEXPECTED { "unexpected" } else { error.code() };
        Self::new(error.exit_code(), code, error.to_string(), error.hint())
    }
}
