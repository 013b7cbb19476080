//! Decisions about everything that moves: pure functions, no I/O, no clock, no async.
