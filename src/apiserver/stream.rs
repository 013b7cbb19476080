//! A list without a limit, sent while it is read: a few pages of it are held at most, however many objects there are.

use super::Context;
use super::body::{JSON, Reply, YAML};
use super::list::{Cursor, PAGE};
use super::negotiate::{Format, Wanted};
use super::registration::Registration;
use super::selector::Filter;
use super::storage::{ObjectPage, StorageError};
use super::table::Include;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Pages that wait for a slow client; one more is held by whoever reads them.
const QUEUE: usize = 1;
/// What says that nothing is missing.
const END: Bytes = Bytes::new();

/// Why the rest of a list is missing. The connection breaks: half a list must not look like a whole one.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// The state of the list's version is gone, or the store is away.
    #[error("the list cannot be read to its end")]
    Storage(#[source] StorageError),
    /// Whoever reads it ended before it did.
    #[error("the list was not read to its end")]
    Unread,
}

/// What makes text of pages.
struct Pages {
    registration: Arc<Registration>,
    filter: Filter,
    wanted: Wanted,
    include: Include,
}

impl Pages {
    fn reply(&self) -> Reply<'_> {
        Reply {
            registration: &self.registration,
            wanted: self.wanted,
            include: self.include,
        }
    }

    async fn send(&self, first: ObjectPage, out: &mpsc::Sender<Result<Bytes, Broken>>) {
        let reply = self.reply();
        let (head, end) = reply.envelope(json!({"resourceVersion": first.version.to_string()}));
        let mut cursor = Cursor::new(&self.registration, &self.filter).after(&first);
        let (mut page, mut text, mut empty) = (Ok(Some(first)), head.into_bytes(), true);
        loop {
            let items = match page {
                Ok(Some(page)) => Ok(page.items),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let written = items.and_then(|items| {
                let comma = !empty && !items.is_empty();
                empty &= items.is_empty();
                if comma {
                    text.push(b',');
                }
                reply.write_items(items, &mut text)
            });
            if let Err(error) = written {
                let kind = self.registration.plural.as_str();
                tracing::info!(kind, %error, "a list is cut off");
                // Who reads it may be gone too.
                let _ = out.send(Err(Broken::Storage(error))).await;
                return;
            }
            let piece = Bytes::from(std::mem::take(&mut text));
            if !piece.is_empty() && out.send(Ok(piece)).await.is_err() {
                return;
            }
            page = cursor.page(PAGE).await;
        }
        for piece in [Bytes::from(end), END] {
            // A reader that is gone needs no end.
            let _ = out.send(Ok(piece)).await;
        }
    }
}

/// Answers a list of which `first` is the first page.
pub fn list(ctx: &Context, filter: Filter, first: ObjectPage) -> Response {
    let pages = Pages {
        registration: ctx.registration.clone(),
        filter,
        wanted: ctx.wanted,
        include: ctx.include,
    };
    let (out, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move { pages.send(first, &out).await });
    let mut ended = false;
    let pieces = ReceiverStream::new(receiver).map(Some);
    let pieces = pieces.chain(tokio_stream::once(None));
    let stream = pieces.filter_map(move |piece| match piece {
        Some(Ok(piece)) => {
            ended = piece.is_empty();
            (!ended).then_some(Ok(piece))
        }
        Some(Err(broken)) => {
            ended = true;
            Some(Err(broken))
        }
        None if ended => None,
        None => Some(Err(Broken::Unread)),
    });
    let kind = match ctx.wanted.format {
        Format::Json => JSON,
        // JSON is YAML (YAML 1.2, section 1.3).
        Format::Yaml => YAML,
    };
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response()
}
