//! Bodies and upgraded connections, which nobody holds whole.

use super::kit::*;
use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 800;
/// What two pairs of loopback sockets and the router may hold between two ends, of 50 MB.
const HELD: usize = 30_000_000;

/// 50 MB without a length; `sent` counts the bytes that somebody took.
fn much(sent: Arc<AtomicUsize>) -> Body {
    let chunks = stream::unfold((0, sent), |(n, sent)| async move {
        if n == CHUNKS {
            return None;
        }
        sent.fetch_add(CHUNK, Ordering::SeqCst);
        let chunk = Bytes::from(vec![n as u8; CHUNK]);
        Some((Ok::<_, Infallible>(Frame::data(chunk)), (n + 1, sent)))
    });
    StreamBody::new(Box::pin(chunks)).boxed()
}

/// Reads all of `body`, checking it.
async fn count(mut body: hyper::body::Incoming) -> usize {
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        for (at, byte) in data.iter().enumerate() {
            assert_eq!(*byte, ((seen + at) / CHUNK) as u8);
        }
        seen += data.len();
    }
    seen
}

/// Waits until `counter` has not moved for a while, and says where it stands.
async fn settled(counter: &AtomicUsize) -> usize {
    let (mut last, mut same) = (0, 0);
    for _ in 0..2000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = counter.load(Ordering::SeqCst);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        if same == 15 {
            return now;
        }
    }
    panic!("it never settles");
}

#[tokio::test]
async fn an_upload_waits_for_an_actor_that_does_not_read() {
    let gate = Arc::new(Semaphore::new(0));
    let actor = {
        let gate = gate.clone();
        actor(move |request| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Response::new(body(count(request.into_body()).await.to_string()))
            }
        })
        .await
    };
    let router = router_to(&actor).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let mut client = client(&router).await;
    let request = Request::post("/").header("host", HOST);
    let request = request.body(much(sent.clone())).unwrap();
    let watching = async {
        let held = settled(&sent).await;
        assert!(held < HELD, "{held} bytes are under way");
        gate.add_permits(1);
    };
    let (answer, ()) = tokio::join!(client.ask(request), watching);
    assert_eq!(answer.body(), &(CHUNK * CHUNKS).to_string());
}

#[tokio::test]
async fn a_download_waits_for_a_client_that_does_not_read() {
    let sent = Arc::new(AtomicUsize::new(0));
    let actor = {
        let sent = sent.clone();
        actor(move |_| {
            let sent = sent.clone();
            async move { Response::new(much(sent)) }
        })
        .await
    };
    let router = router_to(&actor).await;
    let mut client = client(&router).await;
    let answer = client.send(get()).await;
    let held = settled(&sent).await;
    assert!(held < HELD, "{held} bytes are under way");
    assert_eq!(count(answer.into_body()).await, CHUNK * CHUNKS);
}

#[tokio::test]
async fn what_an_actor_says_arrives_while_the_request_is_still_sent() {
    // An echo that answers each line before the next one is sent: impossible if either body were held.
    let actor = actor(|request| async move {
        let chunks = request.into_body().map_err(|_| unreachable!());
        Response::new(BodyExt::boxed(chunks))
    })
    .await;
    let router = router_to(&actor).await;
    let mut client = client(&router).await;
    let (lines, from) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let from = tokio_stream::wrappers::ReceiverStream::new(from);
    let request = Request::post("/").header("host", HOST);
    let request = request.body(StreamBody::new(from).boxed()).unwrap();
    let mut answer = client.send(request).await.into_body();
    for line in ["one", "two", "three"] {
        lines.send(Ok(Frame::data(line.into()))).await.unwrap();
        let frame = tokio::time::timeout(LONG, answer.frame()).await.unwrap();
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), line);
    }
    drop(lines);
    assert!(answer.frame().await.is_none());
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let actor = actor(|mut request| async move {
        assert_eq!(request.headers()["connection"], "upgrade");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let (mut from, mut to) = tokio::io::split(&mut io);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.write_all(b"bye").await.unwrap();
            to.shutdown().await.unwrap();
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "echo")
            .header("sec-websocket-accept", "x")
            .body(body(""))
            .unwrap()
    })
    .await;
    let router = router_to(&actor).await;
    let mut client = client(&router).await;
    let request = Request::get("/")
        .header("host", HOST)
        .header("connection", "Upgrade")
        .header("upgrade", "echo")
        .body(body(""))
        .unwrap();
    let answer = client.send(request).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "echo");
    assert_eq!(answer.headers()["sec-websocket-accept"], "x");
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut echoed = [0; 4];
    for _ in 0..3 {
        io.write_all(b"ping").await.unwrap();
        io.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"ping");
    }
    io.shutdown().await.unwrap();
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_an_error() {
    let actor = actor(|_| async move {
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "echo")
            .body(body(""))
            .unwrap()
    })
    .await;
    let router = router_to(&actor).await;
    assert_eq!(ask(&router, get()).await.status(), 500);
}

/// Tells when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let (begun, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let actor = {
        let (begun, dropped) = (begun.clone(), dropped.clone());
        actor(move |_| {
            let guard = Dropped(dropped.clone());
            begun.fetch_add(1, Ordering::SeqCst);
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Response::new(body(""))
            }
        })
        .await
    };
    let router = router_to(&actor).await;
    let mut client = client(&router).await;
    let sending = client.sender.send_request(get());
    until(|| begun.load(Ordering::SeqCst) == 1).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop(sending);
    drop(client);
    until(|| dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_for_good_ends_the_download() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let actor = {
        let dropped = dropped.clone();
        actor(move |_| {
            let guard = Dropped(dropped.clone());
            let chunks = stream::unfold(guard, |guard| async move {
                let chunk = Bytes::from_static(&[0; CHUNK]);
                Some((Ok::<_, Infallible>(Frame::data(chunk)), guard))
            });
            async move { Response::new(StreamBody::new(Box::pin(chunks)).boxed()) }
        })
        .await
    };
    let router = router_to(&actor).await;
    let mut client = client(&router).await;
    let answer = client.send(get()).await;
    assert_eq!(answer.status(), 200);
    drop(answer);
    drop(client);
    until(|| dropped.load(Ordering::SeqCst) == 1).await;
}
