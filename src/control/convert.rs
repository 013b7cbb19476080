//! Between records and the messages of existing clients.

use crate::api::record::{ActorRecord, Phase, WorkerRecord};
use crate::api::worker::pod_uid;
use crate::proto::ateapi as wire;
use crate::proto::ateapi::actor::Status;

/// The message for an actor; `prefix` is where its snapshots lie.
pub(super) fn actor(record: &ActorRecord, prefix: &str) -> wire::Actor {
    let s = &record.status;
    let assignment = s.assignment.clone();
    let of = |f: fn(&crate::api::record::Assignment) -> String| {
        assignment.as_ref().map(f).unwrap_or_default()
    };
    let in_progress = match record.header.phase {
        Phase::Suspending | Phase::Pausing => record.snapshot_in_progress().to_string(),
        Phase::Suspended | Phase::Resuming | Phase::Running | Phase::Paused => String::new(),
    };
    wire::Actor {
        actor_id: record.flat_id(),
        version: i64::try_from(record.header.writes).unwrap_or(i64::MAX),
        actor_template_namespace: record.spec.template.namespace.clone(),
        actor_template_name: record.spec.template.name.clone(),
        status: status(record.header.phase) as i32,
        ateom_pod_namespace: of(|a| a.worker.namespace.clone()),
        ateom_pod_name: of(|a| a.worker.name.clone()),
        ateom_pod_ip: of(|a| a.ip.clone()),
        in_progress_snapshot: in_progress,
        ateom_pod_uid: of(|a| pod_uid(&a.uid).to_owned()),
        latest_snapshot_info: snapshot(record, prefix),
        worker_selector: (!record.spec.worker_selector.labels.is_empty()).then(|| wire::Selector {
            match_labels: record
                .spec
                .worker_selector
                .labels
                .clone()
                .into_iter()
                .collect(),
        }),
        worker_pool_name: of(|a| a.pool.name.clone()),
    }
}

fn status(phase: Phase) -> Status {
    match phase {
        Phase::Suspended => Status::Suspended,
        Phase::Resuming => Status::Resuming,
        Phase::Running => Status::Running,
        Phase::Suspending => Status::Suspending,
        Phase::Pausing => Status::Pausing,
        Phase::Paused => Status::Paused,
    }
}

fn snapshot(record: &ActorRecord, prefix: &str) -> Option<wire::SnapshotInfo> {
    use wire::snapshot_info::Data;
    let uri = |snapshot| format!("{prefix}/{}", record.snapshot_id(snapshot));
    if let Some(local) = &record.status.local {
        return Some(wire::SnapshotInfo {
            r#type: wire::SnapshotType::Local as i32,
            data: Some(Data::Local(wire::LocalSnapshotInfo {
                snapshot_prefix: uri(&local.snapshot),
                node_vms_with_local_snapshots: vec![local.node.clone()],
            })),
        });
    }
    let durable = record.status.durable.as_ref()?;
    Some(wire::SnapshotInfo {
        r#type: wire::SnapshotType::External as i32,
        data: Some(Data::External(wire::ExternalSnapshotInfo {
            snapshot_uri_prefix: uri(durable),
        })),
    })
}

/// The message for a worker. What its actor is called and made of is given where it is known.
pub(super) fn worker(record: &WorkerRecord, actor: Option<&ActorRecord>) -> wire::Worker {
    let claim = record.claim.as_ref();
    let template = actor.map(|a| &a.spec.template);
    wire::Worker {
        worker_namespace: record.key.namespace.clone(),
        worker_pool: record.pool.name.clone(),
        worker_pod: record.key.name.clone(),
        actor_namespace: template.map(|t| t.namespace.clone()).unwrap_or_default(),
        actor_template: template.map(|t| t.name.clone()).unwrap_or_default(),
        actor_id: actor
            .map(ActorRecord::flat_id)
            .or(claim.map(|c| c.actor.name.clone()))
            .unwrap_or_default(),
        ip: record.ip.clone(),
        version: i64::try_from(record.writes).unwrap_or(i64::MAX),
        worker_pod_uid: pod_uid(&record.uid).to_owned(),
        node_name: record.node.clone(),
    }
}
