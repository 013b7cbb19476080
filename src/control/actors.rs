//! `ateapi.Control`.

use super::access::{Caller, wish};
use super::{DEFAULT_WAIT, Doors, convert, status, status::of_store};
use crate::api::names::is_dns_label;
use crate::api::record::{ActorRecord, Phase, SpecRecord, StatusRecord};
use crate::api::selector::Selector;
use crate::api::{ActorKey, TemplateKey, Timestamp, validate, view};
use crate::engine::Call;
use crate::lifecycle::placement;
use crate::proto::ateapi::control_server::Control;
use crate::proto::ateapi::*;
use crate::rpc::deadline;
use crate::store::StoreError;
use std::collections::HashMap;
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// Page size where the client names none, and the largest that it may name.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// How often a spec is written again that somebody else wrote at the same time.
const UPDATE_TRIES: usize = 5;

impl Doors {
    /// The actor that a client calls `id`: a flat id, or `name.namespace`.
    pub(super) async fn lookup(&self, id: &str) -> Result<ActorRecord, Status> {
        let found = match id.split_once('.') {
            Some((name, namespace)) if is_dns_label(name) && is_dns_label(namespace) => {
                self.engine
                    .store()
                    .get_actor(&ActorKey::new(namespace, name))
                    .await
            }
            None if is_dns_label(id) => self.engine.store().get_flat(id).await,
            _ => return Err(bad_id(id)),
        };
        found.map_err(|e| of_store(id, &e))
    }

    fn actor(&self, record: &ActorRecord) -> Option<Actor> {
        Some(convert::actor(record, &self.engine.snapshots_of(record)))
    }

    fn check_template(&self, template: &TemplateKey, namespace: &str) -> Result<(), Status> {
        if !self.engine.catalog().is_synced() {
            return Err(Status::unavailable(
                "templates are not known yet; try again",
            ));
        }
        let missing = || Status::failed_precondition(format!("ActorTemplate {template} not found"));
        let known = self.engine.catalog().template(template);
        let spec = &known.ok_or_else(missing)?.spec;
        placement::admit(template, spec, namespace)
            .map_err(|(_, why)| Status::permission_denied(why))
    }
}

fn bad_id(id: &str) -> Status {
    if id.is_empty() {
        return Status::invalid_argument("actor_id is required");
    }
    Status::invalid_argument(format!(
        "actor_id {:?} is invalid: use at most 63 lower-case letters, digits and '-', or NAME.NAMESPACE",
        id.chars().take(80).collect::<String>()
    ))
}

/// The rules that every edge applies.
fn check(record: &ActorRecord) -> Result<(), Status> {
    let (key, spec) = (&record.key, view::spec(record));
    let wrong = validate::object(&key.name, &key.namespace, &spec);
    match wrong.first() {
        None => Ok(()),
        Some(violation) => Err(Status::invalid_argument(violation.to_string())),
    }
}

fn call<T>(request: &Request<T>) -> Call {
    Call::within(deadline::of(request, DEFAULT_WAIT))
}

fn selector(selector: Option<crate::proto::ateapi::Selector>) -> Selector {
    let labels = selector
        .unwrap_or_default()
        .match_labels
        .into_iter()
        .collect();
    Selector {
        labels,
        expressions: vec![],
    }
}

#[tonic::async_trait]
impl Control for Doors {
    async fn get_actor(
        &self,
        request: Request<GetActorRequest>,
    ) -> Result<Response<GetActorResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = request.into_inner().actor_id;
        let record = self.actor_for(&caller, &id, "get", "actors").await?;
        Ok(Response::new(GetActorResponse {
            actor: self.actor(&record),
        }))
    }

    async fn create_actor(
        &self,
        request: Request<CreateActorRequest>,
    ) -> Result<Response<CreateActorResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let id = request.actor_id;
        if !is_dns_label(&id) {
            return Err(bad_id(&id));
        }
        let (namespace, name) = (
            request.actor_template_namespace,
            request.actor_template_name,
        );
        if namespace.is_empty() || name.is_empty() {
            return Err(Status::invalid_argument(
                "actor_template_namespace and actor_template_name are required",
            ));
        }
        self.may(&caller, wish("create", "actors", &namespace, &id))
            .await?;
        self.takes_new(&namespace).await?;
        let template = TemplateKey::new(&namespace, name);
        let record = new_actor(
            ActorKey::new(namespace, &id),
            template.clone(),
            selector(request.worker_selector),
        );
        check(&record)?;
        self.check_template(&template, &record.key.namespace)?;
        let cap = self.caps.of(&record.key.namespace);
        let created = self
            .engine
            .store()
            .create_actor(record, cap)
            .await
            .map_err(|e| of_store(&id, &e))?;
        Ok(Response::new(CreateActorResponse {
            actor: self.actor(&created),
        }))
    }

    async fn update_actor(
        &self,
        request: Request<UpdateActorRequest>,
    ) -> Result<Response<UpdateActorResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let selector = selector(request.worker_selector);
        for _ in 0..UPDATE_TRIES {
            let id = &request.actor_id;
            let record = self.actor_for(&caller, id, "update", "actors").await?;
            let mut spec = record.spec.clone();
            spec.worker_selector = selector.clone();
            spec.generation += u32::from(spec != record.spec);
            let version = record.header.resource_version;
            match self
                .engine
                .store()
                .update_spec(&record.key, version, &spec, &record.meta)
                .await
            {
                Ok(record) => {
                    return Ok(Response::new(UpdateActorResponse {
                        actor: self.actor(&record),
                    }));
                }
                Err(StoreError::Conflict(_)) => {}
                Err(e) => return Err(of_store(&request.actor_id, &e)),
            }
        }
        Err(Status::aborted(
            "another operation is in progress for this actor",
        ))
    }

    async fn suspend_actor(
        &self,
        request: Request<SuspendActorRequest>,
    ) -> Result<Response<SuspendActorResponse>, Status> {
        let (call, caller) = (call(&request), Caller::of(&request)?);
        let id = request.into_inner().actor_id;
        let record = self
            .actor_for(&caller, &id, "create", "actors/suspend")
            .await?;
        let record = self
            .engine
            .suspend(&record.key, call)
            .await
            .map_err(|e| status(&id, &e))?;
        Ok(Response::new(SuspendActorResponse {
            actor: self.actor(&record),
        }))
    }

    async fn pause_actor(
        &self,
        request: Request<PauseActorRequest>,
    ) -> Result<Response<PauseActorResponse>, Status> {
        let (call, caller) = (call(&request), Caller::of(&request)?);
        let id = request.into_inner().actor_id;
        let record = self
            .actor_for(&caller, &id, "create", "actors/pause")
            .await?;
        let record = self
            .engine
            .pause(&record.key, call)
            .await
            .map_err(|e| status(&id, &e))?;
        Ok(Response::new(PauseActorResponse {
            actor: self.actor(&record),
        }))
    }

    async fn resume_actor(
        &self,
        request: Request<ResumeActorRequest>,
    ) -> Result<Response<ResumeActorResponse>, Status> {
        let (call, caller) = (call(&request), Caller::of(&request)?);
        let ResumeActorRequest { actor_id: id, boot } = request.into_inner();
        let record = self
            .actor_for(&caller, &id, "create", "actors/resume")
            .await?;
        let call = if boot { call.booting() } else { call };
        let record = self
            .engine
            .resume(&record.key, call)
            .await
            .map_err(|e| status(&id, &e))?;
        Ok(Response::new(ResumeActorResponse {
            actor: self.actor(&record),
        }))
    }

    async fn delete_actor(
        &self,
        request: Request<DeleteActorRequest>,
    ) -> Result<Response<DeleteActorResponse>, Status> {
        let (call, caller) = (call(&request), Caller::of(&request)?);
        let id = request.into_inner().actor_id;
        let record = self.actor_for(&caller, &id, "delete", "actors").await?;
        if record.header.phase != Phase::Suspended {
            let phase = format!("STATUS_{}", record.header.phase.to_string().to_uppercase());
            return Err(Status::failed_precondition(format!(
                "Actor {id} is not suspended (status: {phase})"
            )));
        }
        self.engine
            .delete(&record.key, call)
            .await
            .map_err(|e| status(&id, &e))?;
        Ok(Response::new(DeleteActorResponse {}))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let caller = Caller::of(&request)?;
        self.may(&caller, wish("list", "workers", "", "")).await?;
        let workers = self
            .engine
            .store()
            .list_workers(None)
            .await
            .map_err(|e| of_store("", &e))?
            .items;
        let mut actors = HashMap::new();
        for claim in workers.iter().filter_map(|w| w.claim.as_ref()) {
            if let Ok(actor) = self.engine.store().get_actor(&claim.actor).await {
                actors.insert(claim.actor.clone(), actor);
            }
        }
        let actor_of =
            |w: &crate::api::WorkerRecord| w.claim.as_ref().and_then(|c| actors.get(&c.actor));
        let workers = workers
            .iter()
            .map(|w| convert::worker(w, actor_of(w)))
            .collect();
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn list_actors(
        &self,
        request: Request<ListActorsRequest>,
    ) -> Result<Response<ListActorsResponse>, Status> {
        let caller = Caller::of(&request)?;
        self.may(&caller, wish("list", "actors", "", "")).await?;
        let request = request.into_inner();
        let limit = match usize::try_from(request.page_size) {
            Ok(0) => PAGE,
            Ok(n) => n.min(MAX_PAGE),
            Err(_) => return Err(Status::invalid_argument("page_size must not be negative")),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(
                token
                    .parse::<ActorKey>()
                    .map_err(|_| Status::invalid_argument("page_token is not one of ours"))?,
            ),
        };
        let page = self
            .engine
            .store()
            .list_actors(None, after.as_ref(), limit)
            .await
            .map_err(|e| of_store("", &e))?;
        Ok(Response::new(ListActorsResponse {
            actors: page.items.iter().filter_map(|a| self.actor(a)).collect(),
            next_page_token: page.next.map(|k| k.to_string()).unwrap_or_default(),
        }))
    }

    async fn debug_clear(
        &self,
        _: Request<DebugClearRequest>,
    ) -> Result<Response<DebugClearResponse>, Status> {
        Err(Status::unimplemented(
            "DebugClear is not offered: delete actors one by one",
        ))
    }
}

/// A new actor at rest, with a flat id.
fn new_actor(key: ActorKey, template: TemplateKey, worker_selector: Selector) -> ActorRecord {
    ActorRecord {
        key,
        spec: SpecRecord {
            template,
            worker_selector,
            generation: 1,
            ..SpecRecord::default()
        },
        status: StatusRecord {
            uid: Uuid::new_v4(),
            created: Timestamp::now(),
            flat: true,
            ..StatusRecord::default()
        },
        ..ActorRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_actors_obey_the_rules_of_every_edge() {
        let of = |namespace: &str, template: &str| {
            let template = TemplateKey::new(namespace, template);
            let key = ActorKey::new(namespace, "a");
            check(&new_actor(key, template, Selector::default()))
        };
        assert!(of("ns", "counter").is_ok());
        for (namespace, template, said) in [
            (
                "Bad_ns",
                "counter",
                "metadata.namespace: \"Bad_ns\" is not a DNS label",
            ),
            ("ns", &"a".repeat(254), "spec.templateRef.name: is too long"),
        ] {
            let status = of(namespace, template).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().starts_with(said), "{}", status.message());
        }
    }
}
