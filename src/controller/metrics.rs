//! Pools and templates as their status has them, at each scrape.

use crate::kube::Catalog;
use kube::ResourceExt;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;

/// Tells of what a catalog knows.
pub(super) struct Objects(pub Arc<dyn Catalog>);

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Objects")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    namespace: String,
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTemplate {
    namespace: String,
    template: String,
    state: &'static str,
}

impl Collector for Objects {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let pools = self.0.pools();
        let workers = pools.iter().flat_map(|pool| {
            let status = pool.status.clone().unwrap_or_default();
            let states = [
                ("desired", pool.spec.replicas),
                ("ready", status.ready),
                ("free", status.free),
                ("claimed", status.claimed),
            ];
            let of = |(state, count)| {
                let labels = OfPool {
                    namespace: pool.namespace().unwrap_or_default(),
                    pool: pool.name_any(),
                    state,
                };
                (labels, i64::from(count))
            };
            states.map(of)
        });
        gauges(&mut to, "pool_workers", "Workers of pools", workers)?;
        let templates = self.0.templates();
        let actors = templates.iter().flat_map(|template| {
            let status = template.status.clone().unwrap_or_default();
            let counts = status.actors.unwrap_or_default();
            let of = |(state, count)| {
                let labels = OfTemplate {
                    namespace: template.namespace().unwrap_or_default(),
                    template: template.name_any(),
                    state,
                };
                (labels, count)
            };
            [("all", counts.total), ("awake", counts.awake)].map(of)
        });
        gauges(&mut to, "template_actors", "Actors of templates", actors)
    }
}

fn gauges<L: EncodeLabelSet>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (L, i64)>,
) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        let one = metric.encode_family(&labels)?;
        ConstGauge::new(value).encode(one)?;
    }
    Ok(())
}
