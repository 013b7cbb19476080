//! `runtime.ate.dev/v1alpha1 Actor`.

use super::{age, condition, text, typed, violation};
use crate::api::actor::{Actor, ActorSpec};
use crate::api::names::ActorKey;
use crate::api::record::ActorRecord;
use crate::api::time::Timestamp;
use crate::api::validate::{self, Violation};
use crate::api::view;
use crate::apiserver::connect::{Connect, Logs, Motion, Move};
use crate::apiserver::driver::ActorDriver;
use crate::apiserver::meta;
use crate::apiserver::registration::{
    Registration, RegistrationError, Rules, Selectable, StatusSupport,
};
use crate::apiserver::storage::ActorStorage;
use crate::apiserver::storage::actor::Look;
use crate::apiserver::table::{self, Column};
use crate::kube::{ActorCaps, Catalog};
use crate::store::Store;
use serde_json::Value;
use std::sync::Arc;

/// Fields that selectors may use beside name and namespace.
const SELECTABLE: [Selectable; 4] = [
    Selectable {
        label: "status.phase",
        pointer: "/status/phase",
    },
    Selectable {
        label: "spec.templateRef.name",
        pointer: "/spec/templateRef/name",
    },
    Selectable {
        label: "status.worker.name",
        pointer: "/status/worker/name",
    },
    Selectable {
        label: "status.worker.node",
        pointer: "/status/worker/node",
    },
];

/// Actors, as the store's records. `caps` bound the actors of namespaces.
pub fn actor(
    store: Arc<dyn Store>,
    driver: Arc<dyn ActorDriver>,
    catalog: Arc<dyn Catalog>,
    caps: ActorCaps,
) -> Result<Registration, RegistrationError> {
    let look = Look(catalog);
    let storage = Arc::new(ActorStorage::new(store, driver.clone(), look.clone(), caps));
    let mut actor = Registration::of::<Actor>(
        storage,
        Rules {
            normalize,
            validate: check,
        },
    )?;
    let motion = |motion| {
        Arc::new(Move {
            driver: driver.clone(),
            look: look.clone(),
            motion,
        }) as Arc<dyn Connect>
    };
    actor.connects = vec![
        ("resume", motion(Motion::Resume)),
        ("suspend", motion(Motion::Suspend)),
        ("pause", motion(Motion::Pause)),
        ("log", Arc::new(Logs { driver })),
    ];
    actor.status = StatusSupport::Read;
    actor.selectable.extend(SELECTABLE);
    actor.columns = columns();
    Ok(actor)
}

fn columns() -> Vec<Column> {
    let of = Column::text;
    vec![
        of("Template", "What it is made of.", false, template),
        of("Phase", "Where it is.", false, |o, _| {
            text(o, "/status/phase")
        }),
        of(
            "Ready",
            "Whether a request would be served.",
            false,
            |o, _| condition(o, "Ready"),
        ),
        of("Worker", "Where it runs.", false, |o, _| {
            text(o, "/status/worker/name")
        }),
        of("Age", "How long ago it was created.", false, age),
        of("Mode", "What wakes it.", true, |o, _| {
            text(o, "/spec/operatingMode")
        }),
        of("Node", "Its worker's node.", true, |o, _| {
            text(o, "/status/worker/node")
        }),
        of("IP", "Its worker's address.", true, |o, _| {
            text(o, "/status/worker/ip")
        }),
        of("Snapshot", "Kind of what it resumes from.", true, |o, _| {
            text(o, "/status/snapshot/kind")
        }),
        of("Size", "Bytes of that, as stored.", true, size),
        of(
            "Last-Active",
            "How long ago it was last used.",
            true,
            last_active,
        ),
        of("Epoch", "Counts its operations.", true, |o, _| {
            o.pointer("/status/epoch")
                .map(ToString::to_string)
                .unwrap_or_default()
        }),
    ]
}

fn template(object: &Value, _: Timestamp) -> String {
    let name = text(object, "/spec/templateRef/name");
    match object
        .pointer("/spec/templateRef/namespace")
        .and_then(Value::as_str)
    {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    }
}

fn size(object: &Value, _: Timestamp) -> String {
    let bytes = object
        .pointer("/status/snapshot/bytes")
        .and_then(Value::as_u64);
    bytes.map_or_else(|| "<none>".to_owned(), super::bytes)
}

fn last_active(object: &Value, now: Timestamp) -> String {
    match object
        .pointer("/status/lastActivityTime")
        .and_then(Value::as_str)
    {
        Some(time) => table::age(time, now),
        None => "<none>".to_owned(),
    }
}

/// As the record shows it: so that what is said twice, or by default, is no change.
fn normalize(object: &mut Value) {
    let key = ActorKey::new(meta::text(object, "namespace"), meta::text(object, "name"));
    let Ok(spec) = typed::<ActorSpec>(object, "spec") else {
        return;
    };
    // What a record does not hold is refused by `check`, which has to see it.
    if spec.from.is_some() {
        return;
    }
    let Ok(spec) = view::spec_record(&key, &spec) else {
        return;
    };
    let record = ActorRecord {
        key,
        spec,
        ..ActorRecord::default()
    };
    if let Ok(spec) = serde_json::to_value(view::spec(&record)) {
        object["spec"] = spec;
    }
}

fn check(object: &Value, old: Option<&Value>) -> Vec<Violation> {
    let spec: ActorSpec = match typed(object, "spec") {
        Ok(spec) => spec,
        Err(violations) => return violations,
    };
    let (name, namespace) = (meta::text(object, "name"), meta::text(object, "namespace"));
    let mut out = validate::object(name, namespace, &spec);
    if let Some(old) = old {
        let moved = object.pointer("/spec/templateRef") != old.pointer("/spec/templateRef");
        let phase = text(old, "/status/phase");
        if moved && phase != "Suspended" {
            let message = format!(
                "may change only while the actor is Suspended; it is {phase}: suspend it first"
            );
            out.push(violation::in_words("spec.templateRef", message));
        }
    }
    out
}
