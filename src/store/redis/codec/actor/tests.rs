use super::*;
use crate::api::names::{PoolKey, TemplateKey, WorkerKey};
use crate::api::reason::Reason;
use crate::api::record::{IdleRecord, OperatingMode, Work};
use crate::api::selector::Selector;
use proptest::option;
use proptest::prelude::*;
use std::time::Duration;

prop_compose! {
    fn snapshot()(epoch in any::<u64>(), bytes in any::<u64>(), time in any::<u64>(), runtime in proptest::option::of("[0-9a-f]{12}")) -> SnapshotRecord {
        let runtime = runtime.map(|digits| digits.parse().unwrap());
        SnapshotRecord { epoch: Epoch(epoch), bytes, time: Timestamp(time), runtime }
    }
}

prop_compose! {
    fn header()(
        phase in 0u8..6, desired in 0u8..4, epoch in 0u64..1 << 40, takeovers in 0u64..1 << 24,
        boot in any::<bool>(), yields in any::<bool>(), lease in option::of((any::<u64>(), 0u64..1 << 48)), tick in 0u64..1 << 53, writes in 0u64..1 << 40,
    ) -> Header {
        Header {
            phase: Phase::from_number(phase).unwrap(),
            desired: Desired::from_number(desired).unwrap(),
            epoch: Epoch(epoch),
            operation: Epoch(epoch.saturating_sub(takeovers)),
            boot,
            yields,
            lease: lease.map(|(owner, deadline)| Lease { owner, deadline: Timestamp(deadline) }),
            resource_version: ResourceVersion::from_tick(tick, 7),
            writes,
        }
    }
}

prop_compose! {
    fn spec()(
        namespace in "team|other", name in "[a-z]{1,20}", selector in proptest::collection::btree_map("[a-z]{1,9}", "[a-z]{0,9}", 0..3),
        suspend_after in option::of(any::<u32>()), generation in any::<u32>(), deleted in option::of(any::<u64>()),
    ) -> SpecRecord {
        SpecRecord {
            template: TemplateKey::new(namespace, name),
            mode: OperatingMode::Running,
            worker_selector: Selector { labels: selector, expressions: vec![] },
            idle: IdleRecord {
                suspend_after: suspend_after.map(|s| Duration::from_secs(s.into())),
                pause_after: None,
            },
            generation,
            deleted: deleted.map(Timestamp),
        }
    }
}

prop_compose! {
    fn any_status()(
        uid in any::<u128>(), created in any::<u64>(), flat in any::<bool>(), runs in any::<bool>(),
        durable in option::of(snapshot()), local in option::of((snapshot(), "[a-z]{1,9}")),
        last_activity in 0u64..1 << 48, last_transition in any::<u64>(), last_duration_micros in any::<u64>(), steps in proptest::collection::vec(any::<u32>(), 0..4),
        failed in option::of((any::<u64>(), ".{0,20}")), rolled_back in option::of(option::of(any::<u64>())),
    ) -> StatusRecord {
        StatusRecord {
            uid: Uuid::from_u128(uid),
            created: Timestamp(created),
            flat,
            assignment: runs.then(|| Assignment {
                worker: WorkerKey::new("team", "w-0"),
                uid: "u".into(),
                pool: PoolKey::new("team", "p"),
                node: "n".into(),
                ip: "10.0.0.1".into(),
                address: "10.0.0.1:40000".into(),
            }),
            durable,
            local: local.map(|(snapshot, node)| LocalSnapshotRecord { snapshot, node }),
            last_activity: Timestamp(last_activity),
            last_transition: Timestamp(last_transition),
            last_duration_micros,
            last_steps: steps.into_iter().map(|tenths| StepRecord { work: Work::Publish, tenths }).collect(),
            failure: failed.map(|(t, message)| Failure {
                reason: Reason::RestoreFailed,
                message,
                count: 1,
                time: Timestamp(t),
                retry_at: Timestamp(t),
            }),
            rolled_back: rolled_back.map(|to| RolledBack {
                message: "why".into(),
                reason: Reason::NodeLost,
                time: Timestamp(9),
                to: to.map(Timestamp),
            }),
        }
    }
}

prop_compose! {
    fn record()(header in header(), spec in spec(), status in any_status()) -> ActorRecord {
        ActorRecord { key: ActorKey::new("team", "a"), header, spec, status, meta: MetaRecord::default() }
    }
}

proptest! {
    #[test]
    fn round_trips(record in record()) {
        let bytes = encode_actor(&record).unwrap();
        let read = decode_actor(record.key.clone(), &bytes, MetaRecord::default(), 7).unwrap();
        prop_assert_eq!(read, record);
    }

    #[test]
    fn any_bytes_are_an_error_at_worst(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_actor(ActorKey::new("team", "a"), &bytes, MetaRecord::default(), 0);
    }

    #[test]
    fn damaged_records_are_an_error_at_worst(record in record(), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode_actor(&record).unwrap();
        let short = &bytes[..cut.index(bytes.len())];
        prop_assert!(decode_actor(record.key.clone(), short, MetaRecord::default(), 0).is_err());
        let i = at.index(bytes.len());
        bytes[i] = to;
        let _ = decode_actor(record.key, &bytes, MetaRecord::default(), 0);
    }
}

#[test]
fn another_format_is_refused_by_name() {
    let mut bytes = encode_actor(&ActorRecord::default()).unwrap();
    bytes[0] = 1;
    let e = decode_actor(ActorKey::new("team", "a"), &bytes, MetaRecord::default(), 0).unwrap_err();
    assert!(matches!(e, StoreError::Corrupt { .. }));
    assert_eq!(
        e.to_string(),
        "team/a cannot be read: it has format 1, and this program reads format 5 only"
    );
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let mut record = ActorRecord::default();
    record.header.epoch = Epoch(1 << 40);
    assert!(matches!(
        encode_actor(&record),
        Err(StoreError::Corrupt { .. })
    ));
}
