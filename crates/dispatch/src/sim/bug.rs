//! Seeded bugs: each breaks one rule of the simulated coordinator, and the invariants must notice.

/// A rule that the simulated coordinator is made to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bug {
    /// What an attempt sends is taken whether it holds its trial or not.
    NoFence,
    /// Answers go out before the commit.
    AckBeforeCommit,
    /// A request that is refused leaves behind what it had done so far.
    NoSavepoint,
    /// Leases live on the wall clock.
    WallClockLeases,
    /// A beat brings a lease back that had run out.
    RenewAfterExpiry,
    /// A repeated request for work is a new one.
    ForgetRequests,
    /// A repeated creation of a study expands it again.
    ExpandTwice,
    /// A new process of a worker leaves the attempts of the old one open.
    RegisterKeepsOld,
    /// A process that has been replaced may register again.
    OldProcessReturns,
    /// Every restart gives the whole grace again.
    GraceUnbounded,
    /// What ran when the coordinator ended gets no grace.
    NoGrace,
    /// What ran when the coordinator ended is forgotten.
    NothingAdopted,
    /// A sweep ends whatever attempt holds the trial whose lease ran out.
    LoseUnfenced,
    /// What an older attempt measured beyond the checkpoint stays in the curve.
    SupersedeForgotten,
    /// A checkpoint that was overtaken on its way replaces the newer one.
    CheckpointGoesBack,
    /// Epochs are taken in any order.
    GapsTaken,
    /// COMPLETE is believed.
    CompleteUnchecked,
    /// A study is not judged when a trial has ended.
    JudgeForgotten,
    /// A lost worker counts as a failure of the trial.
    LossIsFailure,
    /// Waiting workers are not told of what comes back to the queue.
    NobodyWoken,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::NoFence,
        Self::AckBeforeCommit,
        Self::NoSavepoint,
        Self::WallClockLeases,
        Self::RenewAfterExpiry,
        Self::ForgetRequests,
        Self::ExpandTwice,
        Self::RegisterKeepsOld,
        Self::OldProcessReturns,
        Self::GraceUnbounded,
        Self::NoGrace,
        Self::NothingAdopted,
        Self::LoseUnfenced,
        Self::SupersedeForgotten,
        Self::CheckpointGoesBack,
        Self::GapsTaken,
        Self::CompleteUnchecked,
        Self::JudgeForgotten,
        Self::LossIsFailure,
        Self::NobodyWoken,
    ];
}
