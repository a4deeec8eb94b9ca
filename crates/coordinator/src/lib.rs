//! The coordinator: the durable truth of studies and trials in SQLite, and the gRPC services over it.
//!
//! - [`store`]: all SQL, one writer, what changes and what is asked;
//! - [`blobs`]: content by digest, as files;
//! - [`live`]: leases and connections, in memory;
//! - [`service`]: the wire;
//! - [`upkeep`]: what happens without being asked.
//!
//! Decisions are `kapell_dispatch`'s. Nothing leaves before it is on disk.

pub mod backup;
mod blobs;
mod data_dir;
mod disk;
pub mod doctor;
mod expansion;
mod live;
mod service;
mod start;
mod store;
mod upkeep;

pub use data_dir::DataDirError;
pub use disk::{Disk, RealDisk};
pub use start::{Config, Failed, Limits, Running, StartError, start};
