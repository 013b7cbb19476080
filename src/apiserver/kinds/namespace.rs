//! `v1 Namespace` of `ate dev`: made up, so that clients which look for namespaces find them.

use super::{age, text};
use crate::apiserver::apply::Type;
use crate::apiserver::fanout::Fanout;
use crate::apiserver::registration::{NAME, Registration, RegistrationError, Rules, StatusSupport};
use crate::apiserver::schema::Schema;
use crate::apiserver::storage::{NamespaceStorage, Storage};
use crate::apiserver::table::Column;
use serde_json::json;
use std::sync::Arc;

/// Namespaces of the objects of these kinds.
pub fn namespaces(kinds: Vec<Arc<dyn Storage>>) -> Result<Registration, RegistrationError> {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let published = json!({
        "type": "object", "properties": {"spec": any, "status": any},
        "description": "Namespace keeps names of different teams apart. Every name is one.",
    });
    let storage: Arc<dyn Storage> = Arc::new(NamespaceStorage::new(kinds));
    Ok(Registration {
        group: String::new(),
        version: "v1".into(),
        kind: "Namespace".into(),
        plural: "namespaces".into(),
        singular: "namespace".into(),
        short_names: vec!["ns".into()],
        categories: vec![],
        namespaced: false,
        verbs: &["get", "list"],
        watch_hidden: false,
        collected: false,
        columns: vec![
            Column::text("Status", "Where it is.", false, |o, _| {
                text(o, "/status/phase")
            }),
            Column::text("Age", "How long ago it was created.", false, age),
        ],
        selectable: vec![NAME],
        schema: Schema::compile(&published)?,
        fields: Type::of_kind(&published),
        published,
        status: StatusSupport::None,
        scale: None,
        connects: vec![],
        rules: Rules {
            normalize: |_| {},
            validate: |_, _| vec![],
        },
        fanout: Fanout::new(storage.clone()),
        storage,
    })
}
