//! The data path: Host header to actor to worker, waking what sleeps.
