//! `Bindings`: where routers send an actor's requests.

use super::{DEFAULT_WAIT, Doors, status};
use crate::api::ActorKey;
use crate::engine::Call;
use crate::lifecycle::placement::request_port;
use crate::proto::atenode::bindings_server::Bindings;
use crate::proto::atenode::{ResolveRequest, ResolveResponse};
use crate::rpc::deadline;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl Bindings for Doors {
    async fn resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        let call = Call::within(deadline::of(&request, DEFAULT_WAIT));
        let ResolveRequest { namespace, name } = request.into_inner();
        let (key, id) = if namespace.is_empty() {
            (self.lookup(&name).await?.key, name)
        } else {
            let id = format!("{name}.{namespace}");
            (
                ActorKey::parse(&namespace, &name)
                    .map_err(|e| Status::invalid_argument(e.to_string()))?,
                id,
            )
        };
        let record = self
            .engine
            .resume(&key, call)
            .await
            .map_err(|e| status(&id, &e))?;
        let address = record.status.assignment.as_ref().map(|a| a.address.clone());
        let template = self.engine.catalog().template(&record.spec.template);
        let steps = self.engine.wake_steps(&record);
        Ok(Response::new(ResolveResponse {
            steps,
            address: address.ok_or_else(|| Status::internal("a running actor has no address"))?,
            epoch: record.header.epoch.0,
            namespace: record.key.namespace,
            name: record.key.name,
            port: template.map_or(0, |t| u32::from(request_port(&t))),
        }))
    }
}
