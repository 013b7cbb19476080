//! A moment by a clock that all processes of a machine share and that goes on while the machine is suspended
//! (`CLOCK_BOOTTIME`, clock_gettime(2)): until when the node's lease holds.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Timers do not count suspension: how often the clock is looked at. Shorter than the skew that others grant us.
const LOOK: Duration = Duration::from_secs(1);

/// Time since the machine was started.
pub(super) fn boottime() -> Duration {
    // The clock is there since Linux 2.6.39; without it every deadline has passed, which is the safe side.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

/// A deadline that is moved again and again, or none yet.
#[derive(Debug)]
pub(super) struct Deadline(watch::Sender<Option<Duration>>);

impl Deadline {
    pub fn new() -> Deadline {
        Deadline(watch::Sender::new(None))
    }

    /// Moves it to `until`.
    pub fn set(&self, until: Duration) {
        self.0.send_replace(Some(until));
    }

    /// The moment, once there is one.
    pub fn get(&self) -> Option<Duration> {
        *self.0.borrow()
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.get().is_some_and(|until| until <= boottime())
    }

    /// Returns when it has passed.
    pub async fn passed(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            let left = until.map(|until| until.saturating_sub(boottime()));
            let look = async {
                match left {
                    Some(left) => sleep(left.min(LOOK)).await,
                    None => std::future::pending().await,
                }
            };
            if left == Some(Duration::ZERO) {
                return;
            }
            tokio::select! {
                () = look => {}
                // Fails only when `self` is gone.
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// Returns when it is later than now.
    pub async fn extended(&self) {
        let mut changes = self.0.subscribe();
        // Fails only when `self` is gone.
        let _ = changes
            .wait_for(|until| until.is_some_and(|u| u > boottime()))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_passes_once_there_is_one() {
        let deadline = Deadline::new();
        assert!(!deadline.has_passed());
        let soon = boottime() + Duration::from_millis(50);
        let passed = async {
            deadline.passed().await;
            assert!(boottime() >= soon);
        };
        let told = async {
            deadline.set(boottime() + Duration::from_secs(60));
            tokio::task::yield_now().await;
            deadline.set(soon);
            assert_eq!(deadline.get(), Some(soon));
        };
        tokio::join!(passed, told);
        assert!(deadline.has_passed());
        deadline.passed().await;
        let later = async { deadline.set(boottime() + Duration::from_secs(60)) };
        tokio::join!(deadline.extended(), later);
        assert!(!deadline.has_passed());
    }
}
