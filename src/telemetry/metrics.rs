//! Numbers of this process, for Prometheus: what each room counts is a `static` of its own, made here; [`text`] is what a scrape gets.
//!
//! Names begin with `ate_`, durations are in seconds. What nobody counted yet is not there.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use std::fmt;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The media type of [`text`]: OpenMetrics 1.0.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

static REGISTRY: LazyLock<Mutex<Registry>> =
    LazyLock::new(|| Mutex::new(Registry::with_prefix("ate")));

/// What tells numbers of one name apart. Each set of values is kept for ever, so they are few and never a client's words.
pub trait Labels: Clone + fmt::Debug + Hash + Eq + EncodeLabelSet + Send + Sync + 'static {}

impl<T: Clone + fmt::Debug + Hash + Eq + EncodeLabelSet + Send + Sync + 'static> Labels for T {}

/// How long something took, by labels.
pub type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Events.
pub fn counts<L: Labels>(name: &str, help: &str) -> Family<L, Counter> {
    registered(name, help, Family::default())
}

/// What is there now.
pub fn levels<L: Labels>(name: &str, help: &str) -> Family<L, Gauge> {
    registered(name, help, Family::default())
}

/// One number of what is there now.
pub fn level(name: &str, help: &str) -> Gauge {
    registered(name, help, Gauge::default())
}

/// Durations, in buckets from 1 ms to about 65 s.
pub fn durations<L: Labels>(name: &str, help: &str) -> Durations<L> {
    fn histogram() -> Histogram {
        Histogram::new(exponential_buckets(0.001, 2.0, 17))
    }
    registered(name, help, Family::new_with_constructor(histogram))
}

/// Numbers that are found out at each scrape.
pub fn collected(by: Box<dyn Collector>) {
    let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    registry.register_collector(by);
}

fn registered<M: Metric + Clone>(name: &str, help: &str, metric: M) -> M {
    let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    registry.register(name, help, metric.clone());
    metric
}

/// All numbers, as a scrape wants them.
pub fn text() -> Result<String, fmt::Error> {
    let registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    let mut said = String::new();
    text::encode(&mut said, &registry)?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Of {
        what: &'static str,
    }

    #[test]
    fn a_scrape_has_what_was_counted() {
        let of = Of { what: "tests" };
        counts("things", "Things of this test")
            .get_or_create(&of)
            .inc();
        durations("things_took", "How long they took")
            .get_or_create(&of)
            .observe(0.003);
        let said = text().unwrap();
        for line in [
            "# HELP ate_things Things of this test.",
            r#"ate_things_total{what="tests"} 1"#,
            r#"ate_things_took_bucket{le="0.002",what="tests"} 0"#,
            r#"ate_things_took_bucket{le="0.004",what="tests"} 1"#,
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert!(said.ends_with("# EOF\n"));
    }
}
