//! From records to the objects that clients see, and back: one place for both doors.

use super::actor::{
    Actor, ActorIdle, ActorSpec, ActorStatus, SnapshotStatus, TemplateRef, Transition,
    TransitionStep, WorkerStatusRef,
};
use super::condition::{Status, condition};
use super::duration::{Duration, DurationError};
use super::names::{ActorKey, TemplateKey};
use super::reason::Reason;
use super::record::{
    ActorRecord, IdleRecord, JsonText, MetaRecord, OperatingMode, Phase, SnapshotKind, SpecRecord,
    StepRecord,
};
use super::selector::{Selector, SelectorError};
use super::time::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta};
use kube::Resource;
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;

/// The zone of actors' host names.
pub const ACTOR_ZONE: &str = "actors.resources.substrate.ate.dev";
/// After so many failures of one snapshot in a row the actor says CrashLoop.
pub const CRASH_LOOP_AFTER: u32 = 3;

/// Why the next wake could not begin, in one word and for a person.
pub type Obstacle = (Reason, String);

/// The object that clients see, to be written. Its managed fields go through as they are stored: of what lists carry
/// they are the largest part, and the dearest to take apart.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown<'a> {
    api_version: Cow<'static, str>,
    kind: Cow<'static, str>,
    metadata: ShownMeta<'a>,
    spec: ActorSpec,
    status: ActorStatus,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownMeta<'a> {
    #[serde(flatten)]
    rest: ObjectMeta,
    #[serde(skip_serializing_if = "<[JsonText]>::is_empty")]
    managed_fields: &'a [JsonText],
}

/// The object that clients see. `obstacle` is what the actor's template, as it is now, puts in the way of a wake.
pub fn actor<'a>(record: &'a ActorRecord, obstacle: Option<&Obstacle>) -> Shown<'a> {
    Shown {
        api_version: Actor::api_version(&()),
        kind: Actor::kind(&()),
        metadata: ShownMeta {
            rest: metadata(record),
            managed_fields: &record.meta.managed_fields,
        },
        spec: spec(record),
        status: status(record, obstacle),
    }
}

/// All but the managed fields.
fn metadata(record: &ActorRecord) -> ObjectMeta {
    let meta = &record.meta;
    let from_json = |values: &[Value]| {
        let typed = values
            .iter()
            .filter_map(|v| serde_json::from_value(v.clone()).ok());
        (!values.is_empty()).then(|| typed.collect())
    };
    ObjectMeta {
        name: Some(record.key.name.clone()),
        namespace: Some(record.key.namespace.clone()),
        generate_name: Some(meta.generate_name.clone()).filter(|n| !n.is_empty()),
        uid: Some(record.status.uid.to_string()),
        resource_version: Some(record.header.resource_version.to_string()),
        generation: Some(i64::from(record.spec.generation)),
        creation_timestamp: Some(record.status.created.to_time()),
        deletion_timestamp: record.spec.deleted.map(Timestamp::to_time),
        deletion_grace_period_seconds: record.spec.deleted.map(|_| 0),
        labels: (!meta.labels.is_empty()).then(|| meta.labels.clone()),
        annotations: (!meta.annotations.is_empty()).then(|| meta.annotations.clone()),
        finalizers: finalizers(record),
        owner_references: from_json(&meta.owner_references),
        ..ObjectMeta::default()
    }
}

/// While a sandbox or a node's copy may exist the actor cannot go: shown as a finalizer of ours.
pub const SANDBOX_FINALIZER: &str = "runtime.ate.dev/sandbox";

fn finalizers(record: &ActorRecord) -> Option<Vec<String>> {
    let mut all = record.meta.finalizers.clone();
    if record.spec.deleted.is_some() && is_held(record) {
        all.push(SANDBOX_FINALIZER.to_owned());
    }
    (!all.is_empty()).then_some(all)
}

/// Whether a node may hold something of it.
fn is_held(record: &ActorRecord) -> bool {
    let status = &record.status;
    record.header.phase != Phase::Suspended || status.assignment.is_some() || status.local.is_some()
}

/// What clients see of what is wanted of an actor.
pub fn spec(record: &ActorRecord) -> ActorSpec {
    let spec = &record.spec;
    let namespace =
        (spec.template.namespace != record.key.namespace).then(|| spec.template.namespace.clone());
    let print = |d: &std::time::Duration| Duration(*d).to_string();
    let idle = ActorIdle {
        suspend_after: spec.idle.suspend_after.as_ref().map(print),
        pause_after: spec.idle.pause_after.as_ref().map(print),
    };
    ActorSpec {
        template_ref: TemplateRef {
            name: spec.template.name.clone(),
            namespace,
        },
        operating_mode: spec.mode,
        worker_selector: spec.worker_selector.to_kubernetes(),
        from: None,
        idle: (idle != ActorIdle::default()).then_some(idle),
    }
}

fn status(record: &ActorRecord, obstacle: Option<&Obstacle>) -> ActorStatus {
    let s = &record.status;
    ActorStatus {
        observed_generation: Some(i64::from(record.spec.generation)),
        phase: record.header.phase.to_string(),
        conditions: conditions(record, obstacle),
        id: record.flat_id(),
        epoch: i64::try_from(record.header.epoch.0).unwrap_or(i64::MAX),
        address: host(record),
        worker: s.assignment.as_ref().map(|a| WorkerStatusRef {
            namespace: a.worker.namespace.clone(),
            name: a.worker.name.clone(),
            pool: a.pool.name.clone(),
            node: a.node.clone(),
            ip: a.ip.clone(),
        }),
        snapshot: snapshot(record),
        last_activity_time: (s.last_activity.0 > 0).then(|| s.last_activity.to_time()),
        last_transition: transition(record),
    }
}

/// The host name that requests for an actor are sent to.
pub fn host(record: &ActorRecord) -> String {
    if record.status.flat {
        format!("{}.{ACTOR_ZONE}", record.key.name)
    } else {
        format!("{}.{}.{ACTOR_ZONE}", record.key.name, record.key.namespace)
    }
}

fn snapshot(record: &ActorRecord) -> Option<SnapshotStatus> {
    let (snapshot, kind, nodes) = match (&record.status.local, &record.status.durable) {
        (Some(local), _) => (
            &local.snapshot,
            SnapshotKind::Local,
            vec![local.node.clone()],
        ),
        (None, Some(durable)) => (durable, SnapshotKind::Durable, vec![]),
        (None, None) => return None,
    };
    Some(SnapshotStatus {
        id: record.snapshot_id(snapshot).to_string(),
        kind: format!("{kind:?}"),
        uri: String::new(),
        bytes: i64::try_from(snapshot.bytes).unwrap_or(i64::MAX),
        time: Some(snapshot.time.to_time()),
        nodes,
    })
}

fn transition(record: &ActorRecord) -> Option<Transition> {
    let s = &record.status;
    if s.last_transition.0 == 0 || record.header.phase.is_transitional() {
        return None;
    }
    let took = std::time::Duration::from_micros(s.last_duration_micros);
    let end = jiff::Timestamp::from_millisecond(i64::try_from(s.last_transition.0).ok()?).ok()?;
    let start = end
        .checked_sub(jiff::SignedDuration::try_from(took).ok()?)
        .ok()?;
    Some(Transition {
        to: record.header.phase.to_string(),
        start: MicroTime(start),
        duration: Duration(took).to_string(),
        steps: s.last_steps.iter().map(step).collect(),
    })
}

fn step(step: &StepRecord) -> TransitionStep {
    let took = std::time::Duration::from_micros(u64::from(step.tenths) * 100);
    TransitionStep {
        name: step.work.to_string(),
        duration: Duration(took).to_string(),
    }
}

fn conditions(record: &ActorRecord, obstacle: Option<&Obstacle>) -> Vec<Condition> {
    let s = &record.status;
    let generation = i64::from(record.spec.generation);
    let since = if s.last_transition.0 > 0 {
        s.last_transition
    } else {
        s.created
    };
    let mut all = vec![
        ready(record, obstacle, generation, since),
        awake(record, generation, since),
    ];
    if let Some(r) = &s.rolled_back {
        let to = r.to.map_or_else(
            || "its start".to_owned(),
            |t| format!("its snapshot of {t}"),
        );
        let why = match r.message.is_empty() {
            true => format!(" ({})", r.reason),
            false => format!(": {}", r.message),
        };
        let message = format!("what it did after {to} is lost{why}");
        all.push(condition(
            "RolledBack",
            true,
            r.reason,
            message,
            generation,
            r.time,
        ));
    }
    if let Some(f) = s
        .failure
        .as_ref()
        .filter(|f| f.count >= CRASH_LOOP_AFTER)
        .filter(|f| !f.reason.is_transient() && !f.reason.is_of_template())
        .filter(|f| !f.reason.is_of_workers())
    {
        let message = format!(
            "{} attempts failed: {}. Roll back or boot from the image: kubectl ate boot {}",
            f.count, f.message, record.key.name
        );
        all.push(condition(
            "CrashLoop",
            true,
            f.reason,
            message,
            generation,
            f.time,
        ));
    }
    all
}

fn ready(
    record: &ActorRecord,
    obstacle: Option<&Obstacle>,
    generation: i64,
    since: Timestamp,
) -> Condition {
    let of = |status: Status, reason: &str, message: String, at| {
        condition("Ready", status, reason, message, generation, at)
    };
    if record.spec.deleted.is_some() {
        return of(
            Status::False,
            "Deleting",
            "the actor is being deleted".into(),
            since,
        );
    }
    if record.spec.mode == OperatingMode::Suspended {
        return of(
            Status::False,
            "OperatingModeSuspended",
            "spec.operatingMode says that it does not wake".into(),
            since,
        );
    }
    let asleep = matches!(record.header.phase, Phase::Suspended | Phase::Paused);
    if let Some((reason, message)) = obstacle.filter(|_| asleep) {
        return of(Status::False, &reason.to_string(), message.clone(), since);
    }
    // What was in a template's way at the last wake may not be any more.
    let failure = record.status.failure.as_ref();
    match (
        failure.filter(|f| !f.reason.is_of_template()),
        record.header.phase,
    ) {
        (Some(f), phase) if f.reason != Reason::NoFreeWorkers && phase != Phase::Running => of(
            Status::False,
            &f.reason.to_string(),
            f.message.clone(),
            f.time,
        ),
        (_, Phase::Running) => of(Status::True, "Running", "requests are served".into(), since),
        (_, Phase::Suspended | Phase::Paused) => of(
            Status::True,
            "Asleep",
            "the next request wakes it".into(),
            since,
        ),
        (_, Phase::Resuming | Phase::Suspending | Phase::Pausing) => of(
            Status::True,
            &record.header.phase.to_string(),
            "requests wait for the transition".into(),
            since,
        ),
    }
}

fn awake(record: &ActorRecord, generation: i64, since: Timestamp) -> Condition {
    let (phase, s) = (record.header.phase, &record.status);
    let of = |holds: bool, reason: String, message| {
        condition("Awake", holds, reason, message, generation, since)
    };
    match (&s.assignment, phase, &s.failure) {
        // Of what runs only an attempt to save it can have failed.
        (Some(a), Phase::Running, Some(f)) => of(
            true,
            f.reason.to_string(),
            format!(
                "runs on worker {}, for it could not be saved: {}",
                a.worker, f.message
            ),
        ),
        (Some(a), Phase::Running, None) => of(
            true,
            phase.to_string(),
            format!("runs on worker {}", a.worker),
        ),
        (_, _, _) => of(false, phase.to_string(), format!("is {phase}")),
    }
}

/// A spec that a record cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A selector that does not fit.
    #[error("spec.workerSelector.{0}")]
    Selector(#[from] SelectorError),
    /// A duration that does not parse.
    #[error("{field}: {why}")]
    Duration {
        /// The field's path.
        field: &'static str,
        /// What is wrong with it.
        why: DurationError,
    },
}

/// The record's form of a validated spec. `generation` and `deleted` are the caller's to carry over.
pub fn spec_record(key: &ActorKey, spec: &ActorSpec) -> Result<SpecRecord, SpecError> {
    let template = &spec.template_ref;
    let namespace = template
        .namespace
        .clone()
        .unwrap_or_else(|| key.namespace.clone());
    let duration = |field, text: Option<&String>| match text {
        None => Ok(None),
        Some(text) => text
            .parse::<Duration>()
            .map(|d| Some(d.0))
            .map_err(|why| SpecError::Duration { field, why }),
    };
    let idle = spec.idle.clone().unwrap_or_default();
    Ok(SpecRecord {
        template: TemplateKey::new(namespace, &template.name),
        mode: spec.operating_mode,
        worker_selector: spec
            .worker_selector
            .as_ref()
            .map(Selector::try_from)
            .transpose()?
            .unwrap_or_default(),
        idle: IdleRecord {
            suspend_after: duration("spec.idle.suspendAfter", idle.suspend_after.as_ref())?,
            pause_after: duration("spec.idle.pauseAfter", idle.pause_after.as_ref())?,
        },
        generation: 1,
        deleted: None,
    })
}

/// The record's form of what users may write of an object's metadata.
pub fn meta_record(meta: &ObjectMeta) -> MetaRecord {
    MetaRecord {
        generate_name: meta.generate_name.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        annotations: meta.annotations.clone().unwrap_or_default(),
        finalizers: meta
            .finalizers
            .iter()
            .flatten()
            .filter(|f| *f != SANDBOX_FINALIZER)
            .cloned()
            .collect(),
        owner_references: meta
            .owner_references
            .iter()
            .flatten()
            .map(to_json)
            .collect(),
        managed_fields: meta
            .managed_fields
            .iter()
            .flatten()
            .map(JsonText::of)
            .collect(),
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::record::Failure;

    fn ready_of(record: &ActorRecord, obstacle: Option<&Obstacle>) -> (String, String) {
        let all = conditions(record, obstacle);
        let found = all.iter().find(|c| c.type_ == "Ready").unwrap();
        (found.status.clone(), found.reason.clone())
    }

    #[test]
    fn ready_says_what_the_next_request_would_meet() {
        let of = |phase, failed: Option<Reason>| {
            let mut record = ActorRecord::default();
            record.header.phase = phase;
            record.status.failure = failed.map(|reason| Failure {
                reason,
                message: "why".into(),
                count: CRASH_LOOP_AFTER,
                time: Timestamp(1),
                retry_at: Timestamp(1),
            });
            record
        };
        let missing = (Reason::TemplateNotFound, "no such template".to_owned());
        use Phase::*;
        for (phase, failed, obstacle, status, reason) in [
            (Suspended, None, None, "True", "Asleep"),
            (Suspended, None, Some(&missing), "False", "TemplateNotFound"),
            (Paused, None, Some(&missing), "False", "TemplateNotFound"),
            (Running, None, Some(&missing), "True", "Running"),
            (Resuming, None, Some(&missing), "True", "Resuming"),
            (
                Suspended,
                Some(Reason::TemplateNotReady),
                None,
                "True",
                "Asleep",
            ),
            (
                Suspended,
                Some(Reason::BootFailed),
                None,
                "False",
                "BootFailed",
            ),
        ] {
            let record = of(phase, failed);
            let (is, why) = ready_of(&record, obstacle);
            assert_eq!((is.as_str(), why.as_str()), (status, reason), "{phase}");
        }
        let looping = |reason| {
            conditions(&of(Suspended, Some(reason)), None)
                .iter()
                .any(|c| c.type_ == "CrashLoop")
        };
        assert!(looping(Reason::BootFailed));
        assert!(!looping(Reason::TemplateNotFound), "nothing crashed");
    }
}
