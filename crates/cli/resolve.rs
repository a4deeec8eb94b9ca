//! `--model REF|DIR` for harmonising and composing: a folder as it is, a version from the registry, or, where no
//! coordinator runs, one that `kapell run` left in the data folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kapell_rpc::{Client, ClientError, Kind, v1};

use crate::args::Global;
use crate::error::{CliError, exit, file_error};
use crate::music::{self, ComposeArgs, HarmonizeArgs, Melody, PieceReport};
use crate::{Outcome, connect, model, output, paths, with_runtime};

/// Within a model's local folder: which version each alias points at.
const ALIASES_FILE: &str = "aliases.json";

/// A model on this machine, and what to call it.
#[derive(Debug)]
pub(crate) struct Local {
    pub dir: PathBuf,
    pub label: String,
}

pub(crate) fn harmonize(args: &HarmonizeArgs, global: &Global) -> Outcome {
    let melody = Melody::read(args)?;
    let model = local(args.model.as_deref(), global)?;
    for report in melody.harmonize(&model.dir, &model.label)? {
        print(&report, global.json);
    }
    Ok(0)
}

pub(crate) fn compose(args: &ComposeArgs, global: &Global) -> Outcome {
    let model = local(args.model.as_deref(), global)?;
    print(&music::compose(args, &model.dir, &model.label)?, global.json);
    Ok(0)
}

fn print(report: &PieceReport, json: bool) {
    if json {
        output::json(report);
    } else {
        output::line(report.to_string());
    }
}

/// The model that `reference` means; without one, the champion.
pub(crate) fn local(reference: Option<&str>, global: &Global) -> Result<Local, CliError> {
    if let Some(dir) = reference.map(Path::new).filter(|p| p.is_dir()) {
        return Ok(Local { dir: dir.to_owned(), label: dir.display().to_string() });
    }
    let reference = reference.unwrap_or("champion");
    // Once: where nobody listens there may be a model here.
    let asked = with_runtime(async {
        from_registry(&connect(global)?.with_patience(Duration::ZERO), reference).await
    });
    match asked {
        Err(e) if e.code == "unreachable" => from_data_dir(&paths::data_dir(None)?, reference)
            .map_err(|here| if here.code == "no-models" { unreachable(e) } else { here }),
        result => result,
    }
}

fn unreachable(error: CliError) -> CliError {
    let hint = "make a model with `kapell run`, name a model's folder with --model DIR, or a coordinator with --coordinator URL";
    let message = format!("{}, and no model of `kapell run` is here", error.message);
    CliError::new(exit::TEMPORARY, "unreachable", message, hint)
}

/// Looks `reference` up in the registry and fetches its files once, by digest.
async fn from_registry(client: &Client, reference: &str) -> Result<Local, CliError> {
    let version = client.get_model(v1::ModelRef { r#ref: reference.to_owned() }).await?;
    let label = format!("{}:{}", version.name, version.version);
    let dir = cached(&paths::cache_dir()?, &version.digest)?;
    if !dir.is_dir() {
        fetch(client, &version, &dir).await?;
    }
    Ok(Local { dir, label })
}

/// The folder in the cache for the version of this digest, which a peer has named.
pub(crate) fn cached(cache_dir: &Path, digest: &str) -> Result<PathBuf, ClientError> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ClientError::new(Kind::Unexpected, format!("{digest:?} is no digest")));
    }
    Ok(cache_dir.join("models").join(format!("sha256-{hex}")))
}

/// Fetches a version's files into its folder in the cache. What is there already is read and, where it is damaged,
/// fetched again.
pub(crate) async fn fetch(
    client: &Client,
    version: &v1::ModelVersion,
    dir: &Path,
) -> Result<(), ClientError> {
    if dir.is_dir() {
        return client.download_directory(&version.digest, dir).await.map(|_| ());
    }
    let parent = dir.parent().unwrap_or(dir);
    std::fs::create_dir_all(parent).map_err(|e| ClientError::local("make", parent, &e))?;
    let scratch = tempfile::tempdir_in(parent).map_err(|e| ClientError::local("write in", parent, &e))?;
    let fresh = scratch.path().join("model");
    client.download_directory(&version.digest, &fresh).await?;
    // Somebody else may have been faster; the content is the same.
    match std::fs::rename(&fresh, dir) {
        Err(e) if !dir.is_dir() => Err(ClientError::local("write", dir, &e)),
        _ => Ok(()),
    }
}

/// Where `kapell run` leaves the files of a version.
fn version_dir(data_dir: &Path, name: &str, version: u32) -> PathBuf {
    data_dir.join("models").join(name).join(version.to_string())
}

/// Leaves a promoted version's files in the data folder, so that harmonising needs no coordinator.
pub(crate) async fn keep(
    client: &Client,
    data_dir: &Path,
    promoted: &v1::PromoteResponse,
) -> Result<PathBuf, CliError> {
    let reference = format!("{}:{}", promoted.name, promoted.version);
    let version = client.get_model(v1::ModelRef { r#ref: reference }).await?;
    let dir = version_dir(data_dir, &promoted.name, promoted.version);
    // What is there already stays, if it is of this version; nobody else writes here under the folder's lock.
    model::pull(client, &version, &dir).await?;
    let aliases = dir.with_file_name(ALIASES_FILE);
    let mut known = read_aliases(&aliases);
    known.insert(promoted.alias.clone(), promoted.version);
    let text = serde_json::to_string(&known).map_err(|e| CliError::from(anyhow::Error::new(e)))?;
    let fresh = aliases.with_extension("json.tmp");
    std::fs::write(&fresh, text)
        .and_then(|()| std::fs::rename(&fresh, &aliases))
        .map_err(|e| file_error(&aliases, "write", &e))?;
    Ok(dir)
}

fn read_aliases(path: &Path) -> BTreeMap<String, u32> {
    std::fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// NAME, NAME@ALIAS, NAME:VERSION or a bare alias, among the models that `kapell run` left.
pub(crate) fn from_data_dir(data_dir: &Path, reference: &str) -> Result<Local, CliError> {
    let root = data_dir.join("models");
    let names: Vec<String> = root
        .read_dir()
        .map(|entries| entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    if names.is_empty() {
        return Err(CliError::new(exit::USAGE, "no-models", format!("no models in {}", root.display()), ""));
    }
    let aliases = |name: &str| read_aliases(&root.join(name).join(ALIASES_FILE));
    let newest = |name: &str| aliases(name).into_values().max();
    let found = if let Some((name, alias)) = reference.split_once('@') {
        aliases(name).get(alias).map(|v| (name.to_owned(), *v))
    } else if let Some((name, version)) = reference.split_once(':') {
        version.parse().ok().map(|v| (name.to_owned(), v))
    } else if names.iter().any(|n| n == reference) {
        newest(reference).map(|v| (reference.to_owned(), v))
    } else {
        let mut having: Vec<(String, u32)> =
            names.iter().filter_map(|n| aliases(n).get(reference).map(|v| (n.clone(), *v))).collect();
        if having.len() > 1 {
            let all: Vec<String> = having.iter().map(|(n, _)| format!("{n}@{reference}")).collect();
            let message = format!("several models have the alias \"{reference}\"");
            return Err(CliError::new(
                exit::USAGE,
                "ambiguous",
                message,
                format!("say which with --model: {}", all.join(", ")),
            ));
        }
        having.pop()
    };
    let found =
        found.map(|(name, version)| (version_dir(data_dir, &name, version), format!("{name}:{version}")));
    match found.filter(|(dir, _)| dir.is_dir()) {
        Some((dir, label)) => Ok(Local { dir, label }),
        None => Err(CliError::new(
            exit::USAGE,
            "not-found",
            format!("no model is called \"{reference}\""),
            format!("here are: {}", names.join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_run_left_is_found_by_every_form_of_its_name() {
        let data = tempfile::tempdir().unwrap();
        for (name, version) in [("a", 1), ("a", 2), ("b", 1)] {
            std::fs::create_dir_all(version_dir(data.path(), name, version)).unwrap();
        }
        let models = data.path().join("models");
        std::fs::write(models.join("a").join(ALIASES_FILE), r#"{"champion":2}"#).unwrap();
        let label = |r: &str| from_data_dir(data.path(), r).map(|l| l.label).map_err(|e| e.code);
        assert_eq!(label("champion"), Ok("a:2".into()));
        assert_eq!(label("a"), Ok("a:2".into()));
        assert_eq!(label("a:1"), Ok("a:1".into()));
        assert_eq!(label("a@champion"), Ok("a:2".into()));
        assert_eq!(label("c"), Err("not-found".into()));
        assert_eq!(label("a:9"), Err("not-found".into()));
        std::fs::write(models.join("b").join(ALIASES_FILE), r#"{"champion":1}"#).unwrap();
        assert_eq!(label("champion"), Err("ambiguous".into()));
    }
}
