//! Removal of a golden snapshot that no worker can use any more: it waits while actors are of its build, whose workers may come back.

use super::{Golden, RETRY, SOON, each_actor};
use crate::api::names::Build;
use crate::api::record::ActorRecord;
use crate::api::template::GoldenSnapshot;
use crate::api::{ActorKey, SnapshotId, TemplateKey};
use crate::controller::Error;
use crate::engine::Call;
use crate::lifecycle::runtimes;
use crate::store::StoreError;
use kube::runtime::controller::Action;
use std::time::{Duration, Instant};

/// First pause before actors are looked for again; a look that took long is repeated as much less often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How much longer than a look the pause after it is, at least.
const REST: u32 = 50;
/// How long the removal of a golden actor may take at a time.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);

impl Golden<'_> {
    /// Removes a golden snapshot with its actor, once no actor of the template needs it.
    pub(super) async fn remove(&self, unused: &GoldenSnapshot) -> Result<Action, Error> {
        let began = Instant::now();
        if self.is_needed(runtimes::made_by(unused)).await? {
            self.rest().await?;
            return Ok(Action::requeue(LOOK_AGAIN.max(began.elapsed() * REST)));
        }
        if let Some(actor) = self.maker(unused).await? {
            let call = Call::within(REMOVE_LIMIT);
            if let Err(error) = self.context.engine.delete(&actor, call).await {
                tracing::warn!(template = %self.key, %actor, %error, "golden actor is not removed yet");
                return Ok(Action::requeue(RETRY));
            }
        }
        tracing::info!(template = %self.key, runtime = unused.runtime, "no worker is of this runtime any more, and no actor: its golden snapshot is removed");
        let mut status = self.status();
        status.golden_snapshots.retain(|g| g.id != unused.id);
        if let Some(newest) = status.golden_snapshots.last().cloned() {
            status.golden_snapshot = Some(newest.uri.clone());
            let maker = self.maker(&newest).await?;
            status.golden_actor_id = maker.map(|key| format!("{}.{}", key.name, key.namespace));
        }
        self.write(status).await?;
        Ok(Action::requeue(SOON))
    }

    /// Whether an actor of the template is of a build, or on its way and may be.
    async fn is_needed(&self, build: Option<Build>) -> Result<bool, StoreError> {
        let mut needed = false;
        for namespace in self.namespaces() {
            let store = &**self.context.engine.store();
            each_actor(store, Some(namespace), |actor| {
                needed |= !self.is_golden(&actor.key) && needs(&actor, &self.key, build);
            })
            .await?;
        }
        Ok(needed)
    }

    /// The golden actor of which a snapshot is.
    async fn maker(&self, golden: &GoldenSnapshot) -> Result<Option<ActorKey>, StoreError> {
        let Ok(id) = golden.id.parse::<SnapshotId>() else {
            return Ok(None);
        };
        for build in [None, runtimes::made_by(golden)] {
            let key = self.actor_of(build);
            match self.context.engine.store().get_actor(&key).await {
                Ok(actor) if actor.status.uid == id.actor => return Ok(Some(key)),
                Ok(_) | Err(StoreError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn needs(actor: &ActorRecord, template: &TemplateKey, build: Option<Build>) -> bool {
    let status = &actor.status;
    let mut own = status
        .durable
        .iter()
        .chain(status.local.as_ref().map(|l| &l.snapshot));
    actor.spec.template == *template
        && (actor.header.phase.is_transitional() || own.any(|s| s.runtime == build))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::record::{Phase, SnapshotRecord};

    #[test]
    fn an_actor_needs_the_build_of_its_snapshots() {
        let build = |digit: &str| digit.repeat(12).parse::<Build>().ok();
        let template = TemplateKey::new("ns", "t");
        let mut actor = ActorRecord::default();
        actor.spec.template = template.clone();
        assert!(!needs(&actor, &template, build("a")));
        actor.status.durable = Some(SnapshotRecord {
            epoch: Default::default(),
            bytes: 1,
            time: Default::default(),
            runtime: build("a"),
        });
        assert!(needs(&actor, &template, build("a")));
        assert!(!needs(&actor, &template, build("b")));
        assert!(!needs(&actor, &TemplateKey::new("ns", "u"), build("a")));
        actor.header.phase = Phase::Resuming;
        assert!(
            needs(&actor, &template, build("b")),
            "nobody knows where it will be"
        );
    }
}
