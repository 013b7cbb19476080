//! Every combination of what an operation can find, against the rules that no step may break.

use super::*;
use crate::api::record::{Assignment, Lease, Phase};
use crate::api::{ActorKey, PoolKey};

const NOW: Timestamp = Timestamp(1_000_000);
const EPOCH: Epoch = Epoch(7);

fn snapshot(epoch: u64) -> SnapshotRecord {
    SnapshotRecord {
        epoch: Epoch(epoch),
        bytes: 1,
        time: Timestamp(epoch),
        runtime: None,
    }
}

fn assignment(node: &str) -> Assignment {
    Assignment {
        worker: WorkerKey::new("ns", "w"),
        uid: "u".into(),
        pool: PoolKey::new("ns", "p"),
        node: node.into(),
        ip: String::new(),
        address: "here:1".into(),
    }
}

fn actor(phase: Phase, desired: Desired) -> ActorRecord {
    let mut actor = ActorRecord {
        key: ActorKey::new("ns", "a"),
        ..ActorRecord::default()
    };
    actor.header.phase = phase;
    actor.header.desired = desired;
    actor.header.epoch = EPOCH;
    actor.header.operation = EPOCH;
    actor.header.lease = phase.is_transitional().then_some(Lease {
        owner: 1,
        deadline: NOW,
    });
    actor.status.durable = Some(snapshot(3));
    actor
}

fn local_on(node: &str) -> Option<LocalSnapshotRecord> {
    Some(LocalSnapshotRecord {
        snapshot: snapshot(5),
        node: node.into(),
    })
}

fn running(epoch: Epoch) -> Sandbox {
    Sandbox::Running {
        epoch,
        address: "here:1".into(),
    }
}

const BOOLS: [bool; 2] = [false, true];

/// Everything that an operation can know of an actor.
fn every_progress() -> Vec<Progress> {
    let claims = [
        Observed::Absent,
        Observed::Unknown,
        Observed::Known(WorkerKey::new("ns", "w")),
    ];
    let sandboxes = [
        Observed::Absent,
        Observed::Unknown,
        Observed::Known(Sandbox::Busy { epoch: EPOCH }),
        Observed::Known(Sandbox::Busy { epoch: Epoch(6) }),
        Observed::Known(running(EPOCH)),
        Observed::Known(running(Epoch(6))),
        Observed::Known(Sandbox::Exited),
    ];
    let saved = [
        Observed::Absent,
        Observed::Unknown,
        Observed::Known(snapshot(7)),
    ];
    let failures = [None, Some((Reason::CheckpointFailed, "why".to_owned()))];
    let mut all = vec![];
    for claim in &claims {
        for sandbox in &sandboxes {
            for saved in &saved {
                for failure in &failures {
                    for bits in 0..64 {
                        all.push(Progress {
                            claim: claim.clone(),
                            sandbox: sandbox.clone(),
                            saved: saved.clone(),
                            failure: failure.clone(),
                            inherited: bits & 1 != 0,
                            node_lost: bits & 2 != 0,
                            held_back: bits & 4 != 0,
                            superseded: bits & 8 != 0,
                            kept: bits & 16 != 0,
                            cut_short: bits & 32 != 0,
                        });
                    }
                }
            }
        }
    }
    all
}

/// Every record that an operation can hold, as far as a decision looks at it.
fn every_actor() -> Vec<ActorRecord> {
    let mut all = vec![];
    for phase in Phase::ALL {
        for desired in Desired::ALL {
            for (assigned, local) in BOOLS.into_iter().flat_map(|a| BOOLS.map(|l| (a, l))) {
                let mut actor = actor(phase, desired);
                actor.status.assignment = assigned.then(|| assignment("n"));
                actor.status.local = if local { local_on("n") } else { None };
                all.push(actor.clone());
                if phase == Phase::Suspending && !assigned && local {
                    actor.header.yields = true;
                    all.push(actor);
                }
            }
        }
    }
    all
}

fn each(mut check: impl FnMut(&ActorRecord, &Progress, Step)) {
    let progress = every_progress();
    for actor in every_actor() {
        for progress in &progress {
            check(&actor, progress, plan(&actor, progress));
        }
    }
}

/// Whether `rule` holds wherever `is` does; shows the first combination where it does not.
fn whenever(is: impl Fn(&Step) -> bool, rule: impl Fn(&ActorRecord, &Progress) -> bool) {
    let mut met = 0;
    each(|actor, progress, step| {
        if is(&step) {
            met += 1;
            let (phase, desired) = (actor.header.phase, actor.header.desired);
            assert!(
                rule(actor, progress),
                "{step:?} in {phase}, {desired:?}: {progress:?}"
            );
        }
    });
    assert!(met > 0, "no combination leads to the step");
}

fn is_claimed(progress: &Progress) -> bool {
    matches!(progress.claim, Observed::Known(_))
}

#[test]
fn starts_only_on_a_clean_worker_claimed_by_this_operation() {
    whenever(
        |step| *step == Step::Start,
        |actor, p| {
            is_claimed(p)
                && !p.inherited
                && p.sandbox == Observed::Absent
                && !p.node_lost
                && p.failure.is_none()
                && actor.header.desired == Desired::Running
                && actor.header.phase == Phase::Resuming
        },
    );
}

#[test]
fn claims_only_without_a_claim() {
    whenever(
        |step| *step == Step::Claim,
        |actor, p| {
            p.claim == Observed::Absent
                && p.failure.is_none()
                && actor.header.desired == Desired::Running
        },
    );
}

#[test]
fn releases_only_a_clean_worker() {
    // After the commit of a sleep, or of its image, the slot has been clean: see the next test.
    whenever(
        |step| *step == Step::Release,
        |actor, p| {
            let phase = actor.header.phase;
            is_claimed(p)
                && !p.node_lost
                && (p.sandbox == Observed::Absent
                    || !phase.is_transitional()
                    || actor.header.yields)
        },
    );
}

#[test]
fn sleeps_only_when_the_snapshot_is_complete_and_the_slot_clean_or_lost() {
    whenever(
        |step| {
            matches!(
                step,
                Step::Spool(_) | Step::Commit(Outcome::Suspended(_) | Outcome::Paused(_))
            )
        },
        |_, p| {
            let ended = !is_claimed(p) || p.sandbox == Observed::Absent || p.node_lost;
            matches!(p.saved, Observed::Known(_)) && ended
        },
    );
    whenever(
        |step| matches!(step, Step::Commit(Outcome::RolledBack(_))),
        |actor, p| {
            p.saved == Observed::Absent && (p.node_lost || p.sandbox == Observed::Absent)
                || p.node_lost && (p.claim == Observed::Absent || p.kept)
                || p.node_lost && actor.header.yields
        },
    );
}

#[test]
fn what_is_on_its_node_only_is_never_called_suspended() {
    whenever(
        |step| matches!(step, Step::Commit(Outcome::Suspended(_))),
        |_, p| !p.kept,
    );
    let record = actor(Phase::Suspending, Desired::Suspended);
    let progress = Progress {
        failure: Some((Reason::CheckpointFailed, "no such bucket".into())),
        ..Progress::taken_over(&record)
    };
    let spooled = super::spooled(
        &ActorRecord {
            status: crate::api::record::StatusRecord {
                assignment: Some(assignment("n")),
                ..record.status.clone()
            },
            ..record.clone()
        },
        &snapshot(7),
    );
    assert!(spooled.header.yields && spooled.header.lease.is_some());
    assert_eq!(spooled.status.assignment, None);
    let next = conclude(&spooled, &progress, &Outcome::AsBefore, NOW);
    assert_eq!(
        (next.header.phase, next.header.yields),
        (Phase::Paused, false)
    );
    let local = next.status.local.unwrap();
    assert_eq!((local.snapshot, &*local.node), (snapshot(7), "n"));
    let failure = next.status.failure.unwrap();
    assert_eq!(failure.message, "no such bucket");
    assert_eq!(failure.retry_at, NOW, "it may wake at once");
}

#[test]
fn runs_only_what_this_operation_started() {
    whenever(
        |step| *step == Step::Commit(Outcome::Running),
        |actor, p| {
            is_claimed(p)
                && !p.inherited
                && !p.node_lost
                && p.sandbox == Observed::Known(running(actor.header.epoch))
                && actor.header.desired == Desired::Running
        },
    );
}

#[test]
fn goes_on_only_with_what_runs() {
    whenever(
        |step| *step == Step::Commit(Outcome::GoesOn),
        |actor, p| {
            is_claimed(p)
                && matches!(p.sandbox, Observed::Known(Sandbox::Running { .. }))
                && p.failure.is_some()
                && actor.header.desired != Desired::Deleted
        },
    );
}

#[test]
fn asks_nothing_of_a_lost_node() {
    let asks = |step: &Step| {
        matches!(
            step,
            Step::Observe | Step::Start | Step::Checkpoint | Step::Stop | Step::AwaitNode
        )
    };
    whenever(asks, |_, p| is_claimed(p) && !p.node_lost);
    whenever(
        |step| *step == Step::Abandon,
        |_, p| is_claimed(p) && p.node_lost,
    );
}

#[test]
fn a_deletion_saves_nothing_and_removes_only_what_holds_nothing() {
    whenever(
        |step| matches!(step, Step::Checkpoint | Step::Publish | Step::FindSnapshot),
        |actor, _| actor.header.desired != Desired::Deleted && actor.header.phase.is_transitional(),
    );
    whenever(
        |step| *step == Step::Remove,
        |actor, p| {
            actor.header.desired == Desired::Deleted && p.claim == Observed::Absent && !p.superseded
        },
    );
}

#[test]
fn only_a_record_at_rest_is_done() {
    whenever(
        |step| *step == Step::Done,
        |actor, _| !actor.header.phase.is_transitional(),
    );
}

#[test]
fn every_end_is_a_phase_at_rest_without_a_lease() {
    each(|actor, progress, step| {
        let Step::Commit(outcome) = step else { return };
        let next = conclude(actor, progress, &outcome, NOW);
        assert_eq!(next.header.lease, None);
        assert!(!next.header.phase.is_transitional(), "{outcome:?}");
        let awake = next.header.phase == Phase::Running;
        assert_eq!(
            next.header.desired == Desired::Running,
            awake,
            "{outcome:?}"
        );
        if !awake {
            assert_eq!(next.status.assignment, None, "{outcome:?}");
            let paused = next.header.phase == Phase::Paused;
            assert_eq!(next.status.local.is_some(), paused, "{outcome:?}");
        }
        let said = next.status.rolled_back.is_some();
        assert_eq!(said, matches!(outcome, Outcome::RolledBack(_)));
        assert_eq!(next.header.epoch, actor.header.epoch);
        assert_eq!(next.spec, actor.spec);
    });
}

#[test]
fn every_end_keeps_the_newest_snapshot_that_there_is() {
    each(|actor, progress, step| {
        let Step::Commit(outcome) = step else { return };
        let next = conclude(actor, progress, &outcome, NOW).status;
        let before = &actor.status;
        match outcome {
            Outcome::Suspended(s) => assert_eq!((next.durable, next.local), (Some(s), None)),
            Outcome::Paused(s) => {
                assert_eq!(next.durable, before.durable);
                assert_eq!(next.local.map(|l| l.snapshot), Some(s));
            }
            Outcome::Running | Outcome::AsBefore | Outcome::GoesOn => {
                assert_eq!(
                    (next.durable, next.local),
                    (before.durable.clone(), before.local.clone())
                );
            }
            Outcome::RolledBack(_) => assert_eq!(next.durable, before.durable),
        }
    });
}

#[test]
fn a_roll_back_drops_a_local_snapshot_only_with_its_node() {
    for (ran_on, holder, node_lost, stays) in [
        (Some("n"), "n", true, false),
        (Some("n"), "n", false, true),
        (Some("n"), "other", true, true),
        (None, "n", true, false),
    ] {
        let mut before = actor(Phase::Suspending, Desired::Suspended);
        before.status.assignment = ran_on.map(assignment);
        before.status.local = local_on(holder);
        let reason = Reason::NodeLost;
        let progress = Progress {
            node_lost,
            failure: Some((reason, "why".into())),
            ..Progress::taken_over(&before)
        };
        let next = conclude(&before, &progress, &Outcome::RolledBack(reason), NOW);
        assert_eq!(next.status.local.is_some(), stays);
        let phase = if stays {
            Phase::Paused
        } else {
            Phase::Suspended
        };
        assert_eq!(next.header.phase, phase);
        let to = if stays { Timestamp(5) } else { Timestamp(3) };
        let said = RolledBack {
            reason,
            message: "why".into(),
            time: NOW,
            to: Some(to),
        };
        assert_eq!(next.status.rolled_back, Some(said));
    }
}

#[test]
fn failures_back_off_per_reason_up_to_a_bound() {
    let mut record = actor(Phase::Resuming, Desired::Running);
    let progress = Progress {
        failure: Some((Reason::RestoreFailed, "why".into())),
        ..Progress::taken_over(&record)
    };
    let mut pauses = vec![];
    for count in 1..=9 {
        record = conclude(&record, &progress, &Outcome::AsBefore, NOW);
        let failure = record.status.failure.clone().unwrap();
        assert_eq!(failure.count, count);
        pauses.push(failure.retry_at.since(NOW).as_millis());
    }
    assert_eq!(
        pauses,
        [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
    );
    let other = Progress {
        failure: Some((Reason::NoFreeWorkers, "none".into())),
        ..progress.clone()
    };
    let next = conclude(&record, &other, &Outcome::AsBefore, NOW);
    let failure = next.status.failure.unwrap();
    assert_eq!((failure.count, failure.retry_at), (1, NOW));
    let held_back = Progress {
        held_back: true,
        ..other
    };
    let next = conclude(&record, &held_back, &Outcome::AsBefore, NOW);
    assert_eq!(next.status.failure, record.status.failure);
}

#[test]
fn a_success_forgets_the_failure() {
    let mut record = actor(Phase::Resuming, Desired::Running);
    let progress = Progress {
        failure: Some((Reason::RestoreFailed, "why".into())),
        ..Progress::taken_over(&record)
    };
    record = conclude(&record, &progress, &Outcome::AsBefore, NOW);
    record.header.boot = true;
    for outcome in [
        Outcome::Running,
        Outcome::Suspended(snapshot(7)),
        Outcome::Paused(snapshot(7)),
    ] {
        let next = conclude(&record, &progress, &outcome, NOW);
        assert_eq!(next.status.failure, None);
        assert!(!next.header.boot);
    }
    let next = conclude(&record, &progress, &Outcome::Running, NOW);
    assert_eq!(
        (next.status.last_activity, next.status.last_transition),
        (NOW, NOW)
    );
}
