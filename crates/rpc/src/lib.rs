//! Wire types, conversions to domain types and the retrying client.

pub mod blobs;
pub mod client;
pub mod convert;
pub mod digest;
pub mod error;
pub mod manifest;
pub mod reason;
pub mod view;

pub use client::Client;
pub use error::{ClientError, Kind};

/// The generated wire types of `proto/kapell/v1`.
pub mod v1 {
    #![expect(
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes,
        unused_qualifications,
        reason = "generated code"
    )]
    tonic::include_proto!("kapell.v1");
}

/// Version of the wire format. A coordinator serves workers of the same version only.
pub const PROTOCOL_VERSION: u32 = 1;

/// Metadata key under which a refusal carries its machine-readable reason.
pub const REASON_KEY: &str = "kapell-reason";
