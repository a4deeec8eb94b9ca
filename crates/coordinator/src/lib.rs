//! The durable truth: store, gRPC service, registry.
