//! What came of an order, judged from the actor before it and the actor now. No I/O, no clock.
//!
//! An actor is read tolerantly (absent fields are empty, unknown ones ignored): a plugin on somebody's laptop meets
//! servers of other versions.

use std::time::Duration;

use crate::api::Reason;
use serde::Deserialize;

/// What one can order an actor to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Resume,
    /// A resume from the image.
    Boot,
    Suspend,
    Pause,
}

impl Order {
    /// The actor's subresource to post to.
    pub(super) fn subresource(self) -> &'static str {
        match self {
            Order::Resume => "resume",
            Order::Boot => "resume?boot=true",
            Order::Suspend => "suspend",
            Order::Pause => "pause",
        }
    }

    /// The word for what is asked for.
    pub(super) fn asked(self) -> &'static str {
        match self {
            Order::Resume => "resume",
            Order::Boot => "boot",
            Order::Suspend => "suspend",
            Order::Pause => "pause",
        }
    }

    /// The word for having done it.
    pub(super) fn done(self) -> &'static str {
        match self {
            Order::Resume => "resumed",
            Order::Boot => "booted",
            Order::Suspend => "suspended",
            Order::Pause => "paused",
        }
    }

    /// Whether it is to keep what the actor did.
    fn saves(self) -> bool {
        match self {
            Order::Suspend | Order::Pause => true,
            Order::Resume | Order::Boot => false,
        }
    }

    /// The phase it leads through, and the one it ends in.
    fn phases(self) -> (&'static str, &'static str) {
        match self {
            Order::Resume | Order::Boot => ("Resuming", "Running"),
            Order::Suspend => ("Suspending", "Suspended"),
            Order::Pause => ("Pausing", "Paused"),
        }
    }
}

/// As much of an Actor as a judgement needs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Actor {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
    last_transition: Option<Transition>,
}

/// A condition; equal only when its time is too, so that a problem that came back differs from the old one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Transition {
    to: String,
    start: String,
    duration: serde_json::Value,
}

/// The judgement.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It was so before anybody asked.
    Already,
    /// It happened, and the server says how long it took, if it does.
    Done(Option<Duration>),
    /// It will not happen by waiting.
    Failed(String),
    /// The actor has a problem, but had the same one before the order: maybe not looked at again yet.
    Doubtful(String),
    /// On its way, or about to be.
    Pending,
}

/// What came of `order`, given to an actor that was `before` and is `now`.
pub(super) fn judge(order: Order, before: &Actor, now: &Actor) -> Verdict {
    if !before.metadata.uid.is_empty() && before.metadata.uid != now.metadata.uid {
        return Verdict::Failed(
            "it was deleted, and another one of this name created, meanwhile".to_owned(),
        );
    }
    let (way, end) = order.phases();
    if let Some(loss) = now
        .loss()
        .filter(|l| order.saves() && before.loss() != Some(*l))
    {
        return Verdict::Failed(loss.told());
    }
    let latest = now
        .status
        .last_transition
        .as_ref()
        .filter(|last| last.to == end);
    let fresh = latest.filter(|last| before.status.last_transition.as_ref() != Some(last));
    if let Some(transition) = fresh {
        // Counts even if the phase has moved on: a request may wake an actor right after its suspend.
        return Verdict::Done(transition.took());
    }
    if now.status.phase == end {
        return if before.status.phase == end {
            Verdict::Already
        } else {
            Verdict::Done(None)
        };
    }
    match now.problem() {
        Some(_) if now.status.phase == way => Verdict::Pending,
        Some(problem) if before.problem() == Some(problem) => Verdict::Doubtful(problem.told()),
        Some(problem) => Verdict::Failed(problem.told()),
        None if now.rests_since(before) => match now.setback() {
            Some(why) => Verdict::Failed(why.told()),
            None => Verdict::Pending,
        },
        None => Verdict::Pending,
    }
}

impl Actor {
    /// The phase, for a person.
    pub(super) fn phase(&self) -> &str {
        if self.status.phase.is_empty() {
            "of unknown phase"
        } else {
            &self.status.phase
        }
    }

    /// The phase, and what the actor itself says about why it is not ready.
    pub(super) fn state(&self) -> String {
        let hindrance = self.problem().or_else(|| self.condition("Ready", "False"));
        match hindrance {
            Some(condition) => format!("{} ({})", self.phase(), condition.told()),
            None => self.phase().to_owned(),
        }
    }

    /// What keeps the actor from getting anywhere by itself.
    fn problem(&self) -> Option<&Condition> {
        self.condition("Stalled", "True")
            .or_else(|| self.condition("CrashLoop", "True"))
            .or_else(|| {
                let hindrance = self.condition("Ready", "False");
                // No worker can take it: somebody has to bring one that can, or to boot it.
                hindrance.filter(|ready| ready.is(Reason::is_of_workers))
            })
    }

    /// Whether a transition has ended since it was `before`.
    fn rests_since(&self, before: &Actor) -> bool {
        let last = self.status.last_transition.as_ref();
        last != before.status.last_transition.as_ref()
            && last.is_some_and(|last| last.to == self.status.phase)
    }

    /// Why an attempt failed. Where workers are missing, others may make room for a next one.
    fn setback(&self) -> Option<&Condition> {
        let goes_on = self.condition("Awake", "True");
        let goes_on = goes_on.filter(|awake| awake.reason != self.status.phase);
        let why = self.condition("Ready", "False").or(goes_on);
        why.filter(|why| !why.is(|reason| reason == Reason::NoFreeWorkers))
    }

    /// What it did last was lost.
    fn loss(&self) -> Option<&Condition> {
        self.condition("RolledBack", "True")
    }

    fn condition(&self, r#type: &str, status: &str) -> Option<&Condition> {
        self.status
            .conditions
            .iter()
            .find(|condition| condition.r#type == r#type && condition.status == status)
    }
}

impl Condition {
    /// Whether its reason is one that we know, and `those` say yes to.
    fn is(&self, those: impl Fn(Reason) -> bool) -> bool {
        self.reason.parse().is_ok_and(those)
    }

    fn told(&self) -> String {
        let reason = if self.reason.is_empty() {
            &self.r#type
        } else {
            &self.reason
        };
        if self.message.is_empty() {
            reason.clone()
        } else {
            format!("{reason}: {}", self.message)
        }
    }
}

impl Transition {
    /// The duration, written as a duration (`83ms`, `PT0.083S`) or as a number of seconds.
    fn took(&self) -> Option<Duration> {
        match &self.duration {
            serde_json::Value::String(text) => {
                let parsed: jiff::SignedDuration = text.parse().ok()?;
                Duration::try_from(parsed).ok()
            }
            value => Duration::try_from_secs_f64(value.as_f64()?).ok(),
        }
    }
}

/// A duration for a person, in seconds: `0.083s`, `1.20s`, `12.3s`, `60s`.
pub(super) fn seconds(duration: Duration) -> String {
    let value = duration.as_secs_f64();
    let digits = match value {
        value if value >= 60.0 || duration.subsec_nanos() == 0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.digits$}s")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn actor(phase: &str, more: serde_json::Value) -> Actor {
        let mut object =
            json!({"metadata": {"name": "a", "uid": "u1"}, "status": {"phase": phase}});
        json_patch::merge(&mut object["status"], &more);
        serde_json::from_value(object).unwrap()
    }

    fn crash_loop(phase: &str, time: &str) -> Actor {
        let condition = json!({"type": "CrashLoop", "status": "True", "reason": "RestoreFailed",
            "message": "3 restores failed; roll back or boot", "lastTransitionTime": time});
        actor(phase, json!({"conditions": [condition]}))
    }

    #[test]
    fn phases_decide() {
        let at = |phase| actor(phase, json!({}));
        let orders = [
            (Order::Resume, "Running"),
            (Order::Suspend, "Suspended"),
            (Order::Pause, "Paused"),
        ];
        for (order, end) in orders {
            assert_eq!(judge(order, &at(end), &at(end)), Verdict::Already);
            for phase in [
                "Suspended",
                "Resuming",
                "Running",
                "Pausing",
                "Paused",
                "Suspending",
                "",
            ] {
                let expected = if phase == end {
                    Verdict::Done(None)
                } else {
                    Verdict::Pending
                };
                assert_eq!(
                    judge(order, &at("Elsewhere"), &at(phase)),
                    expected,
                    "{order:?} {phase}"
                );
            }
        }
    }

    #[test]
    fn a_new_transition_counts_even_when_the_phase_moved_on() {
        let last =
            |to, start| json!({"lastTransition": {"to": to, "start": start, "duration": "83ms"}});
        let before = actor("Running", last("Suspended", "t1"));
        let woken_again = actor("Resuming", last("Suspended", "t2"));
        assert_eq!(judge(Order::Suspend, &before, &before), Verdict::Pending);
        assert_eq!(
            judge(Order::Suspend, &before, &woken_again),
            Verdict::Done(Some(Duration::from_millis(83)))
        );
    }

    #[test]
    fn a_new_problem_fails_an_old_one_is_doubted() {
        let before = crash_loop("Suspended", "t1");
        let told = "RestoreFailed: 3 restores failed; roll back or boot".to_owned();
        let healthy = actor("Suspended", json!({}));
        assert_eq!(
            judge(Order::Resume, &healthy, &before),
            Verdict::Failed(told.clone())
        );
        assert_eq!(
            judge(Order::Resume, &before, &before),
            Verdict::Doubtful(told.clone())
        );
        assert_eq!(
            judge(Order::Resume, &before, &crash_loop("Resuming", "t1")),
            Verdict::Pending
        );
        assert_eq!(
            judge(Order::Resume, &before, &crash_loop("Suspended", "t2")),
            Verdict::Failed(told)
        );
    }

    #[test]
    fn an_attempt_that_failed_is_not_waited_for() {
        let at = |phase, start, kind, status, reason| {
            let condition =
                json!({"type": kind, "status": status, "reason": reason, "message": "why"});
            let last = json!({"to": phase, "start": start, "duration": "83ms"});
            actor(
                phase,
                json!({"lastTransition": last, "conditions": [condition]}),
            )
        };
        let asleep = at("Suspended", "t1", "Ready", "True", "Asleep");
        let awake = at("Running", "t1", "Awake", "True", "Running");
        for (order, before, now, failed) in [
            (
                Order::Resume,
                &asleep,
                at("Suspended", "t2", "Ready", "False", "RestoreFailed"),
                true,
            ),
            (
                Order::Resume,
                &asleep,
                at("Suspended", "t1", "Ready", "False", "RestoreFailed"),
                false,
            ),
            (
                Order::Resume,
                &asleep,
                at("Suspended", "t2", "Ready", "False", "NoFreeWorkers"),
                false,
            ),
            (
                Order::Suspend,
                &awake,
                at("Running", "t2", "Awake", "True", "CheckpointFailed"),
                true,
            ),
            (
                Order::Suspend,
                &awake,
                at("Running", "t2", "Awake", "True", "Running"),
                false,
            ),
            (
                Order::Suspend,
                &awake,
                at("Suspended", "t2", "RolledBack", "True", "SandboxLost"),
                true,
            ),
            (
                Order::Resume,
                &asleep,
                at("Resuming", "t1", "RolledBack", "True", "SandboxLost"),
                false,
            ),
        ] {
            let verdict = judge(order, before, &now);
            let is = matches!(&verdict, Verdict::Failed(why) if why.ends_with(": why"));
            assert_eq!(is, failed, "{now:?}: {verdict:?}");
        }
    }

    #[test]
    fn another_actor_of_the_same_name_is_not_this_one() {
        let before = actor("Suspended", json!({}));
        let mut now = actor("Running", json!({}));
        now.metadata.uid = "u2".to_owned();
        assert!(matches!(
            judge(Order::Resume, &before, &now),
            Verdict::Failed(_)
        ));
    }

    #[test]
    fn a_state_tells_what_hinders() {
        let ready = json!({"type": "Ready", "status": "False", "reason": "NoFreeWorkers", "message": "no free workers available"});
        let waiting = actor("Resuming", json!({"conditions": [ready]}));
        assert_eq!(
            waiting.state(),
            "Resuming (NoFreeWorkers: no free workers available)"
        );
        assert_eq!(
            actor(
                "Running",
                json!({"conditions": [{"type": "Ready", "status": "True"}]})
            )
            .state(),
            "Running"
        );
        assert_eq!(actor("", json!({})).state(), "of unknown phase");
    }

    #[test]
    fn durations_are_read_in_each_form_and_told_in_seconds() {
        for (value, millis) in [
            (json!("83ms"), 83),
            (json!("PT1.5S"), 1500),
            (json!(0.25), 250),
            (json!("0.2s"), 200),
        ] {
            let transition = Transition {
                duration: value.clone(),
                ..Default::default()
            };
            assert_eq!(
                transition.took(),
                Some(Duration::from_millis(millis)),
                "{value}"
            );
        }
        for value in [
            json!(null),
            json!(-1),
            json!("soon"),
            json!("-3s"),
            json!(1e300),
        ] {
            assert_eq!(
                Transition {
                    duration: value.clone(),
                    ..Default::default()
                }
                .took(),
                None,
                "{value}"
            );
        }
        for (millis, text) in [
            (83, "0.083s"),
            (154, "0.15s"),
            (1200, "1.20s"),
            (12_340, "12.3s"),
            (60_000, "60s"),
            (90_500, "90s"),
        ] {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
    }
}
