//! `runtime.ate.dev/v1alpha1 Worker`, read-only.

use super::{age, text};
use crate::api::worker::Worker;
use crate::apiserver::registration::{
    READ_VERBS, Registration, RegistrationError, Rules, Selectable, StatusSupport,
};
use crate::apiserver::storage::WorkerStorage;
use crate::apiserver::table::Column;
use crate::store::Store;
use std::sync::Arc;

/// Fields that selectors may use beside name and namespace.
const SELECTABLE: [Selectable; 4] = [
    Selectable {
        label: "status.phase",
        pointer: "/status/phase",
    },
    Selectable {
        label: "status.pool",
        pointer: "/status/pool",
    },
    Selectable {
        label: "status.node",
        pointer: "/status/node",
    },
    Selectable {
        label: "status.actor",
        pointer: "/status/actor",
    },
];

/// Workers, as the store's records.
pub fn worker(store: Arc<dyn Store>) -> Result<Registration, RegistrationError> {
    let rules = Rules {
        normalize: |_| {},
        validate: |_, _| vec![],
    };
    let mut worker = Registration::of::<Worker>(Arc::new(WorkerStorage::new(store)), rules)?;
    worker.verbs = READ_VERBS;
    worker.status = StatusSupport::None;
    worker.selectable.extend(SELECTABLE);
    let of = Column::text;
    worker.columns = vec![
        of("Pool", "Its pool.", false, |o, _| text(o, "/status/pool")),
        of("Phase", "Where it is.", false, |o, _| {
            text(o, "/status/phase")
        }),
        of("Actor", "Who holds it.", false, |o, _| {
            text(o, "/status/actor")
        }),
        of("Node", "Its node.", false, |o, _| text(o, "/status/node")),
        of("Age", "How long ago it was first reported.", false, age),
        of("IP", "Its address.", true, |o, _| text(o, "/status/ip")),
        of("Class", "What kind of sandbox it runs.", true, |o, _| {
            text(o, "/status/sandboxClass")
        }),
    ];
    Ok(worker)
}
