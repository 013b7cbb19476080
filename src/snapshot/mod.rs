//! Snapshots: a manifest and its data in an object store, published last and verified when fetched.
