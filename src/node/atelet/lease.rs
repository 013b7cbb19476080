//! The node's lease with the control plane, by our own clock.
//!
//! It holds for as long as the API server says, from the moment at which the last report that it answered was *sent*: so it
//! ends here before it ends there. Once lapsed it holds again only after an answer to a report that says so: until then
//! the API server does not know that what runs here stood still.

use super::outcome::Failure;
use crate::lifecycle::slot;
use crate::node::deadline::{Deadline, boottime};
use std::time::Duration;
use tokio::sync::watch;

/// Why nothing is started, saved or published.
pub(super) const LAPSED: &str = "the node's lease with the control plane has lapsed";

pub(super) struct Lease {
    until: Deadline,
    state: watch::Sender<slot::Lease>,
}

impl Lease {
    pub fn new() -> Lease {
        Lease {
            until: Deadline::new(),
            state: watch::Sender::new(slot::Lease::Unknown),
        }
    }

    /// How it stands.
    pub fn state(&self) -> slot::Lease {
        if self.until.has_passed() {
            self.set(slot::Lease::Lapsed);
        }
        *self.state.borrow()
    }

    /// Until when it holds (boot time), once that is known.
    pub fn until(&self) -> Option<Duration> {
        self.until.get()
    }

    /// Tells of every change of its state.
    pub fn subscribe(&self) -> watch::Receiver<slot::Lease> {
        self.state.subscribe()
    }

    /// A report that was sent at `sent` (boot time) was answered: the lease holds for `length` from then. `told`: the report said that
    /// it had lapsed.
    pub fn answered(&self, sent: Duration, length: Duration, told: bool) {
        // Before it is renewed: a lapse that nobody has noticed yet has to be told too.
        let lapsed = self.state() == slot::Lease::Lapsed;
        self.until.set(sent + length);
        if (told || !lapsed) && sent + length > boottime() {
            self.set(slot::Lease::Held);
        }
    }

    /// Returns when it lapses; never while it has.
    pub async fn lapse(&self) {
        if self.state() == slot::Lease::Lapsed {
            std::future::pending().await
        }
        self.until.passed().await;
        self.set(slot::Lease::Lapsed);
    }

    /// Whether something may be started, saved or published.
    pub fn may_act(&self) -> Result<(), Failure> {
        match self.state() {
            slot::Lease::Held | slot::Lease::Unknown => Ok(()),
            slot::Lease::Lapsed => Err(Failure::Refused(LAPSED.into())),
        }
    }

    fn set(&self, to: slot::Lease) {
        self.state
            .send_if_modified(|now| std::mem::replace(now, to) != to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slot::Lease::{Held, Lapsed, Unknown};

    const LONG: Duration = Duration::from_secs(60);
    const PASSED: Duration = Duration::ZERO;

    #[test]
    fn it_holds_from_the_sending_and_once_lapsed_only_after_that_was_told() {
        let lease = Lease::new();
        assert_eq!(lease.state(), Unknown);
        lease.may_act().unwrap();
        lease.answered(boottime(), LONG, false);
        assert_eq!(lease.state(), Held);
        // An answer that comes later than the lease is long.
        let late = Lease::new();
        late.answered(boottime() - LONG, LONG, false);
        assert_eq!(late.state(), Lapsed);
        assert!(late.may_act().is_err());
        // It was sent before anybody knew.
        late.answered(boottime(), LONG, false);
        assert_eq!(late.state(), Lapsed);
        late.answered(boottime(), PASSED, true);
        assert_eq!(late.state(), Lapsed);
        late.answered(boottime(), LONG, true);
        assert_eq!(late.state(), Held);
        late.may_act().unwrap();
    }
}
