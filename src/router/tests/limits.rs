//! What a router does not do for anybody.

use super::kit::*;
use crate::router::Options;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;

/// An actor that answers when `gate` lets it, and counts what it has begun.
async fn gated(gate: Arc<Semaphore>, begun: Arc<AtomicUsize>) -> Actor {
    actor(move |_| {
        let gate = gate.clone();
        begun.fetch_add(1, Ordering::SeqCst);
        async move {
            gate.acquire().await.unwrap().forget();
            Response::new(body("done"))
        }
    })
    .await
}

/// The router forgets a request an instant after its client has read the answer.
async fn ask_until_let_in(router: &Router) -> Response<String> {
    let asking = async {
        loop {
            let answer = ask(router, get()).await;
            if answer.status() != 503 {
                return answer;
            }
        }
    };
    tokio::time::timeout(LONG, asking).await.unwrap()
}

#[tokio::test]
async fn too_many_requests_are_turned_away() {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let actor = gated(gate.clone(), begun.clone()).await;
    let max_requests = 2;
    let options = Options {
        max_requests,
        ..Options::default()
    };
    let router = router(Fake::at(&actor.address), options).await;
    let (mut one, mut two) = (client(&router).await, client(&router).await);
    let third = async {
        until(|| begun.load(Ordering::SeqCst) == 2).await;
        let answer = ask(&router, get()).await;
        gate.add_permits(3);
        answer
    };
    let (one, two, third) = tokio::join!(one.ask(get()), two.ask(get()), third);
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    assert_eq!(third.status(), 503);
    assert_eq!(third.headers()["retry-after"], "1");
    assert_eq!(ask_until_let_in(&router).await.body(), "done");
}

#[tokio::test]
async fn a_response_counts_until_it_has_been_read() {
    let (chunks, from) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let from = Arc::new(Mutex::new(Some(ReceiverStream::new(from))));
    let actor =
        actor(move |_| {
            let from = from.lock().unwrap().take();
            async move {
                Response::new(from.map_or(body("short"), |from| StreamBody::new(from).boxed()))
            }
        })
        .await;
    let max_requests = 1;
    let options = Options {
        max_requests,
        ..Options::default()
    };
    let router = router(Fake::at(&actor.address), options).await;
    let mut client = client(&router).await;
    let streaming = client.send(get()).await;
    assert_eq!(ask(&router, get()).await.status(), 503);
    drop(chunks);
    assert_eq!(whole(streaming).await.body(), "");
    assert_eq!(ask_until_let_in(&router).await.body(), "short");
}

#[tokio::test]
async fn a_wake_that_takes_too_long_is_504() {
    let mut fake = Fake::at("127.0.0.1:1");
    Arc::get_mut(&mut fake).unwrap().gate = Semaphore::new(0);
    let resolve_timeout = Duration::from_millis(50);
    let options = Options {
        resolve_timeout,
        ..Options::default()
    };
    let router = router(fake, options).await;
    let answer = ask(&router, get()).await;
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.body(), "team/a did not wake in time\n");
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_cut() {
    let head_timeout = Duration::from_millis(100);
    let options = Options {
        head_timeout,
        ..Options::default()
    };
    let router = router(Fake::at("127.0.0.1:1"), options).await;
    let begun = "GET / HTTP/1.1\r\nhost: x\r\nx-slow: ";
    for sent in ["", "P", "PRI * HTTP/2.0\r\n", begun] {
        let mut stream = TcpStream::connect(&router.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await;
        // A reset is an end as good as any.
        let _ = read.unwrap_or_else(|_| panic!("still open after {sent:?}"));
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let router = router(Fake::at("127.0.0.1:1"), Options::default()).await;
    let request = Request::get("/")
        .header("host", HOST)
        .header("x-large", "x".repeat(80 * 1024));
    let answer = ask(&router, request.body(body("")).unwrap()).await;
    assert_eq!(answer.status(), 431);
}

#[tokio::test]
async fn shutdown_waits_for_what_is_in_flight() {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let actor = gated(gate.clone(), begun.clone()).await;
    let mut router = router_to(&actor).await;
    let mut client = client(&router).await;
    let (shutdown, address) = (router.shutdown.clone(), router.address.clone());
    let stopping = async {
        until(|| begun.load(Ordering::SeqCst) == 1).await;
        shutdown.cancel();
        // The port closes at once, the request goes on.
        refused(&address).await;
        gate.add_permits(1);
    };
    let (answer, ()) = tokio::join!(client.ask(get()), stopping);
    assert_eq!(answer.body(), "done");
    let stopped = tokio::time::timeout(LONG, &mut router.serving).await;
    stopped.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_end() {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let actor = gated(gate, begun.clone()).await;
    let drain = Duration::from_millis(50);
    let options = Options {
        drain,
        ..Options::default()
    };
    let mut router = router(Fake::at(&actor.address), options).await;
    let mut client = client(&router).await;
    let shutdown = router.shutdown.clone();
    let stopping = async {
        until(|| begun.load(Ordering::SeqCst) == 1).await;
        shutdown.cancel();
    };
    let (answer, ()) = tokio::join!(client.sender.send_request(get()), stopping);
    assert!(answer.is_err());
    let stopped = tokio::time::timeout(LONG, &mut router.serving).await;
    stopped.unwrap().unwrap();
}
