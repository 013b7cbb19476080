//! Actors that are no longer where the router knew them.

use super::kit::*;
use crate::router::Options;
use bytes::Bytes;
use futures::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Reads a request's head and a byte of its body, then hangs up without a word.
async fn hang_up(mut stream: TcpStream) {
    read_head(&mut stream).await;
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// Answers the first request, leaves the connection open, and hangs up on the second.
async fn answer_once(mut stream: TcpStream) {
    read_head(&mut stream).await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold";
    stream.write_all(answer).await.unwrap();
    read_head(&mut stream).await;
}

/// A body of one chunk, without a length.
fn chunked(text: &'static str) -> Body {
    let chunk = Ok::<_, Infallible>(Frame::data(Bytes::from(text)));
    StreamBody::new(stream::iter([chunk])).boxed()
}

fn post(body: Body) -> Request<Body> {
    Request::post("/").header("host", HOST).body(body).unwrap()
}

#[tokio::test]
async fn an_actor_that_moved_is_found_again() {
    for streamed in [false, true] {
        let old = actor_saying("old").await;
        let fake = Fake::at(&old.address);
        let router = router(fake.clone(), Options::default()).await;
        assert_eq!(ask(&router, get()).await.body(), "old");
        let new = actor_saying("new").await;
        fake.say(Ok(binding(&new.address, 2)));
        let gone = old.address.clone();
        drop(old);
        refused(&gone).await;
        let content = if streamed { chunked("x") } else { body("x") };
        let answer = ask(&router, post(content)).await;
        assert_eq!(answer.body(), "new");
        assert!(answer.headers().contains_key("server-timing"));
        assert_eq!(fake.asked(), 2);
    }
}

#[tokio::test]
async fn what_nobody_has_seen_is_offered_until_its_time_is_over() {
    let fake = Fake::at(&nowhere().await);
    let options = Options {
        offer_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let router = router(fake.clone(), options).await;
    let answer = ask(&router, get()).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(
        answer.body(),
        "team/a cannot be reached at its worker; try again\n"
    );
    assert!(fake.asked() >= 2);
}

#[tokio::test]
async fn an_actor_whose_worker_was_lost_is_waited_for() {
    let fake = Fake::at(&nowhere().await);
    let router = router(fake.clone(), Options::default()).await;
    let new = actor_saying("new").await;
    let come_back = async {
        while fake.asked() < 3 {
            tokio::task::yield_now().await;
        }
        fake.say(Ok(binding(&new.address, 2)));
    };
    let (answer, ()) = tokio::join!(ask(&router, post(chunked("x"))), come_back);
    assert_eq!(answer.body(), "new");
}

#[tokio::test]
async fn an_idle_connection_that_died_with_the_move_costs_no_request() {
    let old = raw_actor(answer_once).await;
    let fake = Fake::at(&old.address);
    let router = router(fake.clone(), Options::default()).await;
    let mut client = client(&router).await;
    assert_eq!(client.ask(get()).await.body(), "old");
    let new = actor_saying("new").await;
    fake.say(Ok(binding(&new.address, 2)));
    // It goes by the idle connection, unless that is not back yet: then by a new one, on which `old` answers.
    let mut answer = client.ask(post(body("x"))).await;
    for _ in 0..100 {
        if answer.body() == "old" {
            answer = client.ask(post(body("x"))).await;
        }
    }
    assert_eq!(answer.body(), "new");
}

#[tokio::test]
async fn only_what_may_act_twice_is_sent_twice() {
    for (request, times, code) in [
        (get(), 2, 503),
        (request("DELETE", "x"), 2, 503),
        (post(body("x")), 1, 503),
        (post(chunked("x")), 1, 503),
    ] {
        let actor = raw_actor(hang_up).await;
        let router = router_to(&actor).await;
        let method = request.method().clone();
        let answer = ask(&router, request).await;
        assert_eq!(answer.status(), code);
        assert!(answer.body().contains("may have acted"), "{answer:?}");
        assert_eq!(actor.connections(), times, "{method}");
    }
}

#[tokio::test]
async fn a_streamed_put_is_not_sent_twice() {
    let actor = raw_actor(hang_up).await;
    let router = router_to(&actor).await;
    let put = Request::put("/").header("host", HOST);
    let answer = ask(&router, put.body(chunked("x")).unwrap()).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(actor.connections(), 1);
}

/// Reads a request's head, and is silent for good.
async fn fall_silent(mut stream: TcpStream) {
    read_head(&mut stream).await;
    std::future::pending().await
}

/// What a client gets whose request met a worker that fell silent, when its actor has left it.
async fn ask_the_silent(request: Request<Body>) -> http::Response<String> {
    let old = raw_actor(fall_silent).await;
    let fake = Fake::at(&old.address);
    let options = Options {
        look_after: Duration::from_millis(50),
        ..Options::default()
    };
    let router = router(fake.clone(), options).await;
    let new = actor_saying("new").await;
    let leave = async {
        while fake.asked() == 0 {
            tokio::task::yield_now().await;
        }
        fake.say(Ok(binding(&new.address, 2)));
    };
    tokio::join!(ask(&router, request), leave).0
}

#[tokio::test]
async fn a_worker_that_vanished_without_a_word_is_not_waited_for() {
    let get = ask_the_silent(get());
    let post = ask_the_silent(post(body("x")));
    let (get, post) = tokio::join!(get, post);
    assert_eq!(get.body(), "new");
    assert_eq!(post.status(), 503, "it may have been acted on");
}
