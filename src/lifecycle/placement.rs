//! Which pools may run an actor, and which snapshot a resume starts from.

use super::runtimes;
use crate::api::names::{Build, PoolKey, SnapshotId, TemplateKey};
use crate::api::record::{ActorRecord, WorkerPhase, WorkerRecord};
use crate::api::resources::{self, Room};
use crate::api::selector::{Selector, SelectorError};
use crate::api::template::{ActorTemplateSpec, GoldenPolicy, TemplatePhase};
use crate::api::{ActorTemplate, Reason, WorkerPool};
use std::collections::BTreeMap;

/// Pools that a message names.
const MOST_NAMED: usize = 3;

/// The state that a resume starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A snapshot on one node only.
    Local {
        /// The snapshot.
        id: SnapshotId,
        /// The node.
        node: String,
    },
    /// A snapshot of the actor's own in object storage.
    Durable {
        /// The snapshot.
        id: SnapshotId,
    },
    /// The template's golden snapshot.
    Golden {
        /// The snapshot.
        id: SnapshotId,
        /// Prefix under which it lies.
        uri: String,
    },
    /// The image.
    Boot,
}

/// Whether actors of `namespace` may be made of `template`, which lets in its own namespace and those of its
/// `spec.allowedNamespaces`.
pub fn admit(
    template: &TemplateKey,
    spec: &ActorTemplateSpec,
    namespace: &str,
) -> Result<(), (Reason, String)> {
    if template.namespace == namespace || spec.allowed_namespaces.iter().any(|a| a == namespace) {
        return Ok(());
    }
    Err((
        Reason::NamespaceNotAllowed,
        format!(
            "ActorTemplate {template} does not let in actors of namespace {namespace}: name one in spec.templateRef whose \
             spec.allowedNamespaces lists {namespace}, or one of {namespace} itself"
        ),
    ))
}

/// What the next resume of `actor` starts from where any worker is free, or why its template, as it is now, forbids one. No
/// template: there is none of that name.
pub fn start(
    actor: &ActorRecord,
    template: Option<&ActorTemplate>,
) -> Result<Source, (Reason, String)> {
    let key = &actor.spec.template;
    let Some(template) = template else {
        return Err((
            Reason::TemplateNotFound,
            format!("ActorTemplate {key} not found"),
        ));
    };
    admit(key, &template.spec, &actor.key.namespace)?;
    source(actor, template, None)
}

/// Whether an actor without a snapshot of its own can start from `template`.
pub fn has_start(template: &ActorTemplate) -> bool {
    golden(template, None).is_ok()
}

/// What the next resume of `actor` starts from: the newest state, never an older one in silence. `on`: the build that the
/// worker's node has, where that is known.
pub fn source(
    actor: &ActorRecord,
    template: &ActorTemplate,
    on: Option<Build>,
) -> Result<Source, (Reason, String)> {
    if actor.header.boot {
        return Ok(Source::Boot);
    }
    if let Some(local) = &actor.status.local {
        return Ok(Source::Local {
            id: actor.snapshot_id(&local.snapshot),
            node: local.node.clone(),
        });
    }
    if let Some(durable) = &actor.status.durable {
        return Ok(Source::Durable {
            id: actor.snapshot_id(durable),
        });
    }
    golden(template, on)
}

fn golden(template: &ActorTemplate, on: Option<Build>) -> Result<Source, (Reason, String)> {
    let phase = template.status.as_ref().map(|s| s.phase);
    let golden = runtimes::golden(template, on);
    match (
        template.spec.golden.policy,
        golden,
        phase.unwrap_or_default(),
    ) {
        (GoldenPolicy::Disabled, _, _) => Ok(Source::Boot),
        (_, Some(golden), _) => match golden.id.parse() {
            Ok(id) => Ok(Source::Golden {
                id,
                uri: golden.uri.clone(),
            }),
            Err(e) => Err((
                Reason::SnapshotUnreadable,
                format!("the template's golden snapshot: {e}"),
            )),
        },
        (GoldenPolicy::Optional, None, _) => Ok(Source::Boot),
        (GoldenPolicy::Required, None, phase) => {
            let name = template.metadata.name.as_deref().unwrap_or_default();
            let why = match phase {
                TemplatePhase::Failed => {
                    "its golden snapshot failed; kubectl describe actortemplate says why"
                }
                TemplatePhase::New
                | TemplatePhase::ResumeGoldenActor
                | TemplatePhase::WaitGoldenActor
                | TemplatePhase::Ready => "its golden snapshot is not ready yet",
            };
            Err((
                Reason::TemplateNotReady,
                format!("ActorTemplate {name}: {why}"),
            ))
        }
    }
}

/// The pools whose workers may run `actor`, in the order in which they are tried.
pub fn pools<'a>(
    actor: &ActorRecord,
    template: &ActorTemplate,
    all: impl IntoIterator<Item = &'a WorkerPool>,
) -> Result<Vec<PoolKey>, SelectorError> {
    let spec = &template.spec;
    let home = template.metadata.namespace.as_deref().unwrap_or_default();
    let by_label = spec
        .worker_selector
        .as_ref()
        .map(Selector::try_from)
        .transpose()?;
    let matches = |pool: &WorkerPool| {
        let name = pool.metadata.name.as_deref().unwrap_or_default();
        let namespace = pool.metadata.namespace.as_deref().unwrap_or_default();
        let labels = pool.metadata.labels.clone().unwrap_or_default();
        let wanted = match (&spec.worker_pool_ref, &by_label) {
            (Some(wanted), _) => {
                wanted.name.as_deref() == Some(name)
                    && wanted.namespace.as_deref().unwrap_or(home) == namespace
            }
            (None, Some(selector)) => selector.matches(&labels),
            (None, None) => namespace == home,
        };
        wanted
            && pool.spec.sandbox_class == spec.sandbox_class
            && actor.spec.worker_selector.matches(&labels)
    };
    let mut keys: Vec<_> = all
        .into_iter()
        .filter(|pool| matches(pool))
        .map(key_of)
        .collect();
    keys.sort();
    Ok(keys)
}

/// Those of `pools` whose workers are large enough for `template`, or why there are none. `usual`: what a worker has whose pool does not
/// say.
pub fn large_enough<'a>(
    pools: Vec<PoolKey>,
    template: &ActorTemplate,
    all: impl IntoIterator<Item = &'a WorkerPool>,
    usual: Room,
) -> Result<Vec<PoolKey>, (Reason, String)> {
    let needs = resources::needs(&template.spec);
    let rooms: BTreeMap<PoolKey, Room> = all
        .into_iter()
        .map(|pool| (key_of(pool), room_of(pool).or(usual)))
        .collect();
    let room = |pool: &PoolKey| rooms.get(pool).copied().unwrap_or(usual);
    let (fit, small): (Vec<_>, Vec<_>) =
        pools.into_iter().partition(|pool| room(pool).fits(&needs));
    if !fit.is_empty() || small.is_empty() {
        return Ok(fit);
    }
    let named = small.iter().take(MOST_NAMED);
    let each: Vec<_> = named
        .map(|pool| format!("{} of {pool}", room(pool)))
        .collect();
    let more = if small.len() > MOST_NAMED {
        ", and others"
    } else {
        ""
    };
    let name = template.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "no worker is large enough: an actor of ActorTemplate {name} needs {needs}, with what its sandbox takes; workers have {}{more}. \
         Give a pool larger ones (spec.template.resources.limits), or the template lower limits",
        each.join(", ")
    );
    Err((Reason::WorkerTooSmall, message))
}

fn room_of(pool: &WorkerPool) -> Room {
    let resources = pool
        .spec
        .template
        .as_ref()
        .and_then(|t| t.resources.as_ref());
    resources.map(Room::of).unwrap_or_default()
}

/// Whether `pool`, if it is one of `wanted`, has fewer workers that can take an actor or run one than it shall have: the
/// others are on their way.
pub fn is_short(pool: &WorkerPool, wanted: &[PoolKey], workers: &[WorkerRecord]) -> bool {
    let key = key_of(pool);
    let usable = |phase| match phase {
        WorkerPhase::Free | WorkerPhase::Claimed => true,
        WorkerPhase::Draining | WorkerPhase::Dirty | WorkerPhase::Lost => false,
    };
    let ready = || {
        workers
            .iter()
            .filter(|w| w.pool == key && usable(w.phase))
            .count()
    };
    wanted.contains(&key) && ready() < usize::try_from(pool.spec.replicas).unwrap_or(0)
}

fn key_of(pool: &WorkerPool) -> PoolKey {
    PoolKey::new(
        pool.metadata.namespace.as_deref().unwrap_or_default(),
        pool.metadata.name.as_deref().unwrap_or_default(),
    )
}

/// The port of the container that requests go to: the one named `http`, else the first declared, else 80.
pub fn request_port(template: &ActorTemplate) -> u16 {
    let ports = || template.spec.containers.iter().flat_map(|c| &c.ports);
    let port = ports()
        .find(|p| p.name.as_deref() == Some("http"))
        .or_else(|| ports().next());
    port.and_then(|p| u16::try_from(p.container_port).ok())
        .unwrap_or(80)
}

/// Prefix under which an actor's snapshots lie: `LOCATION/NAMESPACE/NAME`.
pub fn snapshots_of(
    actor: &ActorRecord,
    template: &ActorTemplate,
    default_location: &str,
) -> String {
    let config = template
        .spec
        .snapshots_config
        .as_ref()
        .and_then(|c| c.location.as_deref());
    let location = config.unwrap_or(default_location).trim_end_matches('/');
    format!("{location}/{}/{}", actor.key.namespace, actor.key.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Epoch;
    use crate::api::record::{LocalSnapshotRecord, SnapshotRecord};
    use crate::api::template::{ActorTemplateStatus, Container, ContainerPort, GoldenSnapshot};
    use crate::api::{ActorKey, Timestamp, WorkerPoolSpec};
    use k8s_openapi::api::core::v1::ObjectReference;

    fn template() -> ActorTemplate {
        let mut t = ActorTemplate::new("t", ActorTemplateSpec::default());
        t.metadata.namespace = Some("home".into());
        t
    }

    fn pool(namespace: &str, name: &str, tier: &str) -> WorkerPool {
        let mut p = WorkerPool::new(name, WorkerPoolSpec::default());
        p.metadata.namespace = Some(namespace.into());
        p.metadata.labels = Some([("tier".to_owned(), tier.to_owned())].into());
        p
    }

    #[test]
    fn the_newest_state_wins() {
        let mut actor = ActorRecord {
            key: ActorKey::new("home", "a"),
            ..ActorRecord::default()
        };
        let mut t = template();
        let source = |a: &ActorRecord, t: &ActorTemplate| source(a, t, None);
        assert_eq!(source(&actor, &t).unwrap_err().0, Reason::TemplateNotReady);
        t.status = Some(ActorTemplateStatus {
            golden_snapshots: vec![GoldenSnapshot {
                id: SnapshotId::default().to_string(),
                uri: "file:///s/g".into(),
                ..Default::default()
            }],
            ..Default::default()
        });
        assert!(matches!(source(&actor, &t).unwrap(), Source::Golden { .. }));
        let snapshot = SnapshotRecord {
            epoch: Epoch(3),
            bytes: 1,
            time: Timestamp(1),
            runtime: None,
        };
        actor.status.durable = Some(snapshot.clone());
        assert!(
            matches!(source(&actor, &t).unwrap(), Source::Durable { id } if id.epoch == Epoch(3))
        );
        actor.status.local = Some(LocalSnapshotRecord {
            snapshot,
            node: "n".into(),
        });
        assert!(matches!(source(&actor, &t).unwrap(), Source::Local { .. }));
        actor.header.boot = true;
        assert_eq!(source(&actor, &t).unwrap(), Source::Boot);
    }

    #[test]
    fn a_template_lets_in_its_own_namespace_and_those_it_lists() {
        let key = TemplateKey::new("home", "t");
        for (namespace, allowed, admitted) in [
            ("home", &[][..], true),
            ("home", &["team"], true),
            ("team", &["team", "other"], true),
            ("team", &[], false),
            ("team", &["teams", "home"], false),
        ] {
            let spec = ActorTemplateSpec {
                allowed_namespaces: allowed.iter().map(|a| (*a).to_owned()).collect(),
                ..ActorTemplateSpec::default()
            };
            let answer = admit(&key, &spec, namespace);
            assert_eq!(answer.is_ok(), admitted, "{namespace} {allowed:?}");
            if let Err((reason, message)) = answer {
                assert_eq!(reason, Reason::NamespaceNotAllowed);
                assert!(message.contains("spec.allowedNamespaces"), "{message}");
            }
        }
    }

    #[test]
    fn without_a_template_that_is_ready_nothing_starts() {
        let mut actor = ActorRecord {
            key: ActorKey::new("home", "a"),
            ..ActorRecord::default()
        };
        actor.spec.template = TemplateKey::new("home", "t");
        let mut t = template();
        let why = |a: &ActorRecord, t: Option<&ActorTemplate>| start(a, t).unwrap_err().0;
        assert_eq!(why(&actor, None), Reason::TemplateNotFound);
        assert_eq!(why(&actor, Some(&t)), Reason::TemplateNotReady);
        assert!(!has_start(&t));
        t.spec.golden.policy = GoldenPolicy::Disabled;
        assert_eq!(start(&actor, Some(&t)), Ok(Source::Boot));
        assert!(has_start(&t));
        actor.key.namespace = "away".into();
        assert_eq!(why(&actor, Some(&t)), Reason::NamespaceNotAllowed);
    }

    #[test]
    fn pools_by_reference_label_or_namespace() {
        let actor = ActorRecord {
            key: ActorKey::new("home", "a"),
            ..ActorRecord::default()
        };
        let all = [
            pool("home", "one", "gold"),
            pool("home", "two", "iron"),
            pool("away", "three", "gold"),
        ];
        let names = |t: &ActorTemplate, a: &ActorRecord| -> Vec<String> {
            pools(a, t, &all)
                .unwrap()
                .iter()
                .map(|p| p.name.clone())
                .collect()
        };
        let mut t = template();
        assert_eq!(names(&t, &actor), ["one", "two"]);
        t.spec.worker_pool_ref = Some(ObjectReference {
            name: Some("three".into()),
            namespace: Some("away".into()),
            ..Default::default()
        });
        assert_eq!(names(&t, &actor), ["three"]);
        t.spec.worker_pool_ref = None;
        let selector = Selector {
            labels: [("tier".to_owned(), "gold".to_owned())].into(),
            expressions: vec![],
        };
        t.spec.worker_selector = selector.to_kubernetes();
        assert_eq!(names(&t, &actor), ["three", "one"]);
        let mut picky = actor.clone();
        picky
            .spec
            .worker_selector
            .labels
            .insert("tier".into(), "iron".into());
        assert!(names(&t, &picky).is_empty());
    }

    #[test]
    fn workers_that_are_too_small_are_left_out() {
        let sized = |name: &str, limits: serde_json::Value| {
            let mut pool = pool("home", name, "gold");
            let template = serde_json::json!({"resources": {"limits": limits}});
            pool.spec.template = Some(serde_json::from_value(template).unwrap());
            pool
        };
        let all = [
            pool("home", "any", "gold"),
            sized("large", serde_json::json!({"memory": "2Gi", "cpu": "2"})),
            sized("small", serde_json::json!({"memory": "512Mi"})),
        ];
        let keys = |names: &[&str]| {
            names
                .iter()
                .map(|n| PoolKey::new("home", *n))
                .collect::<Vec<_>>()
        };
        let mut t = template();
        let fit = |t: &ActorTemplate, of: &[&str], usual: Room| {
            large_enough(keys(of), t, &all, usual)
                .map(|fit| fit.into_iter().map(|p| p.name).collect::<Vec<_>>())
        };
        let every = ["any", "large", "small"];
        let unknown = Room::default();
        assert_eq!(fit(&t, &every, unknown).unwrap(), every, "it says nothing");
        let container = serde_json::json!({"name": "c", "image": "i", "resources": {"limits": {"memory": "1Gi", "cpu": "1500m"}}});
        t.spec.containers = vec![serde_json::from_value(container).unwrap()];
        assert_eq!(fit(&t, &every, unknown).unwrap(), ["any", "large"]);
        let machine = Room {
            memory: Some(1 << 30),
            cpu: Some(1000),
        };
        assert_eq!(fit(&t, &every, machine).unwrap(), ["large"]);
        assert_eq!(fit(&t, &[], machine), Ok(vec![]));
        let (reason, message) = fit(&t, &["any", "small"], machine).unwrap_err();
        assert_eq!(reason, Reason::WorkerTooSmall);
        for part in [
            "ActorTemplate t needs memory 1152Mi, cpu 1500m",
            "memory 1Gi, cpu 1 of home/any",
            "memory 512Mi, cpu 1 of home/small",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn a_pool_is_short_of_workers_that_are_on_their_way() {
        use WorkerPhase::*;
        let key = PoolKey::new("home", "p");
        let worker = |phase, pool: &PoolKey| WorkerRecord {
            phase,
            pool: pool.clone(),
            ..WorkerRecord::default()
        };
        for (replicas, phases, short) in [
            (0, vec![], false),
            (1, vec![], true),
            (2, vec![Free, Claimed], false),
            (2, vec![Claimed], true),
            (1, vec![Claimed, Claimed], false),
            (2, vec![Claimed, Draining], true),
            (2, vec![Claimed, Dirty], true),
            (2, vec![Claimed, Lost], true),
            (-1, vec![], false),
        ] {
            let mut p = pool("home", "p", "gold");
            p.spec.replicas = replicas;
            let mut workers: Vec<_> = phases.iter().map(|f| worker(*f, &key)).collect();
            // Workers of others do not count.
            workers.push(worker(Free, &PoolKey::new("away", "p")));
            let all = [key.clone()];
            assert_eq!(is_short(&p, &all, &workers), short, "{replicas} {phases:?}");
            assert!(!is_short(&p, &[PoolKey::new("home", "q")], &workers));
        }
    }

    #[test]
    fn the_port_named_http_comes_first() {
        let mut t = template();
        assert_eq!(request_port(&t), 80);
        let port = |name: Option<&str>, n| ContainerPort {
            name: name.map(Into::into),
            container_port: n,
        };
        t.spec.containers = vec![Container {
            ports: vec![port(None, 9000), port(Some("http"), 8080)],
            ..Default::default()
        }];
        assert_eq!(request_port(&t), 8080);
        t.spec.containers[0].ports.pop();
        assert_eq!(request_port(&t), 9000);
    }
}
