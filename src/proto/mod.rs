//! The gRPC wire formats, generated from `src/proto/*.proto`.
