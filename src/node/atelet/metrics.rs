//! What a node has.

use crate::proto::atenode::{NodeUsage, Slot, slot::Phase};
use crate::telemetry::metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::LazyLock;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    phase: &'static str,
}

static SLOTS: LazyLock<Family<OfPhase, Gauge>> =
    LazyLock::new(|| metrics::levels("node_slots", "Slots of this node"));
static CACHE: LazyLock<Gauge> = LazyLock::new(|| {
    metrics::level(
        "node_snapshot_bytes",
        "Bytes that this node's copies of snapshots take",
    )
});

static SPOOL: LazyLock<Gauge> = LazyLock::new(|| {
    metrics::level(
        "node_spool_bytes",
        "Bytes that snapshots take which are on this node only",
    )
});

/// The slots as they are now, and the bytes of snapshots.
pub(super) fn tell(slots: &[Slot], usage: &NodeUsage) {
    for (phase, name) in [
        (Phase::Free, "free"),
        (Phase::Busy, "busy"),
        (Phase::Running, "running"),
        (Phase::Exited, "exited"),
        (Phase::Dirty, "dirty"),
    ] {
        let count = slots.iter().filter(|slot| slot.phase() == phase).count();
        let level = SLOTS.get_or_create(&OfPhase { phase: name });
        level.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let bytes = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    CACHE.set(bytes(usage.cache_bytes));
    SPOOL.set(bytes(usage.spool_bytes));
}
