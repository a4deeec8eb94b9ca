//! The reasons of refusals, as they stand under [`crate::REASON_KEY`] in a status's metadata.

use tonic::Code;

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $text:literal, $code:ident;)+) => {
        $($(#[$doc])+ pub const $name: &str = $text;)+

        /// Every reason with the status code that it comes with.
        pub const ALL: &[(&str, Code)] = &[$(($name, Code::$code)),+];
    };
}

reasons! {
    /// There is no such study, trial, model, version, blob.
    NOT_FOUND = "not-found", NotFound;
    /// The worker is unknown here: register (again).
    UNKNOWN_WORKER = "unknown-worker", NotFound;
    /// Another process has registered under this worker's name: stop.
    STALE_INCARNATION = "stale-incarnation", FailedPrecondition;
    /// The attempt does not hold its trial (any more): drop it.
    STALE_ATTEMPT = "stale-attempt", FailedPrecondition;
    /// The epoch is on record with other content.
    EPOCH_DIFFERS = "epoch-differs", AlreadyExists;
    /// The epoch does not follow the last one on record.
    EPOCH_GAP = "epoch-gap", OutOfRange;
    /// A loss is NaN or infinite. The trial has failed by it, finally.
    NOT_FINITE = "not-finite", InvalidArgument;
    /// A trial was called COMPLETE without its measurements or its checkpoints.
    INCOMPLETE = "incomplete", FailedPrecondition;
    /// Worker and coordinator speak different versions of the protocol.
    PROTOCOL_VERSION = "protocol-version", FailedPrecondition;
    /// A study of this name exists with other content.
    STUDY_DIFFERS = "study-differs", AlreadyExists;
    /// The study file is wrong.
    BAD_SPEC = "bad-spec", InvalidArgument;
    /// A field of the request is missing or makes no sense.
    BAD_REQUEST = "bad-request", InvalidArgument;
    /// The request id was used for another request.
    REQUEST_ID_REUSED = "request-id-reused", AlreadyExists;
    /// The bytes do not hash to the digest that names them.
    DIGEST_MISMATCH = "digest-mismatch", DataLoss;
    /// A manifest that is none, or names files that no checkpoint has.
    BAD_MANIFEST = "bad-manifest", InvalidArgument;
    /// A blob that the request names is not here: upload it first.
    MISSING_BLOB = "missing-blob", FailedPrecondition;
    /// The upload goes on somewhere else than where it stopped: ask for its state.
    OFFSET_DIFFERS = "offset-differs", OutOfRange;
    /// No space is left on the coordinator's disk.
    DISK_FULL = "disk-full", ResourceExhausted;
    /// The coordinator has more to do than it can queue.
    OVERLOADED = "overloaded", ResourceExhausted;
    /// The store has failed, and the coordinator is ending.
    STORE_FAILED = "store-failed", Unavailable;
    /// The coordinator is ending.
    SHUTTING_DOWN = "shutting-down", Unavailable;
    /// The state of the study or trial does not allow it.
    ILLEGAL_EVENT = "illegal-event", FailedPrecondition;
    /// A bug in the coordinator.
    INTERNAL = "internal", Internal;
}

/// The status code of a reason.
#[must_use]
pub fn code(reason: &str) -> Code {
    ALL.iter().find(|(name, _)| *name == reason).map_or(Code::Unknown, |(_, code)| *code)
}
