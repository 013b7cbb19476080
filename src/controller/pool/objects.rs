//! What a pool is in Kubernetes: a Deployment of its workers' pods, and a budget for their disruption.

use crate::api::WorkerPool;
use crate::api::pool::{CLASS_LABEL, POOL_LABEL, PoolTemplate};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvVar, EnvVarSource, HostPathVolumeSource, ObjectFieldSelector, PodSpec,
    PodTemplateSpec, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Annotation of what we make: a digest of what it is made from. Server-side apply leaves alone what somebody adds, so that what
/// we do not want any more shows only here.
pub(super) const DIGEST: &str = "ate.dev/desired";
/// How many of a pool's workers a drain of nodes may take at a time; rounded up, so that it never stops for good.
const UNAVAILABLE: &str = "25%";
/// How long a worker may take to suspend its actor when it is asked to go.
const GRACE_SECONDS: i64 = 60;
/// Taints of a node that Kubernetes does not hear of, and how long a worker stays there. Kubernetes' own 300 s are for what may come back as it
/// was: by then actors went on elsewhere, and the pool has to have its workers again.
const SILENT: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];
const SILENT_SECONDS: i64 = 60;
/// Host directories that have one directory per worker, by its pod's uid; and where a pod finds its own. `mountPath` cannot name the
/// uid, so the executor binds its own to where the host has it: orders of the node agent then name the same files to both.
const RUN: [&str; 2] = ["/run/ate/ateoms", "/run/ate/own"];
const DATA: [&str; 2] = ["/var/lib/ate/workers", "/var/lib/ate/own"];

/// Name of both.
pub(super) fn name(pool: &WorkerPool) -> String {
    format!("{}-workers", pool.name_any())
}

/// Labels of both, and of the pods.
fn labels(pool: &WorkerPool) -> BTreeMap<String, String> {
    [
        (POOL_LABEL, pool.name_any()),
        (CLASS_LABEL, pool.spec.sandbox_class.as_str().to_owned()),
        ("app.kubernetes.io/name", "ateom".to_owned()),
        ("app.kubernetes.io/managed-by", super::MANAGER.to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

fn selector(pool: &WorkerPool) -> LabelSelector {
    LabelSelector {
        match_labels: Some([(POOL_LABEL.to_owned(), pool.name_any())].into()),
        ..LabelSelector::default()
    }
}

fn metadata(pool: &WorkerPool, spec: &impl Serialize) -> ObjectMeta {
    let spec = serde_json::to_vec(spec).unwrap_or_default();
    let digest = hex::encode(&Sha256::digest(spec)[..8]);
    ObjectMeta {
        name: Some(name(pool)),
        namespace: pool.namespace(),
        labels: Some(labels(pool)),
        annotations: Some([(DIGEST.to_owned(), digest)].into()),
        owner_references: pool.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The Deployment of a pool's workers.
pub(super) fn deployment(pool: &WorkerPool, image: &str) -> Deployment {
    let spec = DeploymentSpec {
        replicas: Some(pool.spec.replicas),
        selector: selector(pool),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(labels(pool)),
                ..ObjectMeta::default()
            }),
            spec: Some(pod(
                pool.spec.template.clone().unwrap_or_default(),
                image.to_owned(),
            )),
        },
        ..DeploymentSpec::default()
    };
    Deployment {
        metadata: metadata(pool, &spec),
        spec: Some(spec),
        status: None,
    }
}

/// The budget of a pool's workers.
pub(super) fn budget(pool: &WorkerPool) -> PodDisruptionBudget {
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::String(UNAVAILABLE.to_owned())),
        selector: Some(selector(pool)),
        // A worker that is not ready has nothing to lose, and must not keep a node from being drained.
        unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        ..PodDisruptionBudgetSpec::default()
    };
    PodDisruptionBudget {
        metadata: metadata(pool, &spec),
        spec: Some(spec),
        status: None,
    }
}

fn pod(template: PoolTemplate, image: String) -> PodSpec {
    let affinity = match (template.affinity, template.node_affinity) {
        (affinity, None) => affinity,
        (affinity, node_affinity) => Some(Affinity {
            node_affinity,
            ..affinity.unwrap_or_default()
        }),
    };
    PodSpec {
        affinity,
        automount_service_account_token: Some(false),
        containers: vec![Container {
            name: "ateom".to_owned(),
            image: Some(image),
            args: Some(args()),
            env: Some(vec![
                variable("POD_UID", "metadata.uid"),
                variable("HOST_IP", "status.hostIP"),
            ]),
            resources: template.resources,
            // The executor makes network namespaces and packet filters, mounts, and starts the runtime, which needs namespaces and
            // mounts of its own. The image's own user is nobody.
            security_context: Some(SecurityContext {
                privileged: Some(true),
                run_as_user: Some(0),
                ..SecurityContext::default()
            }),
            volume_mounts: Some(vec![mount("run", RUN), mount("data", DATA)]),
            ..Container::default()
        }],
        enable_service_links: Some(false),
        node_selector: template.node_selector,
        priority_class_name: template.priority_class_name,
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        tolerations: Some(tolerations(template.tolerations.unwrap_or_default())),
        volumes: Some(vec![volume("run", RUN), volume("data", DATA)]),
        ..PodSpec::default()
    }
}

/// What a pool says of silent nodes holds, as for any pod (Kubernetes' admission plugin DefaultTolerationSeconds).
fn tolerations(mut said: Vec<Toleration>) -> Vec<Toleration> {
    let any = |of: &Option<String>| of.as_deref().is_none_or(str::is_empty);
    for taint in SILENT {
        let of_taint = |t: &Toleration| any(&t.key) || t.key.as_deref() == Some(taint);
        let evicts = |t: &Toleration| any(&t.effect) || t.effect.as_deref() == Some("NoExecute");
        if !said.iter().any(|t| of_taint(t) && evicts(t)) {
            said.push(Toleration {
                effect: Some("NoExecute".to_owned()),
                key: Some(taint.to_owned()),
                operator: Some("Exists".to_owned()),
                toleration_seconds: Some(SILENT_SECONDS),
                ..Toleration::default()
            });
        }
    }
    said
}

/// An environment variable that says something of the pod.
fn variable(name: &str, field: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: field.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// The image's entrypoint is `ate`. Sandboxes do not reach the node, nor the Kubernetes API: Kubernetes tells every container where that is.
fn args() -> Vec<String> {
    let bind = |[host, own]: [&str; 2]| format!("{own}={host}/$(POD_UID)");
    [
        "ateom",
        "--uid",
        "$(POD_UID)",
        "--dir",
        "/run/ate",
        "--bind",
        &bind(RUN),
        "--bind",
        &bind(DATA),
        "--refuse",
        "$(HOST_IP)/32",
        "--refuse",
        "$(KUBERNETES_SERVICE_HOST)/32",
    ]
    .map(str::to_owned)
    .into()
}

fn volume(name: &str, [host, _]: [&str; 2]) -> Volume {
    Volume {
        name: name.to_owned(),
        host_path: Some(HostPathVolumeSource {
            path: host.to_owned(),
            type_: Some("DirectoryOrCreate".to_owned()),
        }),
        ..Volume::default()
    }
}

/// A pod sees its own directory only, and what the node agent mounts below it.
/// The kubelet cannot remove the pod while such a mount is left on the host.
fn mount(name: &str, [_, own]: [&str; 2]) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: own.to_owned(),
        mount_propagation: Some("HostToContainer".to_owned()),
        sub_path_expr: Some("$(POD_UID)".to_owned()),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkerPoolSpec;
    use serde_json::json;

    fn pool(template: serde_json::Value) -> WorkerPool {
        let mut pool = WorkerPool::new(
            "p",
            WorkerPoolSpec {
                replicas: 2,
                template: Some(serde_json::from_value(template).unwrap()),
                ..WorkerPoolSpec::default()
            },
        );
        pool.metadata.namespace = Some("team".into());
        pool.metadata.uid = Some("u-1".into());
        pool
    }

    #[test]
    fn pods_are_as_the_pool_says() {
        let node =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}});
        let pool = pool(json!({
            "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "k", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}}, "nodeAffinity": node,
            "priorityClassName": "high", "resources": {"limits": {"memory": "1Gi"}},
        }));
        let made = serde_json::to_value(deployment(&pool, "example.org/ate:1")).unwrap();
        let owner = &made["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["uid"], &owner["controller"]),
            (&json!("u-1"), &json!(true))
        );
        assert_eq!(made["metadata"]["name"], "p-workers");
        let spec = &made["spec"];
        assert_eq!(spec["replicas"], 2);
        assert_eq!(
            spec["selector"],
            json!({"matchLabels": {"ate.dev/worker-pool": "p"}})
        );
        assert_eq!(
            spec["template"]["metadata"]["labels"]["ate.dev/worker-pool"],
            "p"
        );
        let pod = &spec["template"]["spec"];
        assert_eq!(
            pod["affinity"],
            json!({"podAntiAffinity": {}, "nodeAffinity": node})
        );
        assert_eq!(pod["nodeSelector"], json!({"disk": "ssd"}));
        assert_eq!(pod["tolerations"][0]["key"], "k");
        assert_eq!(pod["priorityClassName"], "high");
        assert_eq!(pod["automountServiceAccountToken"], false);
        let container = &pod["containers"][0];
        assert_eq!(container["resources"], json!({"limits": {"memory": "1Gi"}}));
        assert_eq!(container["image"], "example.org/ate:1");
        for (mount, volume) in std::iter::zip(
            container["volumeMounts"].as_array().unwrap(),
            pod["volumes"].as_array().unwrap(),
        ) {
            assert_eq!(mount["subPathExpr"], "$(POD_UID)", "its own only");
            let (own, host) = (&mount["mountPath"], &volume["hostPath"]["path"]);
            let bind = format!(
                "{}={}/$(POD_UID)",
                own.as_str().unwrap(),
                host.as_str().unwrap()
            );
            assert!(container["args"].as_array().unwrap().contains(&json!(bind)));
        }
    }

    #[test]
    fn workers_leave_a_silent_node_soon_unless_their_pool_says_otherwise() {
        let seconds = |said: serde_json::Value| {
            let made = deployment(&pool(json!({"tolerations": said})), "i");
            let pod = made.spec.unwrap().template.spec.unwrap();
            let all = pod.tolerations.unwrap().into_iter();
            let bounds = all.map(|t| (t.key.unwrap_or_default(), t.toleration_seconds));
            bounds.collect::<Vec<_>>()
        };
        let [not_ready, unreachable] = SILENT.map(str::to_owned);
        let soon = |taint: &String| (taint.clone(), Some(SILENT_SECONDS));
        let ours = [soon(&not_ready), soon(&unreachable)];
        assert_eq!(seconds(json!([])), ours);
        let other = json!([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]);
        let other = seconds(other);
        assert_eq!((other[0].0.as_str(), &other[1..]), ("gpu", &ours[..]));
        let own = json!({"key": unreachable, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let own = seconds(json!([own]));
        assert_eq!(own, [(unreachable, Some(5)), soon(&not_ready)]);
        let all = seconds(json!([{"operator": "Exists"}]));
        assert_eq!(all, [(String::new(), None)]);
        let others = seconds(json!([{"operator": "Exists", "effect": "NoSchedule"}]));
        assert_eq!(others[1..], ours);
    }

    #[test]
    fn what_is_taken_back_shows_in_the_digest() {
        let digest = |d: &Deployment| d.annotations()[DIGEST].clone();
        let with = deployment(&pool(json!({"nodeSelector": {"disk": "ssd"}})), "i");
        let without = deployment(&pool(json!({})), "i");
        assert_ne!(digest(&with), digest(&without));
        assert_eq!(digest(&without), digest(&deployment(&pool(json!({})), "i")));
    }
}
