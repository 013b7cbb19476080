//! Watches: first the state where it is asked for, then every change, each once.

use super::Context;
use super::body::Reply;
use super::list::{self, collect};
use super::meta;
use super::negotiate::{Shape, Wanted};
use super::registration::Registration;
use super::selector::Filter;
use super::status::ApiError;
use super::storage::{Backdrop, ObjectChange, StorageError};
use super::table::{self, Include};
use crate::api::names::ResourceVersion;
use crate::api::time::Timestamp;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// A watch without `timeoutSeconds` lasts at least this long, and at most twice as long.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a client that wants bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// One wait for changes; also how soon a watch notices that its time is over.
const POLL: Duration = Duration::from_secs(1);
/// Events that wait for a slow client; then the watch waits with it.
const QUEUE: usize = 64;
/// What the backdrop turned to so shortly before a watch began may have been missed by the list before it.
const RECENT: Duration = Duration::from_secs(5);
/// A client that takes nothing for so long is cut off.
const STALL: Duration = Duration::from_secs(30);

/// What a watch is about.
struct Watch {
    registration: Arc<Registration>,
    filter: Filter,
    wanted: Wanted,
    include: Include,
    bookmarks: bool,
    /// The columns' definitions were sent.
    head_sent: bool,
    /// The last version that was sent or passed over.
    at: ResourceVersion,
    /// What objects were shown by when it was last looked at.
    backdrop: Option<Backdrop>,
    out: mpsc::Sender<Bytes>,
}

/// How a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// With the state; `mark` ends it with the annotated bookmark.
    State { mark: bool },
    /// With the changes after a version.
    After(ResourceVersion),
    /// With the next change.
    Now,
}

fn start(ctx: &Context) -> Result<Start, ApiError> {
    let query = &ctx.query;
    let version = list::version(query.get("resourceVersion"))?;
    let matching = query.get("resourceVersionMatch");
    let initial = query.flag("sendInitialEvents");
    let unprocessable = |why: &str| Err(ApiError::Unprocessable(why.to_owned()));
    match (initial, matching) {
        (Some(_), Some("NotOlderThan")) => {}
        (Some(_), _) => {
            return unprocessable(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        (None, Some(_)) => {
            return unprocessable(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        (None, None) => {}
    }
    Ok(match (initial, version) {
        (Some(true), _) => Start::State { mark: true },
        (Some(false), None) => Start::Now,
        (None, None) => Start::State { mark: false },
        (Some(false) | None, Some(version)) => Start::After(version),
    })
}

/// Answers a watch.
pub async fn watch(ctx: &Context, shutdown: CancellationToken) -> Result<Response, ApiError> {
    let start = start(ctx)?;
    let filter = list::filter(ctx)?;
    let timeout = match ctx.query.seconds("timeoutSeconds")? {
        Some(timeout) if !timeout.is_zero() => timeout,
        _ => MIN_TIMEOUT.mul_f64(1.0 + rand::random::<f64>()),
    };
    let (out, receiver) = mpsc::channel(QUEUE);
    let mut watch = Watch {
        registration: ctx.registration.clone(),
        filter,
        wanted: ctx.wanted,
        include: ctx.include,
        bookmarks: ctx.query.is_true("allowWatchBookmarks"),
        head_sent: false,
        at: ResourceVersion::default(),
        backdrop: ctx.registration.storage.backdrop(),
        out,
    };
    let initial = watch.begin(start, ctx).await?;
    let deadline = Instant::now() + timeout;
    tokio::spawn(async move {
        tokio::select! {
            _ = watch.run(initial, deadline) => {}
            () = shutdown.cancelled() => {}
        }
    });
    let stream = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-cache, private"),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Why a watch ends before its time.
enum End {
    /// The client is gone or too slow.
    Client,
    /// The storage says so.
    Storage(StorageError),
}

impl Watch {
    /// Reads what a watch begins with; errors here are still answers with a code.
    async fn begin(&mut self, start: Start, ctx: &Context) -> Result<Vec<Value>, ApiError> {
        let asked = list::version(ctx.query.get("resourceVersion"))?;
        let mut initial = vec![];
        match start {
            Start::After(version) => {
                self.at = version;
                let now = Timestamp::now();
                if let Some(backdrop) = &mut self.backdrop {
                    backdrop.retain(|_, (_, since)| now.since(*since) > RECENT);
                }
                // An expired version is answered at once, not in the stream.
                let read = self
                    .registration
                    .storage
                    .changes(version, Duration::ZERO)
                    .await;
                read.map_err(|e| ApiError::storage(e, || self.registration.target("")))?;
            }
            Start::Now => {
                let everything = Filter {
                    namespace: self.filter.namespace.clone(),
                    ..Filter::default()
                };
                self.at = collect(&self.registration, &everything, None, 1)
                    .await?
                    .version;
            }
            Start::State { mark } => {
                let state = collect(&self.registration, &self.filter, None, usize::MAX).await?;
                if let Some(asked) = asked.filter(|asked| *asked > state.version) {
                    return Err(ApiError::FutureVersion {
                        asked,
                        current: state.version,
                    });
                }
                self.at = state.version;
                for object in state.items {
                    initial.push(self.event("ADDED", object));
                }
                if mark && self.bookmarks {
                    initial.push(self.bookmark(true));
                }
            }
        }
        Ok(initial)
    }

    async fn run(&mut self, initial: Vec<Value>, deadline: Instant) {
        let end = async {
            for event in initial {
                self.send(event).await?;
            }
            self.follow(deadline).await
        };
        match end.await {
            Ok(()) | Err(End::Client) => {}
            Err(End::Storage(error)) => {
                let error = ApiError::storage(error, || self.registration.target(""));
                let _ = self
                    .send(json!({"type": "ERROR", "object": error.to_status()}))
                    .await;
            }
        }
    }

    async fn follow(&mut self, deadline: Instant) -> Result<(), End> {
        let mut next_bookmark = Instant::now() + BOOKMARK_EVERY;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (self.bookmarks && Instant::now() >= next_bookmark) {
                if self.bookmarks {
                    let bookmark = self.bookmark(false);
                    self.send(bookmark).await?;
                    next_bookmark = Instant::now() + BOOKMARK_EVERY;
                }
                if left.is_zero() {
                    return Ok(());
                }
            }
            self.repaint().await?;
            let registration = self.registration.clone();
            let changes = tokio::select! {
                changes = registration.storage.changes(self.at, left.min(POLL)) => changes,
                () = self.out.closed() => return Err(End::Client),
            };
            for change in changes.map_err(End::Storage)? {
                self.at = self.at.max(change.version);
                if let Some(event) = self.change(change) {
                    self.send(event).await?;
                }
            }
        }
    }

    /// Shows again what looks different although nobody wrote it. An object that is newer than this watch is left to its own
    /// change, which shows it as it looks then.
    async fn repaint(&mut self) -> Result<(), End> {
        let Some(now) = self.registration.storage.backdrop() else {
            return Ok(());
        };
        let Some(before) = self.backdrop.replace(now.clone()) else {
            return Ok(());
        };
        let state = |of: &Backdrop, part: &String| of.get(part).map(|(fine, _)| *fine);
        let parts = before.keys().chain(now.keys());
        let changed: HashSet<String> = parts
            .filter(|part| state(&before, part) != state(&now, part))
            .cloned()
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let shown = collect(&self.registration, &self.filter, None, usize::MAX).await;
        let shown = shown.map_err(|e| End::Storage(StorageError::Unavailable(e.to_string())))?;
        for object in shown.items {
            let version = meta::text(&object, "resourceVersion").parse::<u64>();
            let seen = version.is_ok_and(|v| ResourceVersion(v) <= self.at);
            let part = self.registration.storage.part_of(&object);
            if seen && part.is_some_and(|part| changed.contains(&part)) {
                let event = self.event("MODIFIED", object);
                self.send(event).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, event: Value) -> Result<(), End> {
        let mut line = event.to_string();
        line.push('\n');
        self.out
            .send_timeout(line.into(), STALL)
            .await
            .map_err(|_| End::Client)
    }

    /// What a change looks like through the filter.
    fn change(&mut self, change: ObjectChange) -> Option<Value> {
        let selected = |image: Option<Value>| image.filter(|o| self.filter.matches(o));
        match (selected(change.before), selected(change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(self.event("ADDED", after)),
            (Some(_), Some(after)) => Some(self.event("MODIFIED", after)),
            (Some(before), None) => Some(self.event("DELETED", before)),
        }
    }

    fn event(&mut self, kind: &str, object: Value) -> Value {
        let object = match self.wanted.shape {
            Shape::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let head = !std::mem::replace(&mut self.head_sent, true);
                table::table(&self.registration, [&object], metadata, self.include, head)
            }
            Shape::Object | Shape::Metadata | Shape::Discovery => Reply {
                registration: &self.registration,
                wanted: self.wanted,
                include: self.include,
            }
            .shape(object),
        };
        json!({"type": kind, "object": object})
    }

    fn bookmark(&self, initial: bool) -> Value {
        let mut metadata = json!({"resourceVersion": self.at.to_string()});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.wanted.shape {
            Shape::Table => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": []})
            }
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Object | Shape::Discovery => {
                json!({"kind": self.registration.kind, "apiVersion": self.registration.api_version(), "metadata": metadata})
            }
        };
        json!({"type": "BOOKMARK", "object": object})
    }
}
