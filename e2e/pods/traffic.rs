//! Requests to an actor while something happens.

use super::world::Actor;
use crate::parts::look::LOOK;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Ends the traffic when dropped, also when a test fails.
pub struct Ending<'a>(pub &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Visits until `over`; what was not answered. A GET whose answer did not arrive is sent again: it may count twice, but nothing that
/// counted is lost.
pub fn traffic(actor: &Actor<'_>, over: &AtomicBool) -> Vec<String> {
    let (mut before, mut failed) = (0, vec![]);
    while !over.load(Relaxed) {
        match actor.try_visit() {
            Ok((memory, file)) => {
                assert_eq!(memory, file);
                assert!(memory > before, "{memory} after {before}");
                before = memory;
            }
            Err(error) => {
                failed.push(error);
                std::thread::sleep(LOOK);
            }
        }
    }
    failed
}
