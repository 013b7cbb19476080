//! What a slot does about its assignment: the node's side of the rule of motion.
//!
//! [`plan`] says the next step of a slot from what is desired of it (kept on the node's disk), whether the node's lease
//! holds, and what its executor says of the sandbox. [`admit`] says whether an order still counts, [`surplus`] which
//! slots go when a pool shrinks.

use super::Observed;
use crate::api::{Epoch, Incarnation, Timestamp};
use std::fmt;
use std::time::Duration;

/// How far a node's clock may be behind the store's or ahead of it.
pub const SKEW: Duration = Duration::from_secs(2);

/// What a slot shall do, as its assignment on disk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// Nothing is assigned.
    Free {
        /// A sandbox should be created ahead: there is none, and [`worth_ahead`] says for what.
        prepare: bool,
    },
    /// Bring the assignment up.
    Starting {
        /// Of the assignment.
        epoch: Epoch,
        /// Somebody waits for it, and holds what it is made of. False after a restart of the node agent.
        awaited: bool,
    },
    /// Keep what was brought up.
    Serving {
        /// Of the assignment.
        epoch: Epoch,
    },
    /// Save the sandbox, end it, and keep the image.
    Saving {
        /// Of the assignment.
        epoch: Epoch,
        /// The image is complete on this node.
        saved: bool,
    },
    /// End the sandbox.
    Ending,
}

/// The node's lease with the control plane, by the node's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// The control plane has not answered yet since the node agent started.
    Unknown,
    /// What runs is this node's.
    Held,
    /// The control plane has not answered for so long that it may have given away what runs here: until it answers, nothing
    /// of it may serve, start, be saved or published.
    Lapsed,
}

/// What the executor says of its sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Nothing runs and nothing is left.
    Clean,
    /// A call is under way.
    Busy,
    /// It runs.
    Running {
        /// Of the assignment that it was started for.
        epoch: Epoch,
    },
    /// It stands still, and its gate is closed.
    Frozen {
        /// Of the assignment that it was started for.
        epoch: Epoch,
    },
    /// It ended by itself.
    Exited,
    /// Something is left that could not be removed, or the executor does not answer any more.
    Dirty,
}

/// The next step of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until something changes.
    Wait,
    /// Ask the executor again.
    Ask,
    /// Create a sandbox ahead, for the next assignment.
    Prepare,
    /// Bring the assignment up.
    Start,
    /// It is up: say so.
    Confirm,
    /// Let the sandbox stand still, and refuse requests to it.
    Freeze,
    /// Let the sandbox go on.
    Thaw,
    /// Save the sandbox and end it.
    Save,
    /// The sandbox that was to be saved has ended by itself: say so, and leave it as it is.
    GiveUpSaving,
    /// Keep the image on this node, then free the slot.
    Deliver,
    /// End the sandbox.
    End,
    /// Remove what the assignment left on the node, and free the slot.
    Forget,
    /// End the executor and everything in it, and make a new one. An image that is complete stays.
    Rebuild,
}

/// Every step, for those that have to think of each.
pub const STEPS: [Step; 13] = [
    Step::Wait,
    Step::Ask,
    Step::Prepare,
    Step::Start,
    Step::Confirm,
    Step::Freeze,
    Step::Thaw,
    Step::Save,
    Step::GiveUpSaving,
    Step::Deliver,
    Step::End,
    Step::Forget,
    Step::Rebuild,
];

impl Step {
    /// The step's name in logs and failpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Step::Wait => "wait",
            Step::Ask => "ask",
            Step::Prepare => "prepare",
            Step::Start => "start",
            Step::Confirm => "confirm",
            Step::Freeze => "freeze",
            Step::Thaw => "thaw",
            Step::Save => "save",
            Step::GiveUpSaving => "give-up-saving",
            Step::Deliver => "deliver",
            Step::End => "end",
            Step::Forget => "forget",
            Step::Rebuild => "rebuild",
        }
    }
}

/// The next step that brings a slot towards what is desired. *Absent* means that the slot has no executor. To end
/// something is allowed under any lease.
pub fn plan(desired: &Desired, lease: Lease, sandbox: &Observed<Sandbox>) -> Step {
    let sandbox = match sandbox {
        Observed::Absent | Observed::Known(Sandbox::Dirty) => return Step::Rebuild,
        Observed::Unknown => return Step::Ask,
        Observed::Known(sandbox) => *sandbox,
    };
    match *desired {
        Desired::Free { prepare } => free(prepare, sandbox),
        Desired::Starting { epoch, awaited } => match lease {
            Lease::Unknown | Lease::Held => starting(epoch, awaited, lease, sandbox),
            // What did not come up in time does not come up.
            Lease::Lapsed => ending(sandbox),
        },
        Desired::Serving { epoch } => serving(epoch, lease, sandbox),
        Desired::Saving { epoch, saved } => saving(epoch, saved, lease, sandbox),
        Desired::Ending => ending(sandbox),
    }
}

fn free(prepare: bool, sandbox: Sandbox) -> Step {
    match sandbox {
        Sandbox::Clean if prepare => Step::Prepare,
        Sandbox::Clean => Step::Wait,
        Sandbox::Busy | Sandbox::Running { .. } | Sandbox::Frozen { .. } | Sandbox::Exited => {
            Step::End
        }
        Sandbox::Dirty => Step::Rebuild,
    }
}

fn ending(sandbox: Sandbox) -> Step {
    match sandbox {
        Sandbox::Clean => Step::Forget,
        Sandbox::Busy | Sandbox::Running { .. } | Sandbox::Frozen { .. } | Sandbox::Exited => {
            Step::End
        }
        Sandbox::Dirty => Step::Rebuild,
    }
}

fn starting(epoch: Epoch, awaited: bool, lease: Lease, sandbox: Sandbox) -> Step {
    match sandbox {
        Sandbox::Clean if awaited => Step::Start,
        Sandbox::Clean => Step::Forget,
        Sandbox::Busy => Step::Ask,
        Sandbox::Running { epoch: running } if running == epoch => Step::Confirm,
        Sandbox::Frozen { epoch: frozen } if frozen == epoch => frozen_under(lease),
        Sandbox::Running { .. } | Sandbox::Frozen { .. } | Sandbox::Exited => Step::End,
        Sandbox::Dirty => Step::Rebuild,
    }
}

/// It froze because the lease had lapsed: only an answer of the control plane lets it go on.
fn frozen_under(lease: Lease) -> Step {
    match lease {
        Lease::Held => Step::Thaw,
        Lease::Unknown | Lease::Lapsed => Step::Wait,
    }
}

fn serving(epoch: Epoch, lease: Lease, sandbox: Sandbox) -> Step {
    match (sandbox, lease) {
        (Sandbox::Clean, _) => Step::Forget,
        (Sandbox::Busy, _) => Step::Ask,
        (Sandbox::Running { epoch: at } | Sandbox::Frozen { epoch: at }, _) if at != epoch => {
            Step::End
        }
        (Sandbox::Running { .. }, Lease::Held | Lease::Unknown) => Step::Wait,
        (Sandbox::Running { .. }, Lease::Lapsed) => Step::Freeze,
        (Sandbox::Frozen { .. }, lease) => frozen_under(lease),
        // Its remains are kept until somebody who knows the actor's record says what shall become of it.
        (Sandbox::Exited, _) => Step::Wait,
        (Sandbox::Dirty, _) => Step::Rebuild,
    }
}

fn saving(epoch: Epoch, saved: bool, lease: Lease, sandbox: Sandbox) -> Step {
    match (sandbox, saved, lease) {
        (Sandbox::Clean, true, Lease::Held | Lease::Unknown) => Step::Deliver,
        // Whoever was given the actor since does not know of this image: nobody may find it later.
        (Sandbox::Clean, true, Lease::Lapsed) => Step::Wait,
        (Sandbox::Clean, false, _) => Step::Forget,
        (Sandbox::Busy, _, _) => Step::Ask,
        (Sandbox::Running { .. } | Sandbox::Frozen { .. } | Sandbox::Exited, true, _) => Step::End,
        (Sandbox::Running { epoch: at } | Sandbox::Frozen { epoch: at }, false, _)
            if at != epoch =>
        {
            Step::End
        }
        (Sandbox::Running { .. }, false, Lease::Held | Lease::Unknown) => Step::Save,
        (Sandbox::Running { .. }, false, Lease::Lapsed) => Step::Freeze,
        (Sandbox::Frozen { .. }, false, lease) => frozen_under(lease),
        (Sandbox::Exited, false, _) => Step::GiveUpSaving,
        (Sandbox::Dirty, _, _) => Step::Rebuild,
    }
}

/// For what a free slot should create a sandbox ahead: for what it started last, else for what its pool started latest on this node. One
/// that it has stays, though others start something else: where templates mix, slots that keep to theirs have more of them ready.
pub fn worth_ahead<'a, T>(has: bool, last: Option<&'a T>, latest: Option<&'a T>) -> Option<&'a T> {
    match has {
        true => None,
        false => last.or(latest),
    }
}

/// What makes an order refusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Of the actor.
    pub epoch: Epoch,
    /// Of the store.
    pub incarnation: Incarnation,
    /// After this the order does not count any more.
    pub not_after: Option<Timestamp>,
}

/// What a node remembers of orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The highest of any order.
    pub incarnation: Incarnation,
    /// The highest for this actor.
    pub epoch: Epoch,
    /// The highest of this actor's assignments that have ended.
    pub ended: Option<Epoch>,
}

/// Why an order does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A newer order for the actor was seen.
    OlderEpoch {
        /// Of the order.
        ordered: Epoch,
        /// Of the newer one.
        seen: Epoch,
    },
    /// It would start an assignment that has ended.
    Ended(Epoch),
    /// The store lost writes since.
    OlderIncarnation {
        /// Of the order.
        ordered: Incarnation,
        /// The newer one.
        seen: Incarnation,
    },
    /// Its time has passed.
    TooLate {
        /// When it ended.
        not_after: Timestamp,
        /// The node's clock.
        now: Timestamp,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::OlderEpoch { ordered, seen } => {
                write!(f, "epoch {} is older than {}", ordered.0, seen.0)
            }
            Refusal::Ended(epoch) => write!(f, "the assignment of epoch {} has ended", epoch.0),
            Refusal::OlderIncarnation { ordered, seen } => {
                write!(f, "incarnation {} is older than {}", ordered.0, seen.0)
            }
            Refusal::TooLate { not_after, now } => write!(
                f,
                "the order's time has passed by {} ms",
                now.0.saturating_sub(not_after.0)
            ),
        }
    }
}

/// Whether an order counts, by the node's clock. `starts`: it would bring up an assignment of its epoch.
///
/// # Errors
/// Why it does not count.
pub fn admit(fence: &Fence, starts: bool, seen: &Seen, now: Timestamp) -> Result<(), Refusal> {
    if fence.incarnation < seen.incarnation {
        return Err(Refusal::OlderIncarnation {
            ordered: fence.incarnation,
            seen: seen.incarnation,
        });
    }
    if fence.epoch < seen.epoch {
        return Err(Refusal::OlderEpoch {
            ordered: fence.epoch,
            seen: seen.epoch,
        });
    }
    if let Some(ended) = seen.ended
        && starts
        && fence.epoch <= ended
    {
        return Err(Refusal::Ended(fence.epoch));
    }
    match fence.not_after {
        Some(not_after) if now > not_after + SKEW => Err(Refusal::TooLate { not_after, now }),
        _ => Ok(()),
    }
}

/// Which slots of a pool go when it has `replicas` slots, given the number and business of each: free ones first, of both the
/// highest numbers.
pub fn surplus(slots: &[(u16, bool)], replicas: usize) -> Vec<u16> {
    let mut slots = slots.to_vec();
    slots.sort_unstable_by_key(|&(n, busy)| (busy, std::cmp::Reverse(n)));
    slots.truncate(slots.len().saturating_sub(replicas));
    slots.into_iter().map(|(n, _)| n).collect()
}

/// Which slots a pool lacks that has `replicas` slots: the lowest numbers that are not taken.
pub fn missing(taken: &[u16], replicas: usize) -> Vec<u16> {
    (0..u16::MAX)
        .filter(|n| !taken.contains(n))
        .take(replicas.saturating_sub(taken.len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: Epoch = Epoch(5);
    const OLD: Epoch = Epoch(4);

    #[test]
    fn every_combination_has_its_step() {
        use Desired::*;
        use Lease::{Held, Lapsed, Unknown};
        use Sandbox::*;
        use Step::*;
        let sandboxes = [
            Clean,
            Busy,
            Running { epoch: E },
            Running { epoch: OLD },
            Frozen { epoch: E },
            Frozen { epoch: OLD },
            Exited,
        ];
        let free = |prepare| Free { prepare };
        let starting = |awaited| Starting { epoch: E, awaited };
        let saving = |saved| Saving { epoch: E, saved };
        let serving = Serving { epoch: E };
        for (desired, lease, steps) in [
            (free(false), Held, [Wait, End, End, End, End, End, End]),
            (free(false), Unknown, [Wait, End, End, End, End, End, End]),
            (free(false), Lapsed, [Wait, End, End, End, End, End, End]),
            (free(true), Held, [Prepare, End, End, End, End, End, End]),
            (free(true), Unknown, [Prepare, End, End, End, End, End, End]),
            (free(true), Lapsed, [Prepare, End, End, End, End, End, End]),
            (
                starting(true),
                Held,
                [Start, Ask, Confirm, End, Thaw, End, End],
            ),
            (
                starting(true),
                Unknown,
                [Start, Ask, Confirm, End, Wait, End, End],
            ),
            (
                starting(false),
                Held,
                [Forget, Ask, Confirm, End, Thaw, End, End],
            ),
            (
                starting(false),
                Unknown,
                [Forget, Ask, Confirm, End, Wait, End, End],
            ),
            (
                starting(true),
                Lapsed,
                [Forget, End, End, End, End, End, End],
            ),
            (
                starting(false),
                Lapsed,
                [Forget, End, End, End, End, End, End],
            ),
            (serving, Held, [Forget, Ask, Wait, End, Thaw, End, Wait]),
            (serving, Unknown, [Forget, Ask, Wait, End, Wait, End, Wait]),
            (serving, Lapsed, [Forget, Ask, Freeze, End, Wait, End, Wait]),
            (
                saving(false),
                Held,
                [Forget, Ask, Save, End, Thaw, End, GiveUpSaving],
            ),
            (
                saving(false),
                Unknown,
                [Forget, Ask, Save, End, Wait, End, GiveUpSaving],
            ),
            (
                saving(false),
                Lapsed,
                [Forget, Ask, Freeze, End, Wait, End, GiveUpSaving],
            ),
            (saving(true), Held, [Deliver, Ask, End, End, End, End, End]),
            (
                saving(true),
                Unknown,
                [Deliver, Ask, End, End, End, End, End],
            ),
            (saving(true), Lapsed, [Wait, Ask, End, End, End, End, End]),
            (Ending, Held, [Forget, End, End, End, End, End, End]),
            (Ending, Unknown, [Forget, End, End, End, End, End, End]),
            (Ending, Lapsed, [Forget, End, End, End, End, End, End]),
        ] {
            for (sandbox, step) in sandboxes.into_iter().zip(steps) {
                let planned = plan(&desired, lease, &Observed::Known(sandbox));
                assert_eq!(planned, step, "{desired:?}, {lease:?}, {sandbox:?}");
            }
            assert_eq!(plan(&desired, lease, &Observed::Known(Dirty)), Rebuild);
            assert_eq!(plan(&desired, lease, &Observed::Absent), Rebuild);
            assert_eq!(plan(&desired, lease, &Observed::Unknown), Ask);
        }
    }

    #[test]
    fn a_free_slot_is_ready_for_what_it_ran_or_else_for_what_its_pool_runs() {
        let (mine, pools) = (Some(&"mine"), Some(&"pool's"));
        for (has, last, latest, worth) in [
            (false, None, None, None),
            (false, mine, None, mine),
            (false, None, pools, pools),
            (false, mine, pools, mine),
            (true, None, None, None),
            (true, mine, None, None),
            (true, None, pools, None),
            (true, mine, pools, None),
        ] {
            let got = worth_ahead(has, last, latest);
            assert_eq!(got, worth, "{has} {last:?} {latest:?}");
        }
    }

    #[test]
    fn steps_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = STEPS.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), STEPS.len());
    }

    #[test]
    fn orders_are_fenced() {
        let seen = Seen {
            incarnation: Incarnation(3),
            epoch: E,
            ended: None,
        };
        let now = Timestamp(100_000);
        let fence = |epoch, incarnation, not_after: u64| Fence {
            epoch: Epoch(epoch),
            incarnation: Incarnation(incarnation),
            not_after: (not_after > 0).then_some(Timestamp(not_after)),
        };
        for (fence, starts, ended, fine) in [
            (fence(5, 3, 0), true, None, true),
            (fence(6, 4, 0), true, None, true),
            (fence(4, 3, 0), true, None, false),
            (fence(4, 3, 0), false, None, false),
            (fence(6, 2, 0), false, None, false),
            (fence(5, 3, 98_000), true, None, true),
            (fence(5, 3, 97_999), true, None, false),
            (fence(5, 3, 97_999), false, None, false),
            (fence(5, 3, 0), true, Some(4), true),
            (fence(5, 3, 0), true, Some(5), false),
            (fence(5, 3, 0), false, Some(5), true),
            (fence(6, 3, 0), true, Some(5), true),
        ] {
            let seen = Seen {
                ended: ended.map(Epoch),
                ..seen
            };
            let admitted = admit(&fence, starts, &seen, now);
            assert_eq!(
                admitted.is_ok(),
                fine,
                "{fence:?} {starts} {ended:?}: {admitted:?}"
            );
        }
    }

    #[test]
    fn pools_shrink_by_free_slots_and_grow_into_gaps() {
        let slots = [(0, true), (1, false), (2, false), (3, true)];
        for (replicas, gone) in [
            (5, vec![]),
            (4, vec![]),
            (3, vec![2]),
            (2, vec![2, 1]),
            (1, vec![2, 1, 3]),
            (0, vec![2, 1, 3, 0]),
        ] {
            assert_eq!(surplus(&slots, replicas), gone, "{replicas}");
        }
        assert_eq!(missing(&[0, 2], 4), [1, 3]);
        assert_eq!(missing(&[0, 2], 2), [0; 0]);
        assert_eq!(missing(&[], 2), [0, 1]);
    }
}
