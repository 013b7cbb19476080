//! The golden snapshots of a template, one for each build of the runtime that workers have: [`aim`] says which is worked on, and
//! [`plan`] the next step of one that is taken, `"" -> ResumeGoldenActor -> WaitGoldenActor -> Ready | Failed`.
//!
//! A golden actor is booted from the template, settles, is suspended, and its durable snapshot becomes the one that
//! every new actor starts from. A failure is tried again with back-off.

use super::{Observed, runtimes};
use crate::api::names::Build;
use crate::api::record::{ActorRecord, Phase};
use crate::api::template::{GoldenPolicy, GoldenSnapshot};
use crate::api::{ActorTemplateSpec, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an actor without readyz settles before its golden snapshot is taken.
pub const SETTLE_WITHOUT_READYZ: Duration = Duration::from_secs(20);
/// First pause between two attempts; doubled for each further failure.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(2);
/// Longest pause between two attempts.
pub const BACKOFF_MOST: Duration = Duration::from_secs(120);

/// The builds of the runtime that workers have; `None` is one that nobody knows.
pub type Builds = BTreeSet<Option<Build>>;

/// Which golden snapshot is worked on.
#[derive(Clone, Debug, PartialEq)]
pub enum Aim {
    /// One is to be taken, by this build; `None`: by that of whichever worker is free first.
    Take(Option<Build>),
    /// No worker has the build of this one any more, and each that there is has another: it goes when no actor is of that build.
    Drop(GoldenSnapshot),
    /// All are there.
    Rest,
}

/// What is to be done about the golden snapshots, given the builds of the workers that may run the template's actors.
pub fn aim(spec: &ActorTemplateSpec, golden: &[GoldenSnapshot], workers: &Builds) -> Aim {
    if spec.golden.policy == GoldenPolicy::Disabled {
        return Aim::Rest;
    }
    if golden.is_empty() {
        return Aim::Take(None);
    }
    if spec.runsc.is_some() || workers.is_empty() {
        return Aim::Rest;
    }
    let has = |build: &Build| golden.iter().any(|g| runtimes::made_by(g) == Some(*build));
    if let Some(missing) = workers.iter().flatten().find(|build| !has(build)) {
        return Aim::Take(Some(*missing));
    }
    let unused = |g: &&GoldenSnapshot| !workers.contains(&runtimes::made_by(g));
    match golden.iter().find(unused) {
        Some(unused) if !workers.contains(&None) => Aim::Drop(unused.clone()),
        _ => Aim::Rest,
    }
}

/// Whether there is a golden snapshot from which an actor can start on one of the workers. Without workers any will do.
pub fn serves(spec: &ActorTemplateSpec, golden: &[GoldenSnapshot], workers: &Builds) -> bool {
    let starts = |g: &GoldenSnapshot| {
        let by = runtimes::made_by(g);
        by.is_none() || workers.contains(&by) || workers.contains(&None)
    };
    let any = spec.runsc.is_some() || workers.is_empty();
    golden.iter().any(|g| any || starts(g))
}

/// Where a golden snapshot is on its way: what the status keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
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
    /// Remove it: it is of another build than it shall be, and counts as failed.
    RemoveActor,
    /// Write the status: its durable snapshot is a golden one.
    Ready,
    /// Nothing before then.
    Wait {
        /// When to look again.
        until: Timestamp,
    },
}

/// The next step of the golden snapshot that `build` is to make, given what is known of its actor.
pub fn plan(
    spec: &ActorTemplateSpec,
    build: Option<Build>,
    progress: &Progress,
    golden: &Observed<ActorRecord>,
    now: Timestamp,
) -> Step {
    let soon = Step::Wait {
        until: now + LOOK_AGAIN,
    };
    let actor = match golden {
        Observed::Unknown => return soon,
        Observed::Known(actor) => Some(actor),
        Observed::Absent => None,
    };
    let made = actor
        .filter(|a| matches!(a.header.phase, Phase::Suspended | Phase::Paused))
        .and_then(|a| a.status.durable.as_ref());
    if let Some(durable) = made {
        let fits = build.is_none() || durable.runtime.is_none() || durable.runtime == build;
        return if fits { Step::Ready } else { Step::RemoveActor };
    }
    if let Some(until) = progress.retry_at.filter(|at| now < *at) {
        return Step::Wait { until };
    }
    let Some(actor) = actor else {
        return Step::CreateActor;
    };
    match (actor.header.phase, progress.take_at) {
        (Phase::Running, None) => Step::Settle {
            until: now + settle(spec),
        },
        (Phase::Running, Some(until)) if now < until => Step::Wait { until },
        (Phase::Running, Some(_)) => Step::SuspendActor,
        (Phase::Suspended | Phase::Paused | Phase::Resuming, _) => Step::ResumeActor,
        (Phase::Suspending | Phase::Pausing, _) => soon,
    }
}

/// How often something is looked at that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
        take_at: None,
        attempts,
        retry_at: Some(now + pause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::record::SnapshotRecord;
    use crate::api::runsc::Runsc;
    use crate::api::template::{Container, Golden, Readyz};
    use proptest::prelude::*;

    fn actor(phase: Phase) -> Observed<ActorRecord> {
        let mut a = ActorRecord::default();
        a.header.phase = phase;
        Observed::Known(a)
    }

    fn build(digit: char) -> Build {
        digit.to_string().repeat(12).parse().unwrap()
    }

    fn builds(digits: &str) -> Builds {
        let build = |d| (d != '?').then(|| build(d));
        digits.chars().map(build).collect()
    }

    fn golden(by: Option<Build>) -> GoldenSnapshot {
        GoldenSnapshot {
            runtime: by.map(|by| by.to_string()).unwrap_or_default(),
            ..GoldenSnapshot::default()
        }
    }

    fn goldens(digits: &str) -> Vec<GoldenSnapshot> {
        let build = |d| (d != '?').then(|| build(d));
        digits.chars().map(|d| golden(build(d))).collect()
    }

    fn made(by: Option<Build>) -> Observed<ActorRecord> {
        let mut done = ActorRecord::default();
        done.status.durable = Some(SnapshotRecord {
            epoch: Default::default(),
            bytes: 0,
            time: Timestamp(1),
            runtime: by,
        });
        Observed::Known(done)
    }

    #[test]
    fn the_happy_path() {
        let spec = ActorTemplateSpec::default();
        let now = Timestamp(1_000);
        let mut progress = Progress::default();
        let next = |progress: &Progress, golden: &Observed<ActorRecord>, now| {
            plan(&spec, None, progress, golden, now)
        };
        assert_eq!(next(&progress, &Observed::Absent, now), Step::CreateActor);
        for phase in [Phase::Suspended, Phase::Resuming] {
            assert_eq!(next(&progress, &actor(phase), now), Step::ResumeActor);
        }
        let until = now + SETTLE_WITHOUT_READYZ;
        let running = actor(Phase::Running);
        assert_eq!(next(&progress, &running, now), Step::Settle { until });
        progress.take_at = Some(until);
        assert_eq!(next(&progress, &running, now), Step::Wait { until });
        assert_eq!(next(&progress, &running, until), Step::SuspendActor);
        let soon = Step::Wait {
            until: until + LOOK_AGAIN,
        };
        assert_eq!(next(&progress, &actor(Phase::Suspending), until), soon);
        assert_eq!(next(&progress, &Observed::Unknown, until), soon);
        assert_eq!(next(&progress, &made(Some(build('a'))), until), Step::Ready);
    }

    #[test]
    fn a_golden_actor_of_another_build_than_wanted_is_removed() {
        let spec = ActorTemplateSpec::default();
        let next = |wanted, by| {
            let progress = Progress::default();
            plan(&spec, wanted, &progress, &made(by), Timestamp(1))
        };
        let (a, b) = (Some(build('a')), Some(build('b')));
        assert_eq!(next(a, a), Step::Ready);
        assert_eq!(next(a, None), Step::Ready);
        assert_eq!(next(None, b), Step::Ready);
        assert_eq!(next(a, b), Step::RemoveActor);
    }

    #[test]
    fn there_is_one_for_each_build_of_the_workers() {
        let mut spec = ActorTemplateSpec::default();
        let to = |spec: &ActorTemplateSpec, has: &str, workers: &str| {
            aim(spec, &goldens(has), &builds(workers))
        };
        let take = |digit| Aim::Take(Some(build(digit)));
        let drop = |digit| Aim::Drop(golden(Some(build(digit))));
        for (has, workers, expected) in [
            ("", "", Aim::Take(None)),
            ("", "ab", Aim::Take(None)),
            ("a", "", Aim::Rest),
            ("a", "a", Aim::Rest),
            ("a", "?", Aim::Rest),
            ("a", "ab", take('b')),
            ("a", "b", take('b')),
            ("ab", "ab", Aim::Rest),
            ("ab", "b", drop('a')),
            ("ab", "a", drop('b')),
            ("ab", "?b", Aim::Rest),
            ("?", "a", take('a')),
            ("?a", "a", Aim::Drop(golden(None))),
        ] {
            assert_eq!(to(&spec, has, workers), expected, "{has} {workers}");
        }
        spec.runsc = Some(Runsc::default());
        assert_eq!(to(&spec, "a", "bc"), Aim::Rest, "it names its runtime");
        spec.golden.policy = GoldenPolicy::Disabled;
        assert_eq!(to(&spec, "", "a"), Aim::Rest);
    }

    #[test]
    fn a_template_serves_while_one_of_its_workers_can_start_an_actor() {
        let spec = ActorTemplateSpec::default();
        for (has, workers, expected) in [
            ("", "", false),
            ("", "a", false),
            ("a", "", true),
            ("a", "ab", true),
            ("a", "b", false),
            ("a", "?b", true),
            ("?", "b", true),
        ] {
            let served = serves(&spec, &goldens(has), &builds(workers));
            assert_eq!(served, expected, "{has} {workers}");
        }
    }

    proptest! {
        /// However workers come and go, and whatever fails: each build of theirs gets its golden snapshot, the others' go, and
        /// none goes that a worker could use.
        #[test]
        fn workers_that_come_and_go_find_theirs(
            rollouts in proptest::collection::vec(("[abc]{0,3}", 0..12usize), 1..6),
            fails in proptest::collection::vec(any::<bool>(), 40),
        ) {
            let spec = ActorTemplateSpec::default();
            let (mut has, mut now) = (vec![], Timestamp(1));
            let (mut progress, mut seen) = (Progress::default(), Observed::Absent);
            let mut fails = fails.into_iter();
            let last = rollouts.len() - 1;
            for (n, (workers, steps)) in rollouts.into_iter().enumerate() {
                let workers = builds(&workers);
                let mut left = if n == last { 400 } else { steps };
                loop {
                    let aimed = aim(&spec, &has, &workers);
                    prop_assert!(left > 0 || n < last, "it goes in circles: {has:?} {workers:?}");
                    if left == 0 || aimed == Aim::Rest {
                        break;
                    }
                    left -= 1;
                    let build = match aimed {
                        Aim::Rest => break,
                        Aim::Take(build) => build,
                        Aim::Drop(unused) => {
                            let by = runtimes::made_by(&unused);
                            prop_assert!(!workers.contains(&by));
                            prop_assert!(serves(&spec, &has, &workers));
                            has.retain(|g| *g != unused);
                            continue;
                        }
                    };
                    match plan(&spec, build, &progress, &seen, now) {
                        Step::CreateActor => seen = actor(Phase::Suspended),
                        Step::ResumeActor | Step::SuspendActor if fails.next() == Some(true) => {
                            progress = failed(&progress, now);
                        }
                        Step::ResumeActor => {
                            progress.take_at = None;
                            seen = actor(Phase::Running);
                        }
                        Step::Settle { until } => progress.take_at = Some(until),
                        Step::Wait { until } => now = until,
                        // It ran where there was room, which may be elsewhere than it was to.
                        Step::SuspendActor => seen = made(*workers.first().unwrap_or(&None)),
                        Step::RemoveActor => {
                            progress = failed(&progress, now);
                            // The next one is where it shall be.
                            seen = made(build);
                        }
                        Step::Ready => {
                            let by = seen.known().and_then(|a| a.status.durable.as_ref()?.runtime);
                            has.push(golden(by.or(build)));
                            (progress, seen) = (Progress::default(), Observed::Absent);
                        }
                    }
                }
                let by: Vec<_> = has.iter().map(runtimes::made_by).collect();
                let once: BTreeSet<_> = by.iter().collect();
                prop_assert_eq!(once.len(), by.len(), "twice: {:?}", by);
                if n == last && !workers.is_empty() {
                    prop_assert_eq!(by.into_iter().collect::<Builds>(), workers);
                }
            }
        }
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
                plan(&spec, None, &progress, &Observed::Absent, now),
                Step::Wait { until }
            );
            now = until;
            assert_eq!(
                plan(&spec, None, &progress, &Observed::Absent, now),
                Step::CreateActor
            );
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 120, 120, 120]);
    }
}
