//! `SessionIdentity`: not served yet; clients get a clear answer instead of an unknown service.

use crate::proto::ateapi::session_identity_server::SessionIdentity;
use crate::proto::ateapi::{MintCertRequest, MintCertResponse, MintJwtRequest, MintJwtResponse};
use tonic::{Request, Response, Status};

/// Answers Unimplemented.
pub(super) struct NotServed;

const WHY: &str = "session identities are not issued by this version";

#[tonic::async_trait]
impl SessionIdentity for NotServed {
    async fn mint_jwt(
        &self,
        _: Request<MintJwtRequest>,
    ) -> Result<Response<MintJwtResponse>, Status> {
        Err(Status::unimplemented(WHY))
    }

    async fn mint_cert(
        &self,
        _: Request<MintCertRequest>,
    ) -> Result<Response<MintCertResponse>, Status> {
        Err(Status::unimplemented(WHY))
    }
}
