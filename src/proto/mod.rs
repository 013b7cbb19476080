//! The gRPC wire formats, generated from `src/proto/*.proto`. Nothing else lives here: conversions belong to
//! the room that owns the other side.

/// What existing clients speak: `ateapi.Control` and `ateapi.SessionIdentity`.
#[allow(clippy::all, missing_docs, rustdoc::all)]
pub mod ateapi {
    tonic::include_proto!("ateapi");
    /// Encoded `FileDescriptorSet` of all our services, for server reflection.
    pub const DESCRIPTORS: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/ateapi_descriptor.bin"));
}

/// Between our own processes: apiserver, atelet and ateom.
#[allow(clippy::all, missing_docs, rustdoc::all)]
pub mod atenode {
    tonic::include_proto!("atenode");

    impl std::fmt::Debug for PullSecret {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("PullSecret")
                .field("name", &self.name)
                .finish_non_exhaustive()
        }
    }
}
