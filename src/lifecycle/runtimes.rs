//! Which builds of the runtime a resume can use: a snapshot is restored by the build that made it, and by no other. What a
//! node does not say of itself, and a snapshot not of its origin, fits everything: the node looks at it once more.

use crate::api::names::Build;
use crate::api::record::{ActorRecord, NodeRecord};
use crate::api::template::{GoldenPolicy, GoldenSnapshot, RUNTIME_LABEL};
use crate::api::{ActorTemplate, Reason, Timestamp};
use std::collections::BTreeSet;

/// The builds on whose nodes the next resume of `actor` can be; `None`: any. A template that names its runtime brings it along.
pub fn wanted(actor: &ActorRecord, template: &ActorTemplate) -> Option<BTreeSet<Build>> {
    if template.spec.runsc.is_some() {
        return None;
    }
    if actor.header.boot {
        let named = actor.meta.labels.get(RUNTIME_LABEL)?.parse().ok();
        return named.map(|build| BTreeSet::from([build]));
    }
    let status = &actor.status;
    let local = status.local.as_ref().map(|l| &l.snapshot);
    if let Some(own) = local.or(status.durable.as_ref()) {
        return own.runtime.map(|build| BTreeSet::from([build]));
    }
    match template.spec.golden.policy {
        GoldenPolicy::Optional | GoldenPolicy::Disabled => None,
        GoldenPolicy::Required => {
            let golden = &template.status.as_ref()?.golden_snapshots;
            golden.iter().map(made_by).collect()
        }
    }
}

/// The build that made a golden snapshot.
pub fn made_by(golden: &GoldenSnapshot) -> Option<Build> {
    golden.runtime.parse().ok()
}

/// The golden snapshot, of those that a template has, for a worker whose node has build `on`; `None`: nobody knows. The newest
/// of those that fit.
pub fn golden(template: &ActorTemplate, on: Option<Build>) -> Option<&GoldenSnapshot> {
    let all = &template.status.as_ref()?.golden_snapshots;
    let newest = |fits: &dyn Fn(Option<Build>) -> bool| all.iter().rev().find(|g| fits(made_by(g)));
    match on.filter(|_| template.spec.runsc.is_none()) {
        None => all.last(),
        Some(on) => newest(&|by| by == Some(on)).or_else(|| newest(&|by| by.is_none())),
    }
}

/// Whether a node fits, as far as is known.
pub fn fits(on: Option<Build>, wanted: &BTreeSet<Build>) -> bool {
    on.is_none_or(|on| wanted.contains(&on))
}

/// The nodes that are to be asked for a worker, those that fit for certain first; `None`: any will do, for all do whose lease
/// did not end before `since`.
pub fn nodes(
    all: &[NodeRecord],
    wanted: &BTreeSet<Build>,
    since: Timestamp,
) -> Option<Vec<String>> {
    let certain = |n: &&NodeRecord| n.runtime.is_some_and(|on| wanted.contains(&on));
    let mut alive = all.iter().filter(|n| n.lease > since).peekable();
    if alive.peek().is_some() && alive.all(|n| certain(&n)) {
        return None;
    }
    let (first, rest): (Vec<_>, Vec<_>) = all.iter().partition(certain);
    let maybe = rest.into_iter().filter(|n| n.runtime.is_none());
    let names = first.into_iter().chain(maybe).map(|n| n.name.clone());
    Some(names.collect())
}

/// What is said of an actor of which no worker has a build that it wants; `there`: those that they have.
pub fn mismatch(
    actor: &ActorRecord,
    wanted: &BTreeSet<Build>,
    there: &BTreeSet<Build>,
) -> (Reason, String) {
    let list = |builds: &BTreeSet<Build>| {
        let names: Vec<_> = builds.iter().map(Build::to_string).collect();
        names.join(", ")
    };
    let (wanted, there) = (list(wanted), list(there));
    if actor.status.local.is_none() && actor.status.durable.is_none() {
        let message = format!(
            "the template's golden snapshots are of runtime {wanted}, its workers have {there}: the one for those is not ready yet"
        );
        return (Reason::TemplateNotReady, message);
    }
    let name = &actor.key.name;
    let message = format!(
        "its snapshot was made by runtime {wanted}, and only that restores it; the workers of its pools have {there}. Bring up \
         a worker with runsc {wanted}, or boot it from its image, without its memory: kubectl ate boot {name}"
    );
    (Reason::RuntimeMismatch, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ActorTemplateSpec;
    use crate::api::record::{LocalSnapshotRecord, SnapshotRecord};
    use crate::api::runsc::Runsc;
    use crate::api::template::ActorTemplateStatus;

    fn build(digit: char) -> Build {
        digit.to_string().repeat(12).parse().unwrap()
    }

    fn set(digits: &str) -> BTreeSet<Build> {
        digits.chars().map(build).collect()
    }

    fn template(goldens: &[Option<Build>]) -> ActorTemplate {
        let golden = |by: &Option<Build>| GoldenSnapshot {
            id: format!("{by:?}"),
            runtime: by.map(|by| by.to_string()).unwrap_or_default(),
            ..GoldenSnapshot::default()
        };
        let mut template = ActorTemplate::new("t", ActorTemplateSpec::default());
        template.status = Some(ActorTemplateStatus {
            golden_snapshots: goldens.iter().map(golden).collect(),
            ..ActorTemplateStatus::default()
        });
        template
    }

    fn snapshot(runtime: Option<Build>) -> SnapshotRecord {
        SnapshotRecord {
            epoch: Default::default(),
            bytes: 1,
            time: Timestamp(1),
            runtime,
        }
    }

    #[test]
    fn the_newest_state_says_which_builds_will_do() {
        let mut actor = ActorRecord::default();
        let (a, b) = (Some(build('a')), Some(build('b')));
        let mut both = template(&[a, b]);
        assert_eq!(wanted(&actor, &both), Some(set("ab")));
        assert_eq!(wanted(&actor, &template(&[a, None])), None);
        actor.status.durable = Some(snapshot(a));
        assert_eq!(wanted(&actor, &both), Some(set("a")));
        actor.status.local = Some(LocalSnapshotRecord {
            snapshot: snapshot(b),
            node: "n".into(),
        });
        assert_eq!(wanted(&actor, &both), Some(set("b")));
        actor.header.boot = true;
        assert_eq!(wanted(&actor, &both), None);
        let label = (RUNTIME_LABEL.to_owned(), build('c').to_string());
        actor.meta.labels.extend([label]);
        assert_eq!(wanted(&actor, &both), Some(set("c")));
        both.spec.runsc = Some(Runsc::default());
        assert_eq!(wanted(&actor, &both), None);
        let mut optional = template(&[a]);
        optional.spec.golden.policy = GoldenPolicy::Optional;
        assert_eq!(wanted(&ActorRecord::default(), &optional), None);
    }

    #[test]
    fn a_worker_gets_the_golden_snapshot_of_its_build() {
        let (a, b, c) = (Some(build('a')), Some(build('b')), Some(build('c')));
        let of = |goldens: &[Option<Build>], on| golden(&template(goldens), on).map(made_by);
        assert_eq!(of(&[a, b], a), Some(a));
        assert_eq!(of(&[a, b], b), Some(b));
        assert_eq!(of(&[a, b], c), None);
        assert_eq!(of(&[a, b], None), Some(b));
        assert_eq!(of(&[None, a], c), Some(None));
        assert_eq!(of(&[], a), None);
        let mut named = template(&[a]);
        named.spec.runsc = Some(Runsc::default());
        assert_eq!(golden(&named, c).map(made_by), Some(a));
    }

    #[test]
    fn nodes_of_another_build_are_not_asked() {
        let node = |name: &str, runtime, lease| NodeRecord {
            name: name.into(),
            runtime,
            lease: Timestamp(lease),
            ..NodeRecord::default()
        };
        let (a, b) = (Some(build('a')), Some(build('b')));
        let now = Timestamp(5);
        let names = |all: &[NodeRecord]| nodes(all, &set("a"), now).map(|names| names.concat());
        assert_eq!(names(&[node("1", a, 9), node("2", a, 9)]), None);
        // What is lost does not count.
        assert_eq!(names(&[node("1", a, 9), node("2", b, 4)]), None);
        let mixed = [node("1", None, 9), node("2", b, 9), node("3", a, 9)];
        assert_eq!(names(&mixed).unwrap(), "31");
        assert_eq!(names(&[node("2", b, 9)]).unwrap(), "");
        assert_eq!(names(&[]).unwrap(), "");
    }

    #[test]
    fn who_has_no_worker_is_told_which_builds_and_what_to_do() {
        let mut actor = ActorRecord::default();
        actor.key.name = "cat".into();
        let (reason, message) = mismatch(&actor, &set("a"), &set("bc"));
        assert_eq!(reason, Reason::TemplateNotReady);
        assert!(message.contains("bbbbbbbbbbbb, cccccccccccc"), "{message}");
        actor.status.durable = Some(snapshot(Some(build('a'))));
        let (reason, message) = mismatch(&actor, &set("a"), &set("b"));
        assert_eq!(reason, Reason::RuntimeMismatch);
        for part in ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "kubectl ate boot cat"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
