//! Deletion of a template: it waits while actors use it and says which, then removes the golden actor with its snapshots.

use super::{Golden, RETRY, each_actor};
use crate::api::condition::{condition, set};
use crate::api::{ActorKey, ActorTemplate, TemplateKey};
use crate::controller::{Error, MANAGER};
use crate::engine::Call;
use crate::store::StoreError;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Keeps a template until nobody needs it.
const FINALIZER: &str = "ate.dev/template-in-use";
/// Actors that the condition names.
const NAMED: usize = 5;
/// First pause before actors are looked for again; a look that took long is repeated as much less often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How much longer than a look the pause after it is, at least.
const REST: u32 = 10;
/// How long the removal of the golden actor may take at a time.
const REMOVE_LIMIT: Duration = Duration::from_secs(60);

/// Whether deletion waits for us already.
pub(super) fn waits(template: &ActorTemplate) -> bool {
    let all = template.metadata.finalizers.iter().flatten();
    all.into_iter().any(|f| f == FINALIZER)
}

/// Actors of a template.
#[derive(Debug, Default, PartialEq, Eq)]
struct Users {
    count: usize,
    first: Vec<String>,
    /// Those that are nobody's: they go with the template.
    golden: Vec<ActorKey>,
}

impl Users {
    fn add(&mut self, actor: &ActorKey, template: &TemplateKey, golden: bool) {
        if golden {
            self.golden.push(actor.clone());
            return;
        }
        self.count += 1;
        if self.first.len() < NAMED {
            let near = actor.namespace == template.namespace;
            let name = if near {
                actor.name.clone()
            } else {
                actor.to_string()
            };
            self.first.push(name);
        }
    }

    /// What the condition says; `None` when there are none.
    fn message(&self) -> Option<String> {
        let (count, names) = (self.count, self.first.join(", "));
        let more = match count - self.first.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        match count {
            0 => None,
            1 => Some(format!(
                "1 actor uses the template: {names}; it goes with that"
            )),
            _ => Some(format!(
                "{count} actors use the template: {names}{more}; it goes with the last of them"
            )),
        }
    }
}

impl Golden<'_> {
    /// Makes deletion wait for us. The change is seen as any other.
    pub(super) async fn guard(&self) -> Result<Action, Error> {
        let mut all = self.finalizers();
        all.push(FINALIZER.to_owned());
        self.put_finalizers(all).await
    }

    /// The next step of the deletion.
    pub(super) async fn leave(&self) -> Result<Action, Error> {
        if !waits(self.template) {
            return Ok(Action::await_change());
        }
        let began = Instant::now();
        let users = self.users().await?;
        if let Some(message) = users.message() {
            self.say("ActorsUseIt", &message).await?;
            let pause = LOOK_AGAIN.max(began.elapsed() * REST);
            return Ok(Action::requeue(pause));
        }
        for golden in &users.golden {
            let call = Call::within(REMOVE_LIMIT);
            if let Err(e) = self.context.engine.delete(golden, call).await {
                tracing::warn!(template = %self.key, %golden, error = %e, "golden actor is not removed yet");
                let message = format!("the golden actor is not removed yet: {e}");
                self.say("GoldenRemains", &message).await?;
                return Ok(Action::requeue(RETRY));
            }
        }
        let mut rest = self.finalizers();
        rest.retain(|f| f != FINALIZER);
        tracing::info!(template = %self.key, "goes: no actor uses it, its golden actor is removed");
        self.put_finalizers(rest).await
    }

    /// Where actors of the template may be: in its namespace and in those that it lets in.
    pub(super) fn namespaces(&self) -> BTreeSet<&str> {
        let allowed = self.template.spec.allowed_namespaces.iter();
        let own = std::iter::once(&self.key.namespace);
        own.chain(allowed).map(String::as_str).collect()
    }

    /// Actors of the template.
    async fn users(&self) -> Result<Users, StoreError> {
        let store = &**self.context.engine.store();
        let mut users = Users::default();
        for namespace in self.namespaces() {
            each_actor(store, Some(namespace), |actor| {
                if actor.spec.template == self.key {
                    users.add(&actor.key, &self.key, self.is_golden(&actor.key));
                }
            })
            .await?;
        }
        Ok(users)
    }

    async fn say(&self, reason: &str, message: &str) -> Result<(), Error> {
        let mut status = self.status();
        let generation = self.template.metadata.generation.unwrap_or_default();
        let waiting = condition(
            "DeletionBlocked",
            true,
            reason,
            message,
            generation,
            self.now,
        );
        set(&mut status.conditions, waiting);
        self.write(status).await
    }

    fn finalizers(&self) -> Vec<String> {
        self.template
            .metadata
            .finalizers
            .clone()
            .unwrap_or_default()
    }

    /// Refused when somebody else wrote meanwhile.
    async fn put_finalizers(&self, all: Vec<String>) -> Result<Action, Error> {
        let metadata = &self.template.metadata;
        let patch =
            json!({"metadata": {"finalizers": all, "resourceVersion": metadata.resource_version}});
        let api: Api<ActorTemplate> =
            Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let params = PatchParams::apply(MANAGER);
        match api
            .patch(&self.key.name, &params, &Patch::Merge(patch))
            .await
        {
            // Gone, or changed: the watch tells.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
            other => drop(other?),
        }
        Ok(Action::await_change())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many_and_names_the_first() {
        let template = TemplateKey::new("team", "t");
        let mut users = Users::default();
        assert_eq!(users.message(), None);
        users.add(&ActorKey::new("team", "a0"), &template, false);
        assert_eq!(
            users.message().unwrap(),
            "1 actor uses the template: a0; it goes with that"
        );
        users.add(&ActorKey::new("other", "b"), &template, false);
        for n in 2..7 {
            users.add(&ActorKey::new("team", format!("a{n}")), &template, false);
        }
        for n in 0..3 {
            users.add(&ActorKey::new("team", format!("g{n}")), &template, true);
        }
        assert_eq!(
            users.message().unwrap(),
            "7 actors use the template: a0, other/b, a2, a3, a4 and 2 more; it goes with the last of them"
        );
    }
}
