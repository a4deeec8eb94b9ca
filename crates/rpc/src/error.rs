//! What a caller of the coordinator gets instead of an answer, with the exit code of the command-line contract.

use tonic::{Code, Status};

use crate::{REASON_KEY, reason};

/// What went wrong, as far as a caller decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such study, trial, model, worker or blob.
    NotFound,
    /// The request itself is wrong.
    Usage,
    /// It is there already and differs.
    Differs,
    /// Somebody else was first.
    LostRace,
    /// It cannot be done in this state, or not yet.
    NotReady,
    /// Bytes do not have the digest that names them.
    Integrity,
    /// The token is missing, unknown or allows less.
    NotAuthorised,
    /// The coordinator cannot be reached.
    Unreachable,
    /// It is busy, full or slow: try again.
    Temporary,
    /// A file on this side cannot be read or written.
    Local,
    /// A file on this side is not there, or may not be touched.
    LocalDenied,
    /// No space is left on this side.
    LocalFull,
    /// A bug, here or there.
    Unexpected,
}

/// A call that failed. Display gives one sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    pub kind: Kind,
    pub message: String,
    /// The coordinator's machine-readable reason ("stale-attempt"), empty where it gave none.
    pub reason: String,
    /// What to do next, where there is something to say.
    hint: Option<String>,
}

impl ClientError {
    /// An error that arose on this side.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), reason: String::new(), hint: None }
    }

    /// A local file that cannot be read or written; the kind tells a wrong path and a full disk from the rest.
    #[must_use]
    pub fn local(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::NotADirectory => Kind::LocalDenied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::LocalFull,
            _ => Kind::Local,
        };
        Self::new(kind, format!("cannot {what} {}: {error}", path.display()))
    }

    /// What the coordinator at `url` answered, or why it did not.
    #[must_use]
    pub fn from_status(url: &str, status: &Status) -> Self {
        let reason = reason_of(status).to_owned();
        let kind = kind_of(status, &reason);
        if kind == Kind::Unreachable {
            let hint = "Start it with `kapell coordinator`, or name another with --coordinator URL.";
            return Self {
                kind,
                message: format!("the coordinator at {url} cannot be reached: {}", cause(status)),
                reason,
                hint: Some(hint.to_owned()),
            };
        }
        let message = if status.message().is_empty() {
            format!("the coordinator answered {:?} and gave no reason", status.code())
        } else {
            status.message().to_owned()
        };
        Self { kind, message, reason, hint: None }
    }

    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Temporary)
    }

    /// Whether the coordinator refused for this reason.
    #[must_use]
    pub fn has_reason(&self, reason: &str) -> bool {
        self.reason == reason
    }

    /// The exit code of the command-line contract.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::NotFound | Kind::Usage | Kind::Differs | Kind::LocalDenied => 2,
            Kind::LostRace => 5,
            Kind::NotReady => 6,
            Kind::Integrity => 7,
            Kind::NotAuthorised => 8,
            Kind::Unreachable | Kind::Temporary | Kind::LocalFull => 75,
            Kind::Unexpected | Kind::Local => 1,
        }
    }

    /// `error.code` of the JSON form: the coordinator's reason, or else the kind.
    #[must_use]
    pub fn code(&self) -> &str {
        if !self.reason.is_empty() {
            return &self.reason;
        }
        match self.kind {
            Kind::NotFound => "not-found",
            Kind::Usage => "usage",
            Kind::Differs => "already-exists",
            Kind::LostRace => "lost-race",
            Kind::NotReady => "not-ready",
            Kind::Integrity => "integrity",
            Kind::NotAuthorised => "not-authorised",
            Kind::Unreachable => "unreachable",
            Kind::Temporary => "temporary",
            Kind::Local | Kind::LocalDenied => "local-file",
            Kind::LocalFull => "disk-full",
            Kind::Unexpected => "unexpected",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        let general = match self.kind {
            Kind::LocalFull => Some("Make room on this machine's disk."),
            Kind::Temporary => Some("Try again in a moment."),
            Kind::Integrity => Some("Transfer it again; if it stays so, the stored file is damaged."),
            Kind::Unexpected => Some("This is a bug: please report it with the coordinator's log."),
            _ => None,
        };
        self.hint.as_deref().or(general)
    }
}

/// The machine-readable reason of a refusal, or "".
#[must_use]
pub fn reason_of(status: &Status) -> &str {
    status.metadata().get(REASON_KEY).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn kind_of(status: &Status, reason: &str) -> Kind {
    // A status that was made on this side, out of a broken connection, has that as its source.
    let broken = std::error::Error::source(status).is_some();
    match status.code() {
        Code::Ok | Code::Unimplemented => Kind::Unexpected,
        Code::Unavailable => Kind::Unreachable,
        Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => Kind::Temporary,
        Code::Unknown | Code::Internal if broken => Kind::Unreachable,
        Code::Unknown | Code::Internal => Kind::Unexpected,
        Code::NotFound => Kind::NotFound,
        Code::InvalidArgument | Code::OutOfRange => Kind::Usage,
        Code::AlreadyExists => Kind::Differs,
        Code::DataLoss => Kind::Integrity,
        Code::PermissionDenied | Code::Unauthenticated => Kind::NotAuthorised,
        Code::Aborted => Kind::LostRace,
        Code::FailedPrecondition => match reason {
            reason::PROTOCOL_VERSION => Kind::Usage,
            reason::STALE_ATTEMPT | reason::STALE_INCARNATION => Kind::LostRace,
            _ => Kind::NotReady,
        },
    }
}

/// The innermost error of a broken connection: "Connection refused (os error 111)".
fn cause(status: &Status) -> String {
    let mut deepest: &dyn std::error::Error = status;
    while let Some(inner) = deepest.source() {
        deepest = inner;
    }
    match deepest.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => deepest.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataMap;

    #[test]
    fn every_status_has_the_contracts_exit_code() {
        let cases = [
            (Code::NotFound, "", 2),
            (Code::InvalidArgument, "", 2),
            (Code::AlreadyExists, "study-differs", 2),
            (Code::FailedPrecondition, "protocol-version", 2),
            (Code::FailedPrecondition, "stale-attempt", 5),
            (Code::Aborted, "", 5),
            (Code::FailedPrecondition, "", 6),
            (Code::DataLoss, "digest-mismatch", 7),
            (Code::Unauthenticated, "", 8),
            (Code::PermissionDenied, "", 8),
            (Code::Unavailable, "", 75),
            (Code::DeadlineExceeded, "", 75),
            (Code::ResourceExhausted, "", 75),
            (Code::Internal, "", 1),
        ];
        for (code, reason, exit) in cases {
            let mut metadata = MetadataMap::new();
            if !reason.is_empty() {
                metadata.insert(REASON_KEY, reason.parse().unwrap());
            }
            let status = Status::with_metadata(code, "no", metadata);
            let error = ClientError::from_status("http://here", &status);
            assert_eq!(error.exit_code(), exit, "{code:?} {reason}");
            assert_eq!(error.reason, reason);
            assert_eq!(error.is_temporary(), exit == 75);
        }
    }

    #[test]
    fn a_wrong_path_a_full_disk_and_a_broken_one_have_exit_codes_of_their_own() {
        use std::io::ErrorKind;
        for (kind, exit) in [
            (ErrorKind::NotFound, 2),
            (ErrorKind::PermissionDenied, 2),
            (ErrorKind::NotADirectory, 2),
            (ErrorKind::StorageFull, 75),
            (ErrorKind::QuotaExceeded, 75),
            (ErrorKind::InvalidData, 1),
            (ErrorKind::Other, 1),
        ] {
            let error = ClientError::local("write", std::path::Path::new("/x"), &kind.into());
            assert_eq!(error.exit_code(), exit, "{kind:?}");
            assert!(!error.is_temporary() && error.message.starts_with("cannot write /x: "));
        }
    }

    #[test]
    fn no_hint_names_a_flag_that_nothing_reads() {
        let error = ClientError::new(Kind::NotAuthorised, "no");
        assert_eq!((error.exit_code(), error.hint()), (8, None));
    }
}
