//! Watches: first the state where it is asked for, then every change, each once.

use super::Context;
use super::fanout::{self, Event, Form, Next, Progress, Seen, Watcher};
use super::list::{self, Cursor, PAGE};
use super::meta;
use super::negotiate::Shape;
use super::registration::Registration;
use super::selector::Filter;
use super::status::{ApiError, OptionError, OptionWhy};
use super::storage::{ObjectPage, StorageError};
use crate::api::names::ResourceVersion;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::header;
use k8s_openapi::ByteString;
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
pub const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Bytes of events that are sent together, if there are so many at once.
const CHUNK: usize = 16 << 10;
/// Chunks that wait for a slow client.
const QUEUE: usize = 8;
/// What the backdrop turned to after the version that a watch begins at, or so shortly before, may have been missed by the
/// list of that version: clocks differ, and Kubernetes' times are of whole seconds.
const RECENT: Duration = Duration::from_secs(5);
/// What the bookmark that ends the state carries an empty list as, in base64 (apiserver/pkg/endpoints/handlers/watch.go).
const BLUEPRINT: &str = "kubernetes.io/initial-events-list-blueprint";
/// Between two looks of a watch that has to catch up.
const CATCH_UP: Duration = Duration::from_millis(50);

/// What a watch is about.
struct Watch {
    registration: Arc<Registration>,
    filter: Filter,
    form: Form,
    bookmarks: bool,
    bookmark_every: Duration,
    /// A table's columns were named.
    head_sent: bool,
    /// The last version that was sent or passed over.
    at: ResourceVersion,
    watcher: Watcher,
    /// Parts of the backdrop by which objects look different than they were last shown.
    repaint: HashSet<String>,
    /// Lines that go out together.
    chunk: BytesMut,
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

/// As apimachinery's `ValidateListOptions` for a watch.
fn start(ctx: &Context) -> Result<Start, ApiError> {
    const MATCH: &str = "resourceVersionMatch";
    let query = &ctx.query;
    let matching = query.get(MATCH);
    let initial = query.flag("sendInitialEvents");
    let mut errors = vec![];
    let mut forbidden = |why| {
        let why = OptionWhy::Forbidden(why);
        errors.push(OptionError { field: MATCH, why });
    };
    if initial.is_some() && matching != Some("NotOlderThan") {
        forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if initial.is_none() && matching.is_some() {
        forbidden(
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    }
    if matching.is_some() && query.get("continue").is_some() {
        forbidden("resourceVersionMatch is forbidden when continue is provided");
    }
    if let Some(other) = matching.filter(|m| *m != "NotOlderThan") {
        let why = OptionWhy::NotSupported(other.into(), &["NotOlderThan"]);
        errors.push(OptionError { field: MATCH, why });
    }
    if !errors.is_empty() {
        return Err(ApiError::Options(errors));
    }
    let version = list::version(query.get("resourceVersion"))?;
    Ok(match (initial, version) {
        (Some(true), _) => Start::State { mark: true },
        (Some(false), None) => Start::Now,
        (None, None) => Start::State { mark: false },
        (Some(false) | None, Some(version)) => Start::After(version),
    })
}

/// Answers a watch.
pub async fn watch(
    ctx: &Context,
    bookmark_every: Duration,
    shutdown: CancellationToken,
) -> Result<Response, ApiError> {
    let start = start(ctx)?;
    let timeout = match ctx.query.seconds("timeoutSeconds")? {
        Some(timeout) if !timeout.is_zero() => timeout,
        _ => MIN_TIMEOUT.mul_f64(1.0 + rand::random::<f64>()),
    };
    let (out, receiver) = mpsc::channel(QUEUE);
    let mut watch = Watch {
        filter: list::filter(ctx)?,
        form: Form {
            shape: ctx.wanted.shape,
            include: ctx.include,
        },
        bookmarks: ctx.query.is_true("allowWatchBookmarks"),
        bookmark_every,
        head_sent: false,
        at: ResourceVersion::default(),
        watcher: ctx.registration.fanout.join(),
        repaint: HashSet::new(),
        registration: ctx.registration.clone(),
        chunk: BytesMut::new(),
        out,
    };
    let first = watch.begin(start, ctx).await?;
    let mark = start == Start::State { mark: true };
    let deadline = Instant::now() + timeout;
    tokio::spawn(async move {
        tokio::select! {
            () = watch.run(first, mark, deadline) => {}
            () = shutdown.cancelled() => {}
        }
    });
    let stream = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Why a watch ends before its time.
enum End {
    /// The client is gone, or was cut off because it took nothing.
    Gone,
    /// The storage says so.
    Storage(StorageError),
    /// The storage says nothing any more.
    Silent,
}

impl From<StorageError> for End {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Unavailable(_) => Self::Silent,
            other => Self::Storage(other),
        }
    }
}

impl Watch {
    /// Finds where the watch begins, and reads the first page of the state where it is asked for; errors here are still
    /// answers with a code.
    async fn begin(&mut self, start: Start, ctx: &Context) -> Result<Option<ObjectPage>, ApiError> {
        let registration = &self.registration;
        let storage = &registration.storage;
        let fail = |e| ApiError::storage(e, || registration.target(""));
        match start {
            Start::After(version) => {
                self.at = version;
                let written = fanout::written(version);
                let backdrop = storage.backdrop().unwrap_or_default().into_iter();
                let recent = backdrop.filter(|(_, (_, since))| written.since(*since) <= RECENT);
                self.repaint = recent.map(|(part, _)| part).collect();
                if !registration.fanout.reaches(version) {
                    // An expired version is answered at once, not in the stream.
                    registration.fanout.history(version).await.map_err(fail)?;
                }
                Ok(None)
            }
            Start::Now => {
                self.at = storage.version().await.map_err(fail)?;
                Ok(None)
            }
            Start::State { .. } => {
                let mut cursor = Cursor::new(registration, &self.filter);
                let page = cursor.page(PAGE).await.map_err(fail)?.unwrap_or_default();
                if let Some(asked) = list::version(ctx.query.get("resourceVersion"))? {
                    list::not_future(asked, page.version)?;
                }
                self.at = page.version;
                Ok(Some(page))
            }
        }
    }

    async fn run(&mut self, first: Option<ObjectPage>, mark: bool, deadline: Instant) {
        let from = *self.watcher.progress.borrow();
        let result = async {
            if let Some(first) = first {
                let state = self.state(first, mark);
                match tokio::time::timeout_at(deadline, state).await {
                    Ok(result) => result?,
                    Err(_) => return Ok(()),
                }
            }
            self.follow(from, deadline).await
        };
        match result.await {
            Ok(()) | Err(End::Gone | End::Silent) => {}
            Err(End::Storage(error)) => {
                let error = ApiError::storage(error, || self.registration.target(""));
                // A client that takes not even this is closed all the same.
                let _ = self.send(fanout::line("ERROR", &error.to_status())).await;
            }
        }
    }

    /// Shows the state page by page: no more than one is held.
    async fn state(&mut self, first: ObjectPage, mark: bool) -> Result<(), End> {
        let (registration, filter) = (self.registration.clone(), self.filter.clone());
        let mut cursor = Cursor::new(&registration, &filter).after(&first);
        let mut page = Some(first);
        while let Some(objects) = page {
            for object in objects.items {
                let object = object.into_fields()?;
                self.show(Seen::Added, &object).await?;
            }
            self.flush().await?;
            page = cursor.page(PAGE).await?;
        }
        if mark && self.bookmarks {
            self.send(self.bookmark(true)).await?;
        }
        Ok(())
    }

    async fn follow(&mut self, from: Progress, deadline: Instant) -> Result<(), End> {
        let mut next_bookmark = Instant::now() + self.bookmark_every;
        let mut paints = from.paints;
        loop {
            let progress = *self.watcher.progress.borrow_and_update();
            if progress.silences != from.silences {
                return Err(End::Silent);
            }
            let joined = self.catch_up().await?;
            if progress.paints != paints {
                self.repaint.extend(self.watcher.painted(paints));
                paints = progress.paints;
            }
            self.repaint().await?;
            let behind = Instant::now() + CATCH_UP;
            let end = next_bookmark.min(deadline);
            tokio::select! {
                _ = self.watcher.progress.changed() => {}
                () = tokio::time::sleep_until(behind), if !joined => {}
                () = tokio::time::sleep_until(end) => {
                    if self.bookmarks {
                        self.send(self.bookmark(false)).await?;
                    }
                    next_bookmark = Instant::now() + self.bookmark_every;
                }
                () = self.out.closed() => return Err(End::Gone),
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
        }
    }

    /// Shows all that is known to have happened; `false` while the fan-out does not reach back to this watch.
    async fn catch_up(&mut self) -> Result<bool, End> {
        loop {
            let namespace = self.filter.namespace.as_deref();
            let (events, upto, joined) = match self.watcher.next(self.at, namespace) {
                Next::Events(events, upto) => (events, upto, true),
                Next::Behind => {
                    let piece = self.registration.fanout.history(self.at).await?;
                    (piece.after(self.at).cloned().collect(), piece.upto, false)
                }
            };
            for event in &events {
                self.event(event).await?;
            }
            self.flush().await?;
            let moved = upto > self.at;
            self.at = self.at.max(upto);
            if joined && events.is_empty() {
                return Ok(true);
            }
            if !joined && !moved {
                return Ok(false);
            }
        }
    }

    /// Shows again what looks different although nobody wrote it. An object that is newer than this watch is left to its own
    /// change, which shows it as it looks then.
    async fn repaint(&mut self) -> Result<(), End> {
        let changed = std::mem::take(&mut self.repaint);
        if changed.is_empty() {
            return Ok(());
        }
        let (registration, filter) = (self.registration.clone(), self.filter.clone());
        let mut cursor = Cursor::new(&registration, &filter);
        while let Some(page) = cursor.page(PAGE).await? {
            for object in page.into_fields()? {
                let version = meta::text(&object, "resourceVersion").parse::<u64>();
                let seen = version.is_ok_and(|v| ResourceVersion(v) <= self.at);
                let part = registration.storage.part_of(&object);
                if seen && part.is_some_and(|part| changed.contains(&part)) {
                    self.show(Seen::Modified, &object).await?;
                }
            }
            self.flush().await?;
        }
        Ok(())
    }

    /// Shows an event as it looks through the filter.
    async fn event(&mut self, event: &Event) -> Result<(), End> {
        let selected =
            |image: &Option<Value>| image.as_ref().is_some_and(|o| self.filter.matches(o));
        let seen = match (
            selected(&event.change.before),
            selected(&event.change.after),
        ) {
            (false, false) => return Ok(()),
            (false, true) => Seen::Added,
            (true, true) => Seen::Modified,
            (true, false) => Seen::Deleted,
        };
        if self.form.shape == Shape::Table && !self.head_sent {
            let Some(object) = event.object(seen) else {
                return Ok(());
            };
            return self.show(seen, object).await;
        }
        match event.line(&self.registration, seen, self.form) {
            Some(line) => self.push(&line).await,
            None => Ok(()),
        }
    }

    /// Shows an object to this watch alone.
    async fn show(&mut self, seen: Seen, object: &Value) -> Result<(), End> {
        let head = !std::mem::replace(&mut self.head_sent, true);
        let line = self.form.line(&self.registration, seen, object, head);
        self.push(&line).await
    }

    /// Sends a line, and what was held back.
    async fn send(&mut self, line: Bytes) -> Result<(), End> {
        self.push(&line).await?;
        self.flush().await
    }

    /// Adds a line to what goes out together; goes out with the next `flush` at the latest.
    async fn push(&mut self, line: &[u8]) -> Result<(), End> {
        if self.chunk.len() + line.len() > CHUNK {
            self.flush().await?;
        }
        self.chunk.extend_from_slice(line);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = self.chunk.split().freeze();
        self.out.send(chunk).await.map_err(|_| End::Gone)
    }

    /// An empty list of what this watch shows: what client-go's lists by watches make theirs of.
    fn blueprint(&self) -> String {
        let list = match self.form.shape {
            Shape::Metadata => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": null,
            }),
            Shape::Object | Shape::Table | Shape::Discovery => json!({
                "kind": self.registration.list_kind(), "apiVersion": self.registration.api_version(), "items": [],
            }),
        };
        let encoded = serde_json::to_value(ByteString(list.to_string().into_bytes()));
        encoded.map_or_else(
            |_| String::new(),
            |v| v.as_str().unwrap_or_default().to_owned(),
        )
    }

    fn bookmark(&self, initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.at.to_string()});
        if initial {
            metadata["annotations"] =
                json!({"k8s.io/initial-events-end": "true", BLUEPRINT: self.blueprint()});
        }
        let object = match self.form.shape {
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
        fanout::line("BOOKMARK", &object)
    }
}
