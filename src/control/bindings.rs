//! `Bindings`: where routers send an actor's requests.

use super::{DEFAULT_WAIT, Doors, status};
use crate::api::ActorKey;
use crate::api::record::ActorRecord;
use crate::engine::{Call, DriveError, Engine};
use crate::lifecycle::placement::request_port;
use crate::proto::atenode::bindings_server::Bindings;
use crate::proto::atenode::{ResolveRequest, ResolveResponse};
use crate::rpc::deadline;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::{Request, Response, Status};

/// Pause before an actor that moves the other way is asked for again.
const PARKED: Duration = Duration::from_millis(50);

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
        let woken = wake(&self.engine, &key, call).await;
        let record = woken.map_err(|e| status(&id, &e))?;
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

/// Wakes an actor; when it is about to go to sleep, as soon as it has: who asks for a router has a request for it, not an opinion.
async fn wake(engine: &Arc<Engine>, key: &ActorKey, call: Call) -> Result<ActorRecord, DriveError> {
    loop {
        match engine.resume(key, call).await {
            Err(DriveError::InProgress) if Instant::now() + PARKED < call.deadline => {
                sleep(PARKED).await;
            }
            ended => return ended,
        }
    }
}
