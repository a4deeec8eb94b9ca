//! The real gRPC services over loopback, on a real store in a temporary folder, spoken to by generated clients.

mod attempts;
mod blobs;
mod harness;
mod leases;
mod models;
mod studies;
