//! `Nodes`: what node agents report. A node may speak for itself only.

use super::agents::Bound;
use super::{Doors, status};
use crate::proto::atenode::nodes_server::Nodes;
use crate::proto::atenode::{ReportRequest, ReportResponse};
use tonic::{Request, Response, Status};

/// Slots that one node may report.
const MAX_SLOTS: usize = 1024;

#[tonic::async_trait]
impl Nodes for Doors {
    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let bound = request.extensions().get::<Bound>().cloned();
        let report = request.into_inner();
        if report.node.is_empty() || report.address.is_empty() {
            return Err(Status::invalid_argument("node and address are required"));
        }
        if let Some(Bound(node)) = bound.filter(|b| b.0 != report.node) {
            return Err(Status::permission_denied(format!(
                "the token is of a pod on node {node:?}, the report of node {:?}",
                report.node
            )));
        }
        if report.slots.len() > MAX_SLOTS {
            return Err(Status::invalid_argument(format!(
                "a node has at most {MAX_SLOTS} slots"
            )));
        }
        self.engine
            .report(&report)
            .await
            .map(Response::new)
            .map_err(|e| status(&report.node, &e))
    }
}
