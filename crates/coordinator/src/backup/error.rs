//! Why there is no backup, or no restore.

use std::io;
use std::path::{Path, PathBuf};

use kapell_rpc::ClientError;
use thiserror::Error;

use crate::data_dir::DataDirError;
use crate::store::{OpenError, StoreError};

/// Why a backup was not taken or not restored.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Coordinator(#[from] ClientError),
    /// The target is there already, the source is not. With what to do.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// Bytes that are not what they should be.
    #[error("{0}")]
    Damaged(String),
    #[error("no space is left for {}", .0.display())]
    Full(PathBuf),
    #[error("{} cannot be read or written: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Unexpected(String),
}

impl BackupError {
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), error },
        }
    }

    /// The exit code of the command-line contract.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Coordinator(error) => error.exit_code(),
            Self::DataDir(_) | Self::Usage { .. } => 2,
            Self::Damaged(_) => 7,
            Self::Full(_) => 75,
            Self::Io { error, .. } => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => 2,
                _ => 1,
            },
            Self::Unexpected(_) => 1,
        }
    }

    /// kebab-case, stable.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Coordinator(error) => error.code(),
            Self::DataDir(DataDirError::Locked { .. }) => "locked",
            Self::DataDir(DataDirError::Network { .. }) => "network-file-system",
            Self::DataDir(DataDirError::Empty { .. }) => "not-found",
            Self::DataDir(DataDirError::Unfinished { .. }) => "unfinished-restore",
            Self::DataDir(DataDirError::Io { .. }) | Self::Io { .. } => "io",
            Self::Usage { .. } => "usage",
            Self::Damaged(_) => "damaged",
            Self::Full(_) => "disk-full",
            Self::Unexpected(_) => "unexpected",
        }
    }

    /// What to do next; may be empty.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Coordinator(error) => error.hint().unwrap_or_default(),
            Self::Usage { hint, .. } => hint,
            Self::Damaged(_) => "of a data folder `kapell doctor` says more; of a backup, take another one",
            Self::Full(_) => "make room and try again",
            Self::DataDir(DataDirError::Locked { .. }) => {
                "stop the coordinator first, or name another folder"
            }
            Self::DataDir(_) | Self::Io { .. } | Self::Unexpected(_) => "",
        }
    }
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::Full(PathBuf::from("the database")),
            StoreError::Failed(why) => Self::Damaged(format!("the database: {why}")),
            StoreError::Sql(error) if crate::store::error::is_damaged(&error) => {
                Self::Damaged(format!("the database: {error}"))
            }
            other => Self::Unexpected(other.to_string()),
        }
    }
}

impl From<OpenError> for BackupError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NewerSchema { .. } => Self::usage(error.to_string(), "use the newer program"),
            other => Self::Damaged(other.to_string()),
        }
    }
}
