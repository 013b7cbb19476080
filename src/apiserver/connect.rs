//! Subresources that are actions or streams: `resume`, `suspend`, `pause` and `log` of actors.

use super::Context;
use super::driver::{ActorDriver, DriveError, LogOptions};
use super::status::ApiError;
use super::storage::actor::{self, Look};
use async_trait::async_trait;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use http::{StatusCode, header};
use std::sync::Arc;
use std::time::Duration;

/// The longest `?wait=`: below the 60 s at which kube-apiserver cuts a proxied request.
pub const MAX_WAIT: Duration = Duration::from_secs(55);

/// A subresource that is an action or a stream.
#[async_trait]
pub trait Connect: Send + Sync + 'static {
    /// The only verb that it knows, `create` (POST) or `get`.
    fn verb(&self) -> &'static str;
    /// Kind of its answers, for discovery.
    fn kind(&self) -> &'static str;
    /// Answers a request with its verb.
    async fn call(&self, ctx: &Context) -> Result<Response, ApiError>;
}

/// Where an actor is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// Awake.
    Resume,
    /// Asleep, durable.
    Suspend,
    /// Asleep on its node.
    Pause,
}

/// `POST .../resume|suspend|pause`: answers with the actor, at once or after `?wait=SECONDS`.
pub struct Move {
    /// Who moves actors.
    pub driver: Arc<dyn ActorDriver>,
    /// What its answers look like.
    pub look: Look,
    /// Where to.
    pub motion: Motion,
}

fn drive_error(error: DriveError, ctx: &Context) -> ApiError {
    let target = ctx.registration.target(&ctx.info.name);
    match error {
        DriveError::NotFound(_) => ApiError::NotFound(target),
        DriveError::Conflict(why) | DriveError::Precondition(why) => {
            ApiError::Conflict { target, why }
        }
        DriveError::Forbidden(why) => ApiError::Forbidden(why),
        DriveError::Unavailable(why) => ApiError::Unavailable(why),
        DriveError::Timeout(why) => ApiError::Timeout(why),
        DriveError::Internal(why) => ApiError::Internal(why),
    }
}

#[async_trait]
impl Connect for Move {
    fn verb(&self) -> &'static str {
        "create"
    }

    fn kind(&self) -> &'static str {
        "Actor"
    }

    async fn call(&self, ctx: &Context) -> Result<Response, ApiError> {
        let wait = ctx.query.seconds("wait")?.filter(|w| !w.is_zero());
        if wait.is_some_and(|w| w > MAX_WAIT) {
            let max = MAX_WAIT.as_secs();
            return Err(ApiError::BadRequest(format!(
                "wait may be at most {max} seconds"
            )));
        }
        let fail = |e| ApiError::storage(e, || ctx.registration.target(&ctx.info.name));
        let key = actor::actor_key(&ctx.key()).map_err(fail)?;
        let moved = match self.motion {
            Motion::Resume => {
                self.driver
                    .resume(&key, ctx.query.is_true("boot"), wait)
                    .await
            }
            Motion::Suspend => self.driver.suspend(&key, wait).await,
            Motion::Pause => self.driver.pause(&key, wait).await,
        };
        let record = moved.map_err(|e| drive_error(e, ctx))?;
        let object = self.look.object(&record).map_err(fail)?;
        let reply = ctx.reply();
        Ok(reply.respond(StatusCode::OK, &reply.shape(object)))
    }
}

/// `GET .../log?container=&follow=&tailLines=`: text, as it is written.
pub struct Logs {
    /// Who knows where the log is.
    pub driver: Arc<dyn ActorDriver>,
}

#[async_trait]
impl Connect for Logs {
    fn verb(&self) -> &'static str {
        "get"
    }

    fn kind(&self) -> &'static str {
        "Actor"
    }

    async fn call(&self, ctx: &Context) -> Result<Response, ApiError> {
        let fail = |e| ApiError::storage(e, || ctx.registration.target(&ctx.info.name));
        let key = actor::actor_key(&ctx.key()).map_err(fail)?;
        let options = LogOptions {
            container: ctx.query.get("container").map(str::to_owned),
            follow: ctx.query.is_true("follow"),
            tail: ctx.query.number("tailLines")?,
        };
        let lines = self.driver.logs(&key, options).await;
        let lines = lines.map_err(|e| drive_error(e, ctx))?;
        let body = Body::from_stream(lines.map_err(std::io::Error::other));
        Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
    }
}
