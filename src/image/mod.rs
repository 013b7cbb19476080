//! OCI images: fetched by digest, unpacked once per node, shared read-only.
