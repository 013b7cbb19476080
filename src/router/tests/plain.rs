//! Requests and answers.

use super::kit::*;
use crate::router::{Binding, Options, ResolveError, Resolver, Target};
use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Answers with the head that it got.
async fn mirror() -> Actor {
    actor(|request| async move {
        let mut text = format!("{} {}\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
        Response::builder()
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("x-end", "2")
            .body(body(text))
            .unwrap()
    })
    .await
}

#[tokio::test]
async fn heads_arrive_as_a_proxy_sends_them() {
    let actor = mirror().await;
    let router = router_to(&actor).await;
    let request = Request::builder()
        .uri("/path?q=1")
        .header("host", format!("{}.:8080", HOST.to_uppercase()))
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("x-end", "2")
        .body(body(""))
        .unwrap();
    let answer = ask(&router, request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["x-end"], "2");
    assert!(!answer.headers().contains_key("x-hop"));
    let seen = answer.body();
    let host = format!("{}.:8080", HOST.to_uppercase());
    for line in [
        "GET /path?q=1",
        "x-end: 2",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        &format!("host: {host}"),
        &format!("x-forwarded-host: {host}"),
    ] {
        assert!(seen.lines().any(|l| l == line), "{line:?} in {seen}");
    }
    assert!(!seen.contains("x-hop"), "{seen}");
}

#[tokio::test]
async fn the_absolute_form_wins_over_the_host_header() {
    let actor = mirror().await;
    let router = router_to(&actor).await;
    let request = Request::builder()
        .uri(format!("http://{HOST}/path"))
        .header("host", "elsewhere.example")
        .body(body(""))
        .unwrap();
    let answer = ask(&router, request).await;
    assert!(answer.body().starts_with("GET /path\n"), "{answer:?}");
    assert!(answer.body().contains(&format!("host: {HOST}\n")));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let actor = actor_saying("hello").await;
    let fake = Fake::at(&actor.address);
    let router = router(fake.clone(), Options::default()).await;
    let mut client = client(&router).await;
    for n in 0..20 {
        let answer = client.ask(request("POST", "x")).await;
        assert_eq!(answer.body(), "hello");
        // Only who had to ask for the actor is told how long that took.
        assert_eq!(answer.headers().contains_key("server-timing"), n == 0);
    }
    // The router takes a connection back an instant after the answer, so now and then another one is made.
    assert!(actor.connections() < 10, "{}", actor.connections());
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn the_first_answer_says_where_the_time_went() {
    let actor = actor_saying("hello").await;
    let router = router_to(&actor).await;
    let answer = ask(&router, get()).await;
    let timing = answer.headers()["server-timing"].to_str().unwrap();
    let names: Vec<_> = timing
        .split(", ")
        .map(|step| step.split_once(";dur=").unwrap())
        .inspect(|(_, ms)| assert!(ms.parse::<f64>().unwrap() < 1e4))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["resolve", "connect", "upstream"]);
}

#[tokio::test]
async fn ten_first_requests_wake_once() {
    let actor = actor_saying("awake").await;
    let mut fake = Fake::at(&actor.address);
    Arc::get_mut(&mut fake).unwrap().gate = Semaphore::new(0);
    let router = Arc::new(router(fake.clone(), Options::default()).await);
    let mut asking = JoinSet::new();
    let sent = Arc::new(AtomicUsize::new(0));
    for _ in 0..10 {
        let (router, sent) = (router.clone(), sent.clone());
        asking.spawn(async move {
            let mut client = client(&router).await;
            sent.fetch_add(1, Ordering::SeqCst);
            client.ask(get()).await
        });
    }
    until(|| sent.load(Ordering::SeqCst) == 10 && fake.asked() > 0).await;
    fake.gate.add_permits(10);
    for answer in asking.join_all().await {
        assert_eq!(answer.body(), "awake");
    }
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn a_resolve_outlives_the_client_that_began_it() {
    let actor = actor_saying("awake").await;
    let mut fake = Fake::at(&actor.address);
    Arc::get_mut(&mut fake).unwrap().gate = Semaphore::new(0);
    let router = router(fake.clone(), Options::default()).await;
    let mut first = client(&router).await;
    let sending = first.sender.send_request(get());
    until(|| fake.asked() == 1).await;
    drop(sending);
    drop(first);
    let mut second = client(&router).await;
    fake.gate.add_permits(1);
    assert_eq!(second.ask(get()).await.body(), "awake");
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn who_joins_a_wake_late_waits_as_long_as_anybody() {
    let actor = actor_saying("awake").await;
    let mut fake = Fake::at(&actor.address);
    Arc::get_mut(&mut fake).unwrap().gate = Semaphore::new(0);
    let resolve_timeout = Duration::from_secs(1);
    let options = Options {
        resolve_timeout,
        ..Options::default()
    };
    let router = router(fake.clone(), options).await;
    let first = ask(&router, get());
    let second = async {
        until(|| fake.asked() == 1).await;
        tokio::time::sleep(resolve_timeout / 2).await;
        ask(&router, get()).await
    };
    let opening = async {
        until(|| fake.asked() == 2).await;
        fake.gate.add_permits(1);
    };
    let (first, second, ()) = tokio::join!(first, second, opening);
    assert_eq!(first.status(), 504);
    assert_eq!(second.body(), "awake");
}

/// Panics when first asked.
struct Panicking(Arc<Fake>);

#[async_trait]
impl Resolver for Panicking {
    async fn resolve(&self, target: &Target, timeout: Duration) -> Result<Binding, ResolveError> {
        let binding = self.0.resolve(target, timeout).await;
        assert!(self.0.asked() > 1, "as the test wants");
        binding
    }
}

#[tokio::test]
async fn a_resolver_that_panics_is_asked_again_by_the_next() {
    let actor = actor_saying("awake").await;
    let resolver = Arc::new(Panicking(Fake::at(&actor.address)));
    let router = router(resolver, Options::default()).await;
    assert_eq!(ask(&router, get()).await.status(), 500);
    assert_eq!(ask(&router, get()).await.body(), "awake");
}

#[tokio::test]
async fn errors_have_their_codes() {
    use ResolveError::*;
    let why = || "because\r\nof this".to_owned();
    let table = [
        (NotFound(why()), 404),
        (Unavailable(why()), 503),
        (DeadlineExceeded(why()), 504),
        (PermissionDenied(why()), 403),
        (Unauthenticated(why()), 401),
        (ResourceExhausted(why()), 429),
        (Internal(why()), 500),
    ];
    let fake = Fake::new(Err(Internal(String::new())));
    let router = router(fake.clone(), Options::default()).await;
    for (error, code) in table {
        fake.say(Err(error));
        let answer = ask(&router, get()).await;
        assert_eq!(answer.status(), code);
        assert_eq!(
            answer.headers()["content-type"],
            "text/plain; charset=utf-8"
        );
        assert_eq!(answer.body(), "because  of this\n");
    }
}

#[tokio::test]
async fn other_hosts_are_told_so_except_for_the_health_check() {
    let fake = Fake::new(Err(ResolveError::NotFound("asked".into())));
    let router = router(fake.clone(), Options::default()).await;
    for (uri, host, code, text) in [
        (
            "/",
            "localhost",
            404,
            "\"localhost\" is not an actor's host name",
        ),
        ("/healthz", "127.0.0.1:80", 200, "ok"),
        ("/healthz", HOST, 404, "asked"),
    ] {
        let request = Request::builder().uri(uri).header("host", host);
        let answer = ask(&router, request.body(body("")).unwrap()).await;
        assert_eq!(answer.status(), code, "{uri} {host}");
        assert!(answer.body().starts_with(text), "{answer:?}");
    }
    assert_eq!(fake.asked(), 1);
    let two = Request::builder()
        .uri("/")
        .header("host", HOST)
        .header("host", HOST);
    let answer = ask(&router, two.body(body("")).unwrap()).await;
    assert_eq!(answer.status(), 404);
}

#[tokio::test]
async fn head_keeps_the_length_of_what_get_would_answer() {
    let actor = actor_saying("twelve bytes").await;
    let router = router_to(&actor).await;
    let mut client = client(&router).await;
    for _ in 0..2 {
        let answer = client.ask(request("HEAD", "")).await;
        assert_eq!(answer.headers()["content-length"], "12");
        assert_eq!(answer.body(), "");
    }
}

#[tokio::test]
async fn http_2_by_prior_knowledge() {
    let actor = mirror().await;
    let router = router_to(&actor).await;
    let stream = TcpStream::connect(&router.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake::<_, _, Body>;
    let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .uri(format!("http://{HOST}/two"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(body("x"))
        .unwrap();
    let answer = whole(sender.send_request(request).await.unwrap()).await;
    let seen = answer.body();
    assert!(seen.starts_with("GET /two\n"), "{seen}");
    assert!(seen.contains(&format!("host: {HOST}\n")), "{seen}");
    assert!(seen.contains("cookie: a=1; b=2\n"), "{seen}");
    connection.abort();
}
