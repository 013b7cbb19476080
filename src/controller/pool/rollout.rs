//! What Kubernetes says of a pool's Deployment, in the few words that its conditions need.

use k8s_openapi::api::apps::v1::Deployment;

/// What became of a pool's Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pods {
    /// Node agents make the workers: there is none.
    None,
    /// It cannot be made as the pool is: a reason, and what to do.
    Refused(&'static str, String),
    /// It is there.
    Rollout(Rollout),
}

/// A Deployment on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rollout {
    /// Pods that there are.
    pub(super) replicas: i32,
    /// Pods are as the pool says: not more and not fewer, none of an older template.
    pub(super) complete: bool,
    /// It does not get on, by itself: a reason and a message.
    pub(super) stuck: Option<(String, String)>,
    /// What the pool names and its workers do not run.
    pub(super) instead_of: Option<String>,
}

impl Rollout {
    /// Reads a Deployment (`kubectl rollout status` reads the same fields).
    pub(super) fn of(deployment: &Deployment, instead_of: Option<String>) -> Self {
        let wanted = deployment.spec.as_ref().and_then(|s| s.replicas);
        let Some(status) = &deployment.status else {
            return Self {
                instead_of,
                ..Self::default()
            };
        };
        let observed = status.observed_generation >= deployment.metadata.generation;
        let (replicas, updated) = (status.replicas, status.updated_replicas);
        let stuck = status.conditions.iter().flatten().find(|c| {
            matches!(
                (c.type_.as_str(), c.status.as_str()),
                ("ReplicaFailure", "True") | ("Progressing", "False")
            )
        });
        Self {
            replicas: replicas.unwrap_or_default(),
            complete: observed
                && replicas.unwrap_or_default() == wanted.unwrap_or_default()
                && updated.unwrap_or_default() == wanted.unwrap_or_default(),
            stuck: stuck.filter(|_| observed).map(|c| {
                let text = |field: &Option<String>| field.clone().unwrap_or_default();
                (text(&c.reason), text(&c.message))
            }),
            instead_of,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(status: serde_json::Value) -> Rollout {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generation": 2},
            "spec": {"replicas": 3, "selector": {}, "template": {}}, "status": status,
        });
        Rollout::of(&serde_json::from_value(deployment).unwrap(), None)
    }

    #[test]
    fn complete_is_neither_more_nor_fewer_nor_older() {
        let done = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3});
        assert!(read(done.clone()).complete);
        for (field, value) in [
            ("observedGeneration", 1),
            ("replicas", 4),
            ("updatedReplicas", 2),
        ] {
            let mut status = done.clone();
            status[field] = value.into();
            assert!(!read(status).complete, "{field}");
        }
        assert!(!read(json!({})).complete);
    }

    #[test]
    fn stuck_says_why() {
        let with = |kind, value| {
            let conditions =
                [json!({"type": kind, "status": value, "reason": "R", "message": "m"})];
            read(json!({"observedGeneration": 2, "conditions": conditions})).stuck
        };
        let why = Some(("R".to_owned(), "m".to_owned()));
        assert_eq!(with("ReplicaFailure", "True"), why);
        assert_eq!(with("Progressing", "False"), why);
        assert_eq!(with("Progressing", "True"), None);
        assert_eq!(with("Available", "False"), None);
    }
}
