//! The gRPC door for existing clients: `ateapi.Control` and `ateapi.SessionIdentity`.
