//! What may happen to a study, a trial, an attempt and a lease: the decisions of the coordinator, as pure functions.
//!
//! Events in, effects out. Nothing here reads a clock (time is an argument), opens a socket or a file, or draws a
//! random number, so every decision can be tested in a table and simulated by the thousand.
//!
//! - [`trial`]: the life of a trial and its attempts;
//! - [`study`]: the life of a study;
//! - [`lease`]: who holds what, until when;
//! - [`quarantine`]: which worker is to blame;
//! - [`queue`]: whose trial is next, and for which worker;
//! - [`report`]: which measurements are taken, and what they come to;
//! - [`finish`]: what the end of an attempt asks for and means;
//! - [`reactor`]: what a coordinator knows only in memory;
//! - [`sim`]: all of it at work in a simulated house, over a reference model of the store.

pub mod finish;
pub mod lease;
pub mod quarantine;
pub mod queue;
pub mod reactor;
pub mod report;
pub mod sim;
pub mod study;
pub mod trial;

pub use lease::{Held, LeaseTable};
pub use reactor::Reactor;
pub use study::{StudyEvent, StudyState};
pub use trial::{
    Effect, IllegalEvent, Order, Outcome, RetryPolicy, Transition, Trial, TrialEvent, TrialState,
};
