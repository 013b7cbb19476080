//! Reading who an order is for, and until when it counts.

use super::files::{Identity, Target};
use super::outcome::Failure;
use crate::api::names::is_dns_label;
use crate::api::{Epoch, Incarnation, SnapshotId, Timestamp};
use crate::lifecycle::slot::Fence;
use crate::proto::atenode as wire;

/// Longest part of a name, in bytes.
const MAX_NAME: usize = 253;

/// The actor of an order; `template` and `id` are asked for where it is to run.
pub(super) fn actor(actor: Option<wire::ActorIdentity>, to_run: bool) -> Result<Identity, Failure> {
    let actor = actor.ok_or_else(|| invalid("actor is missing"))?;
    // They become parts of paths.
    let plain = |name: &str| {
        name.len() <= MAX_NAME && !name.is_empty() && name.split('.').all(is_dns_label)
    };
    let uid = actor.uid.is_empty() && !to_run || uuid::Uuid::try_parse(&actor.uid).is_ok();
    let run = plain(&actor.template_namespace)
        && plain(&actor.template_name)
        && (1..=MAX_NAME).contains(&actor.actor_id.len());
    if !plain(&actor.namespace) || !plain(&actor.name) || !uid || (to_run && !run) {
        return Err(invalid(
            "actor: namespace, name, uid, actor_id and template are required, as they are in its record",
        ));
    }
    Ok(Identity {
        namespace: actor.namespace,
        name: actor.name,
        actor_id: actor.actor_id,
        template_namespace: actor.template_namespace,
        template_name: actor.template_name,
        uid: actor.uid,
    })
}

/// What makes an order refusable.
pub(super) fn fence(fence: Option<wire::Fence>) -> Result<Fence, Failure> {
    let fence = fence.ok_or_else(|| invalid("fence is missing"))?;
    if fence.epoch == 0 {
        return Err(invalid("fence.epoch is missing"));
    }
    Ok(Fence {
        epoch: Epoch(fence.epoch),
        incarnation: Incarnation(fence.incarnation),
        not_after: (fence.not_after_ms > 0).then_some(Timestamp(fence.not_after_ms)),
    })
}

/// Which snapshot an order is about.
pub(super) fn target(snapshot: Option<wire::SnapshotRef>) -> Result<Target, Failure> {
    let snapshot = snapshot.ok_or_else(|| invalid("snapshot is missing"))?;
    let id: Result<SnapshotId, _> = snapshot.id.parse();
    id.map_err(|e| Failure::Invalid(format!("snapshot.id: {e}")))?;
    Ok(Target {
        id: snapshot.id,
        uri: snapshot.uri,
        local: snapshot.local,
    })
}

fn invalid(message: &str) -> Failure {
    Failure::Invalid(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_a_path_is_plain() {
        let good = wire::ActorIdentity {
            namespace: "team".into(),
            name: "a1".into(),
            actor_id: "a1".into(),
            template_namespace: "team".into(),
            template_name: "counter.v1".into(),
            uid: "6e1e6f7d-8a3c-4c0b-9a39-9f3c54a6f0c1".into(),
        };
        assert!(actor(Some(good.clone()), true).is_ok());
        type Spoil = fn(&mut wire::ActorIdentity);
        let spoils: [Spoil; 6] = [
            |a| a.namespace = "..".into(),
            |a| a.name = "a/b".into(),
            |a| a.name.clear(),
            |a| a.uid = "1".into(),
            |a| a.template_name = "a:b".into(),
            |a| a.actor_id.clear(),
        ];
        for (n, spoil) in spoils.into_iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(actor(Some(bad), true).is_err(), "{n}");
        }
        let mut deleted = good;
        deleted.uid.clear();
        deleted.template_name.clear();
        assert!(actor(Some(deleted), false).is_ok());
    }
}
