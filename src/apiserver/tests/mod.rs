//! The machinery as clients see it, on a real store: requests to the router, and real kubectl over HTTPS.

mod apply;
mod client;
mod crud;
mod delete;
mod discovery;
mod kubectl;
mod list;
mod subresources;
mod templates;
mod tls;
mod watch;

use super::Registration;
use super::app::App;
use super::driver::{ActorDriver, DriveError, LogOptions};
use super::fanout::Stats;
use super::kinds;
use super::watch::BOOKMARK_EVERY;
use crate::api::names::{ActorKey, TemplateKey};
use crate::api::record::{ActorRecord, Phase};
use crate::api::template::{ActorTemplateSpec, GoldenPolicy};
use crate::api::{ActorTemplate, WorkerPool};
use crate::kube::{ActorCaps, Catalog};
use crate::store::testing::TestServer;
use crate::store::{Begin, Begun, Durability, Edge, RedisStore, Store, StoreOptions};
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderMap, Request, StatusCode, header};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(super) const ACTORS: &str = "/apis/runtime.ate.dev/v1alpha1/namespaces/ns/actors";
pub(super) const POOLS: &str = "/apis/ate.dev/v1alpha1/namespaces/ns/workerpools";
pub(super) const TEMPLATES: &str = "/apis/ate.dev/v1alpha1/namespaces/ns/actortemplates";
pub(super) const WORKERS: &str = "/apis/runtime.ate.dev/v1alpha1/namespaces/ns/workers";
/// Actors of a namespace.
const CAP: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Moves actors in the store, without any sandbox.
struct FakeDriver(Arc<dyn Store>);

impl FakeDriver {
    async fn own(&self, key: &ActorKey, phase: Phase) -> Result<ActorRecord, DriveError> {
        let begin = Begin {
            key: key.clone(),
            edges: [Edge::Start(phase); 6],
            desired: None,
            owner: 1,
            lease: PATIENCE,
            boot: false,
            uid: None,
        };
        match self.0.begin(begin).await {
            Ok(Begun::Owned { record, .. }) => Ok(record),
            Ok(Begun::Held { .. } | Begun::Refused { .. }) => Err(DriveError::Conflict(
                "another operation is in progress".into(),
            )),
            Err(e) => Err(DriveError::NotFound(e.to_string())),
        }
    }

    async fn go(&self, key: &ActorKey, via: Phase, to: Phase) -> Result<ActorRecord, DriveError> {
        let mut record = self.own(key, via).await?;
        record.header.phase = to;
        let committed = self.0.commit(&record, 1, Durability::Memory).await;
        committed.map_err(|e| DriveError::Internal(e.to_string()))
    }
}

#[async_trait]
impl ActorDriver for FakeDriver {
    async fn resume(
        &self,
        key: &ActorKey,
        boot: bool,
        wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError> {
        if boot {
            return Err(DriveError::Unavailable("no free workers available".into()));
        }
        match wait {
            None => self.own(key, Phase::Resuming).await,
            Some(_) => self.go(key, Phase::Resuming, Phase::Running).await,
        }
    }

    async fn suspend(
        &self,
        key: &ActorKey,
        _wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError> {
        self.go(key, Phase::Suspending, Phase::Suspended).await
    }

    async fn pause(
        &self,
        key: &ActorKey,
        _wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError> {
        self.go(key, Phase::Pausing, Phase::Paused).await
    }

    async fn delete(&self, key: &ActorKey) -> Result<(), DriveError> {
        let record = self.own(key, Phase::Suspending).await?;
        if !record.meta.finalizers.is_empty() {
            let mut record = record;
            record.header.phase = Phase::Suspended;
            let _ = self.0.commit(&record, 1, Durability::Memory).await;
            return Ok(());
        }
        let removed = self.0.remove_actor(key, record.header.epoch, 1).await;
        removed.map_err(|e| DriveError::Internal(e.to_string()))
    }

    async fn logs(
        &self,
        _key: &ActorKey,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, DriveError>>, DriveError> {
        let lines = vec![
            Ok(Bytes::from("one\n")),
            Ok(Bytes::from(format!("{options:?}\n"))),
        ];
        Ok(futures::stream::iter(lines).boxed())
    }
}

/// Templates as a test says; unless it says otherwise, each that is asked for is ready.
#[derive(Default)]
pub(super) struct FakeCatalog(pub(super) Mutex<Option<Vec<ActorTemplate>>>);

impl Catalog for FakeCatalog {
    fn is_synced(&self) -> bool {
        true
    }
    fn template(&self, key: &TemplateKey) -> Option<Arc<ActorTemplate>> {
        if self.0.lock().unwrap().is_none() {
            return Some(Arc::new(ready_template(&key.namespace, &key.name)));
        }
        let wanted = |t: &Arc<ActorTemplate>| {
            t.metadata.namespace.as_ref() == Some(&key.namespace)
                && t.metadata.name.as_ref() == Some(&key.name)
        };
        self.templates().into_iter().find(wanted)
    }
    fn templates(&self) -> Vec<Arc<ActorTemplate>> {
        let said = self.0.lock().unwrap().clone();
        said.unwrap_or_default().into_iter().map(Arc::new).collect()
    }
    fn pools(&self) -> Vec<Arc<WorkerPool>> {
        vec![]
    }
}

/// A template whose actors boot.
pub(super) fn ready_template(namespace: &str, name: &str) -> ActorTemplate {
    let mut template = ActorTemplate::new(name, ActorTemplateSpec::default());
    template.metadata.namespace = Some(namespace.to_owned());
    template.spec.golden.policy = GoldenPolicy::Disabled;
    template
}

/// The machinery with our kinds, on a store of its own.
pub(super) struct Harness {
    pub(super) catalog: Arc<FakeCatalog>,
    pub(super) router: Router,
    pub(super) store: Arc<dyn Store>,
    pub(super) shutdown: CancellationToken,
    pub(super) kinds: Arc<Vec<Arc<Registration>>>,
    pub(super) server: Arc<TestServer>,
    options: StoreOptions,
}

/// An answer, its body parsed.
pub(super) struct Answer {
    pub(super) code: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    pub(super) body: Value,
}

impl Harness {
    pub(super) async fn new() -> Self {
        let server = TestServer::shared();
        let options = server.options();
        Self::on(server, options, BOOKMARK_EVERY).await
    }

    /// On a server and a prefix.
    pub(super) async fn on(
        server: Arc<TestServer>,
        options: StoreOptions,
        bookmark_every: Duration,
    ) -> Self {
        Self::of(server, options, bookmark_every, CAP).await
    }

    /// Where a namespace may have so many actors.
    pub(super) async fn capped(cap: u64) -> Self {
        let server = TestServer::shared();
        let options = server.options();
        Self::of(server, options, BOOKMARK_EVERY, cap).await
    }

    async fn of(
        server: Arc<TestServer>,
        options: StoreOptions,
        bookmark_every: Duration,
        cap: u64,
    ) -> Self {
        let store = RedisStore::connect(options.clone()).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let driver: Arc<dyn ActorDriver> = Arc::new(FakeDriver(store.clone()));
        let shutdown = CancellationToken::new();
        let catalog = Arc::new(FakeCatalog::default());
        let known: Arc<dyn Catalog> = catalog.clone();
        let app = App::builder()
            .register_all(kinds::dev(&store, &driver, &known, ActorCaps::fixed(cap)).unwrap())
            .shutdown(shutdown.clone())
            .bookmark_every(bookmark_every)
            .build();
        Self {
            catalog,
            kinds: app.shared_kinds(),
            router: app.router(),
            store,
            shutdown,
            server,
            options,
        }
    }

    /// Who moves its actors.
    pub(super) fn driver(&self) -> Arc<dyn ActorDriver> {
        Arc::new(FakeDriver(self.store.clone()))
    }

    /// The templates that it knows.
    pub(super) fn known(&self) -> Arc<dyn Catalog> {
        self.catalog.clone()
    }

    /// Another replica on the same store.
    pub(super) async fn replica(&self) -> Self {
        let options = self.options.clone();
        Self::on(self.server.clone(), options, BOOKMARK_EVERY).await
    }

    /// Cuts every log to nothing, as many writes would.
    pub(super) fn trim_logs(&self) {
        for shard in 0..self.options.shards {
            let key = |what: &str| format!("{{{}:{shard}}}:{what}", self.options.prefix);
            let last = self.server.ask(&["HGET", &key("clock"), "last"]);
            for (log, field) in [
                ("log", "trimmed"),
                ("doclog:workerpools", "trimmed:workerpools"),
            ] {
                self.server.ask(&["XTRIM", &key(log), "MAXLEN", "0"]);
                self.server.ask(&["HSET", &key("clock"), field, &last]);
            }
        }
    }

    /// What the fan-out of a kind is at.
    pub(super) fn fanout(&self, plural: &str) -> Stats {
        let kind = self.kinds.iter().find(|k| k.plural == plural).unwrap();
        kind.fanout.stats()
    }

    /// The answer to a request, its body not read yet.
    pub(super) async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let response = tokio::time::timeout(PATIENCE, self.open(request))
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, usize::MAX));
        let bytes = bytes.await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer {
            code: parts.status,
            headers: parts.headers,
            body: serde_json::from_str(&text).unwrap_or_default(),
            text,
        }
    }

    async fn with(&self, method: &str, uri: &str, kind: &str, body: String) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::CONTENT_TYPE, kind)
            .body(Body::from(body))
            .unwrap();
        self.send(request).await
    }

    pub(super) async fn get(&self, uri: &str) -> Answer {
        self.with("GET", uri, "application/json", String::new())
            .await
    }

    pub(super) async fn get_as(&self, uri: &str, accept: &str) -> Answer {
        let request = Request::builder().uri(uri).header(header::ACCEPT, accept);
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post(&self, uri: &str, body: &Value) -> Answer {
        self.with("POST", uri, "application/json", body.to_string())
            .await
    }

    pub(super) async fn put(&self, uri: &str, body: &Value) -> Answer {
        self.with("PUT", uri, "application/json", body.to_string())
            .await
    }

    pub(super) async fn merge(&self, uri: &str, body: &Value) -> Answer {
        self.with(
            "PATCH",
            uri,
            "application/merge-patch+json",
            body.to_string(),
        )
        .await
    }

    pub(super) async fn patch(&self, uri: &str, kind: &str, body: &Value) -> Answer {
        self.with("PATCH", uri, kind, body.to_string()).await
    }

    pub(super) async fn delete(&self, uri: &str, body: Option<&Value>) -> Answer {
        let body = body.map(ToString::to_string).unwrap_or_default();
        self.with("DELETE", uri, "application/json", body).await
    }

    /// Creates an object that must be created.
    pub(super) async fn make(&self, uri: &str, object: &Value) -> Value {
        let answer = self.post(uri, object).await;
        assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.text);
        answer.body
    }
}

impl Answer {
    /// Code and message must be these.
    #[track_caller]
    pub(super) fn fails(&self, code: u16, reason: &str, message: &str) {
        assert_eq!(self.code.as_u16(), code, "{}", self.text);
        assert_eq!(self.body["kind"], "Status", "{}", self.text);
        assert_eq!(self.body["code"], code, "{}", self.text);
        assert_eq!(self.body["reason"], reason, "{}", self.text);
        let said = self.body["message"].as_str().unwrap();
        assert!(said.contains(message), "{said}");
    }

    #[track_caller]
    pub(super) fn ok(&self) -> &Value {
        assert_eq!(self.code, StatusCode::OK, "{}", self.text);
        &self.body
    }
}

pub(super) fn actor(name: &str) -> Value {
    json!({
        "apiVersion": "runtime.ate.dev/v1alpha1", "kind": "Actor", "metadata": {"name": name},
        "spec": {"templateRef": {"name": "counter"}},
    })
}

pub(super) fn pool(name: &str) -> Value {
    json!({
        "apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": name},
        "spec": {"replicas": 2},
    })
}

pub(super) fn template(name: &str) -> Value {
    let image = format!("example.org/counter@sha256:{}", "a".repeat(64));
    json!({
        "apiVersion": "ate.dev/v1alpha1", "kind": "ActorTemplate", "metadata": {"name": name},
        "spec": {"containers": [{"name": "app", "image": image}]},
    })
}

pub(super) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
