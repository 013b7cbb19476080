//! Time as the records keep it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Milliseconds since the Unix epoch, by the store's clock where two processes must agree.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The machine's wall clock. Call it at the edge and pass the value down.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// How long after `earlier` this is; zero when it is before.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// RFC 3339 with whole seconds, as Kubernetes writes times.
    pub fn to_rfc3339(self) -> String {
        let seconds = i64::try_from(self.0 / 1000).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds)
            .unwrap_or(jiff::Timestamp::MAX)
            .to_string()
    }

    /// As Kubernetes' own type.
    pub fn to_time(self) -> Time {
        let seconds = i64::try_from(self.0 / 1000).unwrap_or(i64::MAX);
        Time(jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX))
    }
}

/// Of Kubernetes' own type; what lies before the epoch is the epoch.
impl From<&Time> for Timestamp {
    fn from(time: &Time) -> Self {
        Self(u64::try_from(time.0.as_millisecond()).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, d: Duration) -> Timestamp {
        Timestamp(
            self.0
                .saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_kubernetes_does() {
        assert_eq!(
            Timestamp(1_767_225_600_999).to_rfc3339(),
            "2026-01-01T00:00:00Z"
        );
    }

    #[test]
    fn since_never_underflows() {
        assert_eq!(Timestamp(1).since(Timestamp(5)), Duration::ZERO);
        assert_eq!(
            (Timestamp(5) + Duration::from_secs(1)).since(Timestamp(5)),
            Duration::from_secs(1)
        );
    }
}
