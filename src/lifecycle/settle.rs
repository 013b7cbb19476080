//! What a worker's claim is worth: the actor's record alone is truth.

use crate::api::record::{ActorRecord, Claim, Phase};
use crate::api::{SnapshotId, Timestamp, WorkerKey};

/// What is to be done about a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The actor's record stands behind it.
    Valid,
    /// An operation is under way that may still need it.
    Wait,
    /// Nobody stands behind it: stop what the slot runs for the actor, then release.
    Stale,
}

/// Clocks of a node and of the store may differ by so much.
pub const SKEW: std::time::Duration = std::time::Duration::from_secs(2);

/// Judges `claim` on `worker` against the record of its actor, if there is one: of the uid that it names.
pub fn judge(
    worker: &WorkerKey,
    claim: &Claim,
    actor: Option<&ActorRecord>,
    now: Timestamp,
) -> Verdict {
    let Some(actor) = actor else {
        return if now > claim.deadline + SKEW {
            Verdict::Stale
        } else {
            Verdict::Wait
        };
    };
    let here = actor
        .status
        .assignment
        .as_ref()
        .is_some_and(|a| a.worker == *worker);
    match actor.header.phase {
        Phase::Running | Phase::Suspending | Phase::Pausing if here => Verdict::Valid,
        Phase::Resuming => Verdict::Wait,
        Phase::Running | Phase::Suspending | Phase::Pausing | Phase::Suspended | Phase::Paused => {
            if now > claim.deadline + SKEW || actor.header.epoch > claim.epoch {
                Verdict::Stale
            } else {
                Verdict::Wait
            }
        }
    }
}

/// Whether the snapshot `id`, which is on a node only, is of no use to anybody any more and never will be. `actor`: the record of
/// the actor that the node says it is of.
pub fn is_superseded(id: &SnapshotId, actor: Option<&ActorRecord>) -> bool {
    let Some(actor) = actor.filter(|a| a.status.uid == id.actor) else {
        return true;
    };
    let (header, local) = (&actor.header, &actor.status.local);
    let needed = local.as_ref().is_some_and(|l| l.snapshot.epoch == id.epoch);
    let in_progress = header.phase.is_transitional() && header.operation == id.epoch;
    // A record that is older than the snapshot has lost what it knew.
    !needed && !in_progress && header.epoch >= id.epoch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::record::{Assignment, LocalSnapshotRecord, SnapshotRecord};
    use crate::api::{ActorKey, Epoch, PoolKey};
    use uuid::Uuid;

    fn actor(phase: Phase, epoch: u64, on: Option<&str>) -> ActorRecord {
        let mut actor = ActorRecord {
            key: ActorKey::new("ns", "a"),
            ..ActorRecord::default()
        };
        actor.header.phase = phase;
        actor.header.epoch = Epoch(epoch);
        actor.status.assignment = on.map(|w| Assignment {
            worker: WorkerKey::new("ns", w),
            uid: String::new(),
            pool: PoolKey::new("ns", "p"),
            node: "n".into(),
            ip: String::new(),
            address: String::new(),
        });
        actor
    }

    #[test]
    fn what_is_on_a_node_goes_when_no_record_can_need_it_again() {
        let id = |epoch| SnapshotId {
            actor: uuid::Uuid::nil(),
            epoch: Epoch(epoch),
        };
        let of = |phase, epoch, operation, local: Option<u64>| {
            let mut actor = actor(phase, epoch, None);
            actor.header.operation = Epoch(operation);
            actor.status.local = local.map(|epoch| LocalSnapshotRecord {
                snapshot: SnapshotRecord {
                    epoch: Epoch(epoch),
                    bytes: 1,
                    time: Timestamp(1),
                    runtime: None,
                },
                node: "n".into(),
            });
            Some(actor)
        };
        for (record, superseded) in [
            (None, true),
            (of(Phase::Paused, 5, 5, Some(5)), false),
            // Woken from it, and not saved since.
            (of(Phase::Running, 6, 6, Some(5)), false),
            // Being saved, by whom it may be taken over.
            (of(Phase::Suspending, 7, 5, None), false),
            // Rolled back, or published.
            (of(Phase::Suspended, 5, 5, None), true),
            (of(Phase::Resuming, 6, 6, None), true),
            (of(Phase::Paused, 8, 8, Some(8)), true),
            // The store lost what came later.
            (of(Phase::Suspended, 4, 4, None), false),
        ] {
            assert_eq!(
                is_superseded(&id(5), record.as_ref()),
                superseded,
                "{record:?}"
            );
        }
        let mut other = of(Phase::Paused, 5, 5, Some(5)).unwrap();
        other.status.uid = uuid::Uuid::from_u128(1);
        assert!(is_superseded(&id(5), Some(&other)), "another of its name");
    }

    #[test]
    fn the_record_decides() {
        let worker = WorkerKey::new("ns", "w");
        let claim = Claim {
            actor: ActorKey::new("ns", "a"),
            uid: Uuid::nil(),
            epoch: Epoch(5),
            deadline: Timestamp(10_000),
        };
        let (before, after) = (Timestamp(9_000), Timestamp(13_000));
        for (record, now, verdict) in [
            (None, before, Verdict::Wait),
            (None, after, Verdict::Stale),
            (
                Some(actor(Phase::Running, 5, Some("w"))),
                after,
                Verdict::Valid,
            ),
            (
                Some(actor(Phase::Suspending, 6, Some("w"))),
                after,
                Verdict::Valid,
            ),
            (
                Some(actor(Phase::Running, 5, Some("other"))),
                after,
                Verdict::Stale,
            ),
            (Some(actor(Phase::Resuming, 5, None)), after, Verdict::Wait),
            (
                Some(actor(Phase::Suspended, 6, None)),
                before,
                Verdict::Stale,
            ),
            (
                Some(actor(Phase::Suspended, 5, None)),
                before,
                Verdict::Wait,
            ),
            (Some(actor(Phase::Paused, 5, None)), after, Verdict::Stale),
        ] {
            assert_eq!(
                judge(&worker, &claim, record.as_ref(), now),
                verdict,
                "{record:?}"
            );
        }
    }
}
