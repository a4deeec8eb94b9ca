//! The real gRPC services over loopback, on a real store in a temporary folder, spoken to by generated clients.

mod attempts;
mod backups;
mod blobs;
mod doctors;
mod expansions;
mod harness;
mod leases;
mod limits;
mod models;
mod nodes;
mod retention;
mod studies;
