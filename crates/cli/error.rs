//! Errors as people and scripts see them: a message, what to do next, and the contract's exit code.

use std::fmt;

use kapell_rpc::ClientError;

/// Exit codes of the command line. Stable: scripts branch on them.
pub(crate) mod exit {
    pub(crate) const UNEXPECTED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const REFUSED: u8 = 3;
    pub(crate) const INCONCLUSIVE: u8 = 4;
    pub(crate) const LOST_RACE: u8 = 5;
    pub(crate) const NOT_READY: u8 = 6;
    pub(crate) const INTEGRITY: u8 = 7;
    pub(crate) const TEMPORARY: u8 = 75;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// What a command ends with when it does not succeed.
#[derive(Debug)]
pub(crate) struct CliError {
    pub exit: u8,
    /// kebab-case, stable.
    pub code: String,
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl CliError {
    pub(crate) fn new(exit: u8, code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), message: message.into(), hint: hint.into() }
    }

    /// Bad arguments or a bad file.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(exit::USAGE, "usage", message, hint)
    }

    /// Ctrl-C.
    pub(crate) fn interrupted(hint: impl Into<String>) -> Self {
        Self::new(exit::INTERRUPTED, "interrupted", "interrupted", hint)
    }

    /// As `{"error": {"code", "message", "hint"}}`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"error": {"code": self.code, "message": self.message, "hint": self.hint}})
    }
}

/// Reading or writing `path` failed: what, where, and a hint where the cause tells one.
pub(crate) fn file_error(path: &std::path::Path, doing: &str, error: &std::io::Error) -> CliError {
    let message = format!("cannot {doing} {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => CliError::new(exit::USAGE, "not-found", message, "check the path"),
        std::io::ErrorKind::PermissionDenied => {
            CliError::new(exit::USAGE, "permission-denied", message, "check who may read and write there")
        }
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            CliError::new(exit::TEMPORARY, "disk-full", message, "make room and try again")
        }
        _ => CliError::new(exit::UNEXPECTED, "io", message, ""),
    }
}

/// Errors that nothing above foresaw: bugs, said so.
impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        let hint = "this looks like a bug in kapell; please report it with the command and this message";
        Self::new(exit::UNEXPECTED, "unexpected", format!("{error:#}"), hint)
    }
}

/// Maps the crates' own error types, which all know their exit code, code and hint.
macro_rules! from_coded {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self { exit: error.exit_code(), code: error.code().to_string(), message: error.to_string(), hint: error.hint().to_string() }
            }
        }
    )+};
}

from_coded!(crate::corpus::CorpusError, crate::music::MusicError);

impl From<kapell_coordinator::StartError> for CliError {
    fn from(error: kapell_coordinator::StartError) -> Self {
        use kapell_coordinator::{DataDirError, StartError};
        let (exit, code) = match &error {
            StartError::DataDir(DataDirError::Locked { .. }) => (exit::USAGE, "locked"),
            StartError::DataDir(DataDirError::Network { .. }) => (exit::USAGE, "network-file-system"),
            StartError::DataDir(DataDirError::Empty { .. }) => (exit::USAGE, "not-found"),
            StartError::DataDir(DataDirError::Unfinished { .. }) => (exit::USAGE, "unfinished-restore"),
            StartError::DataDir(DataDirError::Io { path, error }) => return file_error(path, "use", error),
            StartError::PortInUse(_) => (exit::USAGE, "port-in-use"),
            StartError::Listen { .. } => (exit::USAGE, "listen"),
            StartError::NewerSchema { .. } => (exit::USAGE, "newer-schema"),
            StartError::DiskFull => (exit::TEMPORARY, "disk-full"),
            StartError::Damaged(_) => (exit::INTEGRITY, "damaged-database"),
            StartError::BadConfig(_) => (exit::USAGE, "usage"),
            StartError::Unexpected(_) => (exit::UNEXPECTED, "unexpected"),
        };
        Self::new(exit, code, error.to_string(), "")
    }
}

impl From<kapell_coordinator::Failed> for CliError {
    fn from(failed: kapell_coordinator::Failed) -> Self {
        let hint = "nothing acknowledged is lost; look at the disk and start it again";
        Self::new(exit::UNEXPECTED, "store-failed", failed.to_string(), hint)
    }
}

impl From<kapell_worker::WorkerError> for CliError {
    fn from(error: kapell_worker::WorkerError) -> Self {
        match error {
            kapell_worker::WorkerError::Coordinator(error) => error.into(),
            other => Self::new(other.exit_code(), "worker", other.to_string(), ""),
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        Self::new(error.exit_code(), error.code(), error.to_string(), error.hint().unwrap_or_default())
    }
}
