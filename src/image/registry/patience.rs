//! How long a registry is given.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::image::ImageError;
use crate::image::error::Source;

/// Bounds of what a registry may cost us. All tries of one request together stay below the time in which an actor must be
/// restored.
#[derive(Clone, Debug)]
pub(in crate::image) struct Patience {
    /// Until there is a connection.
    pub(super) connect: Duration,
    /// Longest silence while bytes are expected.
    pub(super) silence: Duration,
    /// Tries of one request after the first.
    pub(super) retries: usize,
    /// Before the second try; it doubles then.
    pub(super) first_delay: Duration,
    /// Longest delay that a registry may ask for; when it asks for more, nobody waits.
    pub(super) longest_delay: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(20),
            retries: 4,
            first_delay: Duration::from_millis(250),
            longest_delay: Duration::from_secs(20),
        }
    }
}

/// Why a try failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Another try may succeed.
    Passing {
        source: Source,
        /// The registry said so.
        after: Option<Duration>,
    },
    /// None will.
    Final(ImageError),
}

impl Trouble {
    pub(super) fn passing(source: impl Into<Source>) -> Self {
        let source = source.into();
        Self::Passing {
            source,
            after: None,
        }
    }
}

impl From<ImageError> for Trouble {
    fn from(error: ImageError) -> Self {
        Self::Final(error)
    }
}

/// The tries that are left for one request.
pub(super) struct Retries {
    delays: ExponentialBackoff,
    longest: Duration,
}

impl Retries {
    pub(super) fn new(patience: &Patience) -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(patience.first_delay)
            .with_max_delay(patience.longest_delay)
            .with_max_times(patience.retries)
            .with_jitter();
        Self {
            delays: delays.build(),
            longest: patience.longest_delay,
        }
    }

    /// How long to wait for the next try, at least `after`; `None`: there is none.
    pub(super) fn next(&mut self, after: Option<Duration>) -> Option<Duration> {
        let after = after.unwrap_or_default();
        let delay = self.delays.next()?.max(after);
        (after <= self.longest).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_bounded_and_a_registry_is_heard() {
        let patience = Patience::default();
        let mut retries = Retries::new(&patience);
        let asked = Duration::from_secs(7);
        assert!(retries.next(None).unwrap() < Duration::from_secs(1));
        assert!(retries.next(Some(asked)).unwrap() >= asked);
        assert_eq!(retries.next(Some(patience.longest_delay + asked)), None);
        assert_eq!(std::iter::from_fn(|| retries.next(None)).count(), 1);
    }
}
