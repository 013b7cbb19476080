//! Asking where an actor can be reached, which wakes it.

use super::Target;
use crate::api::names::Epoch;
use crate::proto::atenode::ResolveRequest;
use crate::proto::atenode::bindings_client::BindingsClient;
use crate::rpc::Link;
use async_trait::async_trait;
use std::error::Error as _;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

/// Where an actor was reachable when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `host:port`; the port belongs to this assignment alone.
    pub address: String,
    /// Of the operation that brought the actor there.
    pub epoch: Epoch,
    /// Steps of the wake, where the call did one.
    pub steps: Vec<(String, Duration)>,
}

/// Why an actor cannot be reached. The message is shown to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such actor: 404.
    #[error("{0}")]
    NotFound(String),
    /// It does not wake now (no free worker, suspended by policy, its node is away): 503, worth a retry.
    #[error("{0}")]
    Unavailable(String),
    /// It did not wake in time: 504, worth a retry.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// 403.
    #[error("{0}")]
    PermissionDenied(String),
    /// 401.
    #[error("{0}")]
    Unauthenticated(String),
    /// A limit of its namespace is reached: 429.
    #[error("{0}")]
    ResourceExhausted(String),
    /// Anything else: 500, a bug or a wrong installation.
    #[error("{0}")]
    Internal(String),
}

/// Who knows where actors are.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Where `target` is reachable, waking it first if it sleeps. Answers within `timeout`. Calling it again while
    /// the actor wakes joins that wake.
    async fn resolve(&self, target: &Target, timeout: Duration) -> Result<Binding, ResolveError>;
}

/// How long a resolve goes on trying to connect to an API server that is not there (it restarts), at most.
const UNREACHABLE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two such tries.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

/// Asks the API server (`Bindings.Resolve`).
pub struct ControlResolver {
    link: Link,
}

impl ControlResolver {
    /// Asks over `link`.
    pub fn new(link: Link) -> Self {
        Self { link }
    }

    async fn ask(&self, target: &Target, timeout: Duration) -> Result<Binding, Status> {
        let (namespace, name) = match target {
            Target::Actor(key) => (key.namespace.clone(), key.name.clone()),
            Target::Flat(id) => (String::new(), id.clone()),
        };
        let mut request = Request::new(ResolveRequest { namespace, name });
        crate::rpc::deadline::set(&mut request, timeout);
        let mut client = BindingsClient::new(self.link.channel());
        let answer = client.resolve(request).await?.into_inner();
        Ok(Binding {
            address: answer.address,
            epoch: Epoch(answer.epoch),
            steps: answer
                .steps
                .into_iter()
                .map(|s| (s.name, Duration::from_micros(s.micros)))
                .collect(),
        })
    }
}

#[async_trait]
impl Resolver for ControlResolver {
    async fn resolve(&self, target: &Target, timeout: Duration) -> Result<Binding, ResolveError> {
        let start = Instant::now();
        let late = || ResolveError::DeadlineExceeded(format!("{target} did not wake in time"));
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let asked = tokio::time::timeout(left, self.ask(target, left)).await;
            let status = match asked.map_err(|_| late())? {
                Ok(binding) => return Ok(binding),
                Err(status) => status,
            };
            if !unreachable(&status)
                || start.elapsed() + UNREACHABLE_PAUSE > UNREACHABLE_PATIENCE.min(timeout)
            {
                return Err(status.into());
            }
            tracing::debug!(%target, error = %status, "API server not reachable, trying again");
            tokio::time::sleep(UNREACHABLE_PAUSE).await;
        }
    }
}

/// Whether the question did not reach the API server, or its answer not us: a status that it sent has no source. It may be asked
/// again: a wake of what is awake is none. A connection that breaks under the question is Unknown or Internal to tonic.
fn unreachable(status: &Status) -> bool {
    let broken = matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal
    );
    broken && status.source().is_some()
}

impl From<Status> for ResolveError {
    fn from(status: Status) -> Self {
        if unreachable(&status) {
            return ResolveError::Unavailable("the API server cannot be reached; try again".into());
        }
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => ResolveError::NotFound(message),
            Code::FailedPrecondition | Code::Unavailable => ResolveError::Unavailable(message),
            // tonic answers Cancelled where the time ran out on either side.
            Code::DeadlineExceeded | Code::Cancelled => ResolveError::DeadlineExceeded(message),
            Code::PermissionDenied => ResolveError::PermissionDenied(message),
            Code::Unauthenticated => ResolveError::Unauthenticated(message),
            Code::ResourceExhausted => ResolveError::ResourceExhausted(message),
            Code::Ok
            | Code::Unknown
            | Code::InvalidArgument
            | Code::AlreadyExists
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => ResolveError::Internal(message),
        }
    }
}
