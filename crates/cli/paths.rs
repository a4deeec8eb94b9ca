//! Where things are kept on this machine.

use std::path::{Path, PathBuf};

use crate::error::CliError;

/// `--data-dir`, or `$XDG_DATA_HOME/kapellmeister` (`~/.local/share/kapellmeister`).
pub(crate) fn data_dir(given: Option<&Path>) -> Result<PathBuf, CliError> {
    given.map_or_else(|| home("XDG_DATA_HOME", ".local/share"), |dir| Ok(dir.to_owned()))
}

/// `$XDG_CACHE_HOME/kapellmeister` (`~/.cache/kapellmeister`).
pub(crate) fn cache_dir() -> Result<PathBuf, CliError> {
    home("XDG_CACHE_HOME", ".cache")
}

fn home(variable: &str, under_home: &str) -> Result<PathBuf, CliError> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set(variable).or_else(|| set("HOME").map(|home| home.join(under_home)));
    let missing = || {
        CliError::usage(
            format!("neither {variable} nor HOME is set"),
            "say where with --data-dir or --cache-dir",
        )
    };
    Ok(base.ok_or_else(missing)?.join("kapellmeister"))
}
