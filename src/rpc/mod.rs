//! Our own gRPC clients and servers: channels, TLS, deadlines.
