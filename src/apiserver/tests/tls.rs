//! Over real connections: who may come in, and how it ends.

use super::*;
use crate::access::inflight::{Bounds, Class, Inflight};
use crate::access::{self, COMPONENTS, MASTERS};
use crate::apiserver::authn;
use crate::apiserver::server::serve_with;
use crate::identity::{Authority, Leaf, LeafRequest, Usage, files};
use crate::rpc::TlsFiles;
use std::net::SocketAddr;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The machinery over HTTPS on a port of its own.
pub(super) struct Https {
    pub(super) harness: Harness,
    pub(super) address: SocketAddr,
    pub(super) authority: Authority,
    pub(super) dir: TempDir,
    served: JoinHandle<()>,
}

impl Https {
    pub(super) async fn new() -> Self {
        Self::bounded(Inflight::default(), PATIENCE).await
    }

    async fn bounded(inflight: Inflight, stall: Duration) -> Self {
        let harness = Harness::new().await;
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(dir.path()).unwrap();
        let server = LeafRequest::new("apiserver", Usage::Server).sans(["127.0.0.1", "localhost"]);
        let leaf = authority.leaf(&server).unwrap();
        let (crt, key) = (dir.path().join("s.crt"), dir.path().join("s.key"));
        files::write(&crt, files::PUBLIC_MODE, leaf.chain.as_bytes()).unwrap();
        files::write(&key, files::SECRET_MODE, leaf.key.as_bytes()).unwrap();
        let ca = dir.path().join("ca.crt");
        let cert = crt;
        let ours = TlsFiles { ca, cert, key }.load().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = authn::guard(harness.router.clone(), access::dev(ours.clone()), inflight);
        let served = tokio::spawn(serve_with(
            listener,
            Arc::new(ours.open_server().unwrap()),
            router,
            harness.shutdown.clone(),
            stall,
        ));
        Self {
            harness,
            address,
            authority,
            dir,
            served,
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub(super) fn client_leaf(&self, group: &str) -> Leaf {
        let request = LeafRequest::new("anna", Usage::Client).group(group);
        self.authority.leaf(&request).unwrap()
    }

    fn client(&self, leaf: Option<&Leaf>) -> reqwest::Client {
        let mut config =
            crate::identity::tls::client_config(leaf, self.authority.certificate()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .build()
            .unwrap()
    }
}

#[tokio::test]
async fn only_trusted_certificates_pass() {
    let s = Https::new().await;
    let get = async |leaf: Option<&Leaf>, path: &str| {
        let response = s.client(leaf).get(s.url(path)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (code, text) = get(None, ACTORS).await;
    assert_eq!(
        (code, text.contains("\"reason\":\"Unauthorized\"")),
        (401, true),
        "{text}"
    );
    assert_eq!(get(None, "/readyz").await, (200, "ok".into()));
    let (code, text) = get(Some(&s.client_leaf("strangers")), ACTORS).await;
    assert_eq!(
        (code, text.contains("is in none of the groups")),
        (403, true),
        "{text}"
    );
    for group in [MASTERS, COMPONENTS] {
        assert_eq!(get(Some(&s.client_leaf(group)), ACTORS).await.0, 200);
    }
}

#[tokio::test]
async fn many_watches_share_a_connection_and_end_with_the_server() {
    let s = Https::new().await;
    let client = s.client(Some(&s.client_leaf(MASTERS)));
    let url = s.url(&format!("{POOLS}?watch=1&resourceVersion=1"));
    let open = (0..300).map(|_| client.get(&url).send());
    let watches = futures::future::join_all(open).await;
    assert!(
        watches
            .iter()
            .all(|w| w.as_ref().is_ok_and(|w| w.status() == 200))
    );
    let other = client.get(s.url(POOLS)).send().await.unwrap();
    assert_eq!(other.status(), 200);
    s.harness.shutdown.cancel();
    for watch in watches {
        let _ = tokio::time::timeout(PATIENCE, watch.unwrap().bytes())
            .await
            .unwrap();
    }
    tokio::time::timeout(PATIENCE, s.served)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn too_much_at_once_is_told_to_come_again() {
    let bounds = Bounds {
        reads: 1,
        writes: 0,
        others: 1,
        long: 1,
    };
    let s = Https::bounded(Inflight::new(bounds), PATIENCE).await;
    let client = s.client(Some(&s.client_leaf(MASTERS)));
    let watch = s.url(&format!("{POOLS}?watch=1&resourceVersion=1"));
    let first = client.get(&watch).send().await.unwrap();
    assert_eq!(first.status(), 200);
    for full in [
        client.get(&watch),
        client.post(s.url(POOLS)).body(pool("p").to_string()),
    ] {
        let refused = full.send().await.unwrap();
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "1");
        let status: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
        assert_eq!(status["reason"], "TooManyRequests");
    }
    for free in [POOLS, "/apis", "/readyz"] {
        let answer = client.get(s.url(free)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{free} has a place of its own");
    }
    drop(first);
    let again = async {
        while client.get(&watch).send().await.unwrap().status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

/// Makes 600 pools: more than a client takes of them before it reads, and more than a page.
async fn many_large(h: &Harness) {
    let make = |n| async move {
        let mut large = pool(&format!("p{n}"));
        large["metadata"]["annotations"] = json!({"large": "x".repeat(8_000)});
        h.make(POOLS, &large).await
    };
    let made = futures::stream::iter((0..600).map(make)).buffer_unordered(8);
    assert_eq!(made.count().await, 600);
}

#[tokio::test]
async fn an_answer_has_its_place_until_it_is_taken() {
    let bounds = Bounds {
        reads: 1,
        writes: 1,
        others: 1,
        long: 1,
    };
    let s = Https::bounded(Inflight::new(bounds), PATIENCE).await;
    many_large(&s.harness).await;
    let client = s.client(Some(&s.client_leaf(MASTERS)));
    let ask = async |query: &str| {
        let url = s.url(&format!("{POOLS}{query}"));
        client.get(url).send().await.unwrap()
    };
    let served = async |query: &str| {
        let answer = async {
            loop {
                let answer = ask(query).await;
                if answer.status() == 200 {
                    return answer;
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap()
    };
    for large in ["", "?limit=500"] {
        let answer = served(large).await;
        assert_eq!(ask("?limit=1").await.status(), 429);
        answer.bytes().await.unwrap();
    }
    served("?limit=1").await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_reset_and_others_are_not() {
    let stall = Duration::from_secs(1);
    let inflight = Inflight::new(Bounds {
        reads: 3,
        writes: 1,
        others: 1,
        long: 2,
    });
    let s = Https::bounded(inflight.clone(), stall).await;
    many_large(&s.harness).await;
    let connect = || s.client(Some(&s.client_leaf(MASTERS)));
    let ask =
        async |client: &reqwest::Client, path: &str| client.get(s.url(path)).send().await.unwrap();
    let (client, other) = (connect(), connect());
    let unread = [
        // Sent while it is read.
        ask(&client, POOLS).await,
        ask(&client, &format!("{POOLS}?watch=1")).await,
        ask(&other, &format!("{POOLS}?limit=500")).await,
    ];
    // A watch that has nothing to say is none that nobody reads.
    let mut idle = ask(&client, &format!("{ACTORS}?watch=1")).await;
    let quick = ask(&other, POOLS).await.bytes().await.unwrap();
    assert!(quick.len() > 4_800_000);
    crate::store::conformance::leases::eventually("lists and watch are over", || async {
        let places = [Class::Read, Class::Read, Class::Read, Class::Long];
        let free = places.map(|class| inflight.enter(class));
        let unwatched = s.harness.fanout("workerpools").watchers == 0;
        (unwatched && free.iter().all(Option::is_some)).then_some(())
    })
    .await;
    for answer in unread {
        let error = answer.bytes().await.unwrap_err();
        assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
    }
    s.harness.make(ACTORS, &actor("a")).await;
    let chunk = tokio::time::timeout(PATIENCE, idle.chunk()).await.unwrap();
    assert!(chunk.unwrap().is_some(), "the idle watch goes on");
}
