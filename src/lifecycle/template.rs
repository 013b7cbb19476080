//! The golden snapshot of a template: `"" -> ResumeGoldenActor -> WaitGoldenActor -> Ready | Failed`.
//!
//! A golden actor is booted from the template, settles, is suspended, and its durable snapshot becomes the one that
//! every new actor starts from. A failure is tried again with back-off.

use super::Observed;
use crate::api::record::{ActorRecord, Phase};
use crate::api::template::{GoldenPolicy, TemplatePhase};
use crate::api::{ActorTemplateSpec, Timestamp};
use std::time::Duration;

/// How long an actor without readyz settles before its golden snapshot is taken.
pub const SETTLE_WITHOUT_READYZ: Duration = Duration::from_secs(20);
/// First pause between two attempts; doubled for each further failure.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(2);
/// Longest pause between two attempts.
pub const BACKOFF_MOST: Duration = Duration::from_secs(120);

/// Where the golden snapshot is on its way: what the status keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The phase.
    pub phase: TemplatePhase,
    /// When the snapshot is taken.
    pub take_at: Option<Timestamp>,
    /// Failed attempts in a row.
    pub attempts: u32,
    /// No attempt is made before.
    pub retry_at: Option<Timestamp>,
}

/// The next step towards a golden snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create the golden actor.
    CreateActor,
    /// Boot it.
    ResumeActor,
    /// Write the status: it runs, and the snapshot is taken then.
    Settle {
        /// When the snapshot is taken.
        until: Timestamp,
    },
    /// Suspend it.
    SuspendActor,
    /// Write the status: its durable snapshot is the golden one.
    Ready,
    /// Write the status: no golden snapshot is wanted.
    ReadyWithout,
    /// Nothing before then.
    Wait {
        /// When to look again.
        until: Timestamp,
    },
    /// Nothing more to do.
    Done,
}

/// The next step, given what is known of the golden actor.
pub fn plan(
    spec: &ActorTemplateSpec,
    progress: &Progress,
    golden: &Observed<ActorRecord>,
    now: Timestamp,
) -> Step {
    if spec.golden.policy == GoldenPolicy::Disabled {
        return if progress.phase == TemplatePhase::Ready {
            Step::Done
        } else {
            Step::ReadyWithout
        };
    }
    match progress.phase {
        TemplatePhase::Ready => Step::Done,
        TemplatePhase::Failed => match progress.retry_at.filter(|at| now < *at) {
            Some(until) => Step::Wait { until },
            None => begin(golden, now),
        },
        TemplatePhase::New | TemplatePhase::ResumeGoldenActor => match golden {
            Observed::Known(actor) if actor.header.phase == Phase::Running => Step::Settle {
                until: now + settle(spec),
            },
            _ => begin(golden, now),
        },
        TemplatePhase::WaitGoldenActor => waiting(progress, golden, now),
    }
}

fn begin(golden: &Observed<ActorRecord>, now: Timestamp) -> Step {
    match golden {
        Observed::Absent => Step::CreateActor,
        Observed::Unknown => Step::Wait {
            until: now + LOOK_AGAIN,
        },
        Observed::Known(_) => Step::ResumeActor,
    }
}

/// How often something is looked at that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

fn waiting(progress: &Progress, golden: &Observed<ActorRecord>, now: Timestamp) -> Step {
    let actor = match golden {
        Observed::Unknown => {
            return Step::Wait {
                until: now + LOOK_AGAIN,
            };
        }
        Observed::Absent => return Step::CreateActor,
        Observed::Known(actor) => actor,
    };
    match actor.header.phase {
        Phase::Running => match progress.take_at.filter(|at| now < *at) {
            Some(until) => Step::Wait { until },
            None => Step::SuspendActor,
        },
        Phase::Suspended | Phase::Paused if actor.status.durable.is_some() => Step::Ready,
        Phase::Suspended | Phase::Paused => Step::ResumeActor,
        Phase::Resuming | Phase::Suspending | Phase::Pausing => Step::Wait {
            until: now + LOOK_AGAIN,
        },
    }
}

/// How long the golden actor settles: 20 s where there is no readyz, else not at all.
pub fn settle(spec: &ActorTemplateSpec) -> Duration {
    let asked = spec
        .golden
        .settle_seconds
        .and_then(|s| u64::try_from(s).ok())
        .map(Duration::from_secs);
    let ready = spec.containers.iter().any(|c| c.readyz.is_some());
    asked.unwrap_or(if ready {
        Duration::ZERO
    } else {
        SETTLE_WITHOUT_READYZ
    })
}

/// Where a failed attempt leads.
pub fn failed(progress: &Progress, now: Timestamp) -> Progress {
    let attempts = progress.attempts + 1;
    let pause = BACKOFF_FIRST
        .saturating_mul(1 << attempts.saturating_sub(1).min(16))
        .min(BACKOFF_MOST);
    Progress {
        phase: TemplatePhase::Failed,
        take_at: None,
        attempts,
        retry_at: Some(now + pause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::record::SnapshotRecord;
    use crate::api::template::{Container, Golden, Readyz};

    fn actor(phase: Phase) -> Observed<ActorRecord> {
        let mut a = ActorRecord::default();
        a.header.phase = phase;
        Observed::Known(a)
    }

    fn at(phase: TemplatePhase) -> Progress {
        Progress {
            phase,
            ..Progress::default()
        }
    }

    #[test]
    fn the_happy_path() {
        let spec = ActorTemplateSpec::default();
        let now = Timestamp(1_000);
        assert_eq!(
            plan(&spec, &at(TemplatePhase::New), &Observed::Absent, now),
            Step::CreateActor
        );
        let resuming = at(TemplatePhase::ResumeGoldenActor);
        assert_eq!(
            plan(&spec, &resuming, &actor(Phase::Suspended), now),
            Step::ResumeActor
        );
        let until = now + SETTLE_WITHOUT_READYZ;
        assert_eq!(
            plan(&spec, &resuming, &actor(Phase::Running), now),
            Step::Settle { until }
        );
        let waiting = Progress {
            take_at: Some(until),
            ..at(TemplatePhase::WaitGoldenActor)
        };
        assert_eq!(
            plan(&spec, &waiting, &actor(Phase::Running), now),
            Step::Wait { until }
        );
        assert_eq!(
            plan(&spec, &waiting, &actor(Phase::Running), until),
            Step::SuspendActor
        );
        let mut done = ActorRecord::default();
        done.status.durable = Some(SnapshotRecord {
            epoch: Default::default(),
            bytes: 0,
            time: now,
        });
        assert_eq!(
            plan(&spec, &waiting, &Observed::Known(done.clone()), until),
            Step::Ready
        );
        assert_eq!(
            plan(
                &spec,
                &at(TemplatePhase::Ready),
                &Observed::Known(done),
                until
            ),
            Step::Done
        );
    }

    #[test]
    fn a_readyz_needs_no_settling() {
        let mut spec = ActorTemplateSpec::default();
        spec.containers.push(Container {
            readyz: Some(Readyz::default()),
            ..Container::default()
        });
        assert_eq!(settle(&spec), Duration::ZERO);
        spec.golden = Golden {
            settle_seconds: Some(3),
            ..Golden::default()
        };
        assert_eq!(settle(&spec), Duration::from_secs(3));
    }

    #[test]
    fn failures_back_off_and_are_tried_again() {
        let spec = ActorTemplateSpec::default();
        let (mut progress, mut now) = (Progress::default(), Timestamp(0));
        let mut pauses = vec![];
        for _ in 0..9 {
            progress = failed(&progress, now);
            let until = progress.retry_at.unwrap();
            pauses.push(until.since(now).as_secs());
            assert_eq!(
                plan(&spec, &progress, &Observed::Absent, now),
                Step::Wait { until }
            );
            now = until;
            assert_eq!(
                plan(&spec, &progress, &Observed::Absent, now),
                Step::CreateActor
            );
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 120, 120, 120]);
    }
}
