//! Where things are kept on this machine.

use std::path::{Path, PathBuf};

use crate::error::CliError;

/// `--data-dir`, `KAPELL_DATA_DIR`, or the user's own.
pub(crate) fn data_dir(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let variable = std::env::var_os("KAPELL_DATA_DIR").filter(|v| !v.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or(variable).map_or_else(user_data_dir, Ok)
}

/// `$XDG_DATA_HOME/kapellmeister` (`~/.local/share/kapellmeister`).
pub(crate) fn user_data_dir() -> Result<PathBuf, CliError> {
    home("XDG_DATA_HOME", ".local/share")
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
