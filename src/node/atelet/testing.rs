//! For tests: a node agent with real executors and sandboxes, on a machine whose network is the test's own.

use super::files::{self, DesiredFile};
use super::processes::executors;
use super::{Form, Options, PoolSlots, Processes, run};
use crate::image::{ImageConfig, layout};
use crate::network::testing::apart;
use crate::node::ateom::{self, Process};
use crate::proto::atenode::nodes_server::{Nodes, NodesServer};
use crate::proto::atenode::runtime_config::Backend;
use crate::proto::atenode::{
    ActorIdentity, CheckpointRequest, Container, EnvVar, Fence, GvisorConfig, HttpGet, Readyz,
    ReportRequest, ReportResponse, RestoreRequest, RunRequest, RuntimeConfig, Slot, SnapshotRef,
    StopRequest, Workload, slot,
};
use crate::rpc::nodes::{NodeClient, NodeError, TonicNodes};
use crate::rpc::testing::{Authority, from_peers, listen};
use crate::sandbox::cgroup;
use crate::sandbox::testing::{PATIENCE, command, get, rootfs};
use crate::snapshot::S3Config;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub const LONG: Duration = Duration::from_secs(60);

/// An executor needs the first thread of its process, which in tests is not to be had but before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BECOME_EXECUTOR: extern "C" fn() = become_executor;

extern "C" fn become_executor() {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let args: Vec<&str> = line
        .split(|b| *b == 0)
        .filter_map(|arg| std::str::from_utf8(arg).ok())
        .collect();
    let [_, "ateom", "--uid", uid, "--dir", dir, rest @ ..] = &args[..] else {
        return;
    };
    let refused = rest.iter().filter_map(|cidr| cidr.parse().ok()).collect();
    tracing_subscriber::fmt().init();
    let result = ateom::run(ateom::Options {
        uid: (*uid).to_owned(),
        dir: dir.into(),
        binds: vec![],
        refused,
    });
    if let Err(e) = &result {
        eprintln!("{e:?}");
    }
    std::process::exit(if result.is_ok() { 0 } else { 1 });
}

/// Takes reports.
#[derive(Clone)]
pub struct Apiserver {
    /// Those that were answered.
    pub reports: Arc<Mutex<Vec<ReportRequest>>>,
    pub stop_slots: Arc<Mutex<Vec<String>>>,
    pub drop_snapshots: Arc<Mutex<Vec<String>>>,
    /// How long an answer's lease is; `None`: nothing is answered.
    pub lease: watch::Sender<Option<Duration>>,
}

impl Default for Apiserver {
    fn default() -> Self {
        Apiserver {
            reports: Arc::default(),
            stop_slots: Arc::default(),
            drop_snapshots: Arc::default(),
            lease: watch::Sender::new(Some(Duration::from_secs(90))),
        }
    }
}

#[tonic::async_trait]
impl Nodes for Apiserver {
    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let mut lease = self.lease.subscribe();
        let lease = *lease.wait_for(Option::is_some).await.unwrap();
        self.reports.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ReportResponse {
            incarnation: 7,
            lease_ms: lease.unwrap().as_millis() as u64,
            stop_slots: std::mem::take(&mut self.stop_slots.lock().unwrap()),
            golden_images: vec![],
            drop_snapshots: std::mem::take(&mut self.drop_snapshots.lock().unwrap()),
        }))
    }
}

/// A node with its agent, which can be restarted.
pub struct World {
    pub dir: tempfile::TempDir,
    pub apiserver: Apiserver,
    pub nodes: TonicNodes,
    pub pools: watch::Sender<Vec<PoolSlots>>,
    pub address: String,
    pub image: String,
    authority: Authority,
    apiserver_address: String,
    agent: Option<(JoinHandle<Result<(), super::Error>>, CancellationToken)>,
}

impl Drop for World {
    /// Executors outlive their agents, but not a test.
    fn drop(&mut self) {
        for slot in files::names(&self.node_dir().join("slots")).unwrap_or_default() {
            let dir = self.node_dir().join("slots").join(slot);
            if std::thread::panicking() {
                let log = std::fs::read_to_string(dir.join("ateom.log"));
                eprintln!("{}: {}", dir.display(), log.unwrap_or_default());
            }
        }
        for pid in self.executors() {
            if let Ok(Some(process)) = Process::open(pid) {
                let _ = process.signal(Signal::SIGKILL);
                while process.is_alive() {
                    std::thread::yield_now();
                }
            }
        }
        // Not in the test's namespaces.
        let uids = files::names(&self.run_dir().join("ateoms")).unwrap_or_default();
        uids.iter().for_each(|uid| cgroup::remove_all(uid));
    }
}

/// Runs `body` with a node of `slots` slots, all free.
pub fn with_node<F: Future<Output = ()>>(
    slots: usize,
    body: impl FnOnce(World) -> F + Send + 'static,
) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("ATE_LOG"))
        .with_test_writer()
        .try_init();
    apart(move || async move {
        let world = World::new(slots).await;
        world.settled(slots).await;
        body(world).await;
    });
}

impl World {
    async fn new(slots: usize) -> World {
        command("ip", &["link", "set", "lo", "up"]);
        let dir = tempfile::tempdir().unwrap();
        let config = ImageConfig {
            entrypoint: vec!["/testserver".into()],
            ..ImageConfig::default()
        };
        let oci = dir.path().join("oci");
        std::fs::create_dir(&oci).unwrap();
        let digest = layout::write(&oci, &rootfs(), &config).unwrap();
        let authority = Authority::new();
        let (listener, apiserver_address) = listen().await;
        let apiserver = Apiserver::default();
        let tls = authority.issue("apiserver").load().unwrap();
        let server =
            tonic::transport::Server::builder().add_service(NodesServer::new(apiserver.clone()));
        tokio::spawn(server.serve_with_incoming(from_peers(listener, &tls)));
        let mut world = World {
            image: format!("oci-layout:{}@{digest}", oci.display()),
            nodes: TonicNodes::new(tls),
            pools: watch::Sender::new(vec![]),
            address: String::new(),
            agent: None,
            dir,
            apiserver,
            authority,
            apiserver_address,
        };
        world.scale(slots);
        world.start().await;
        world
    }

    /// Of this test only: agents end the executors in their directory that they do not know.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Pids of its executors, that of the spare included.
    pub fn executors(&self) -> Vec<u32> {
        let all = executors(&self.run_dir()).unwrap_or_default();
        all.into_iter().map(|(_, pid)| pid).collect()
    }

    pub fn node_dir(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// Prefix of published snapshots.
    pub fn store(&self) -> String {
        format!("file://{}/store/", self.dir.path().display())
    }

    pub fn scale(&self, replicas: usize) {
        self.pools.send_replace(vec![PoolSlots {
            namespace: "team".into(),
            pool: "p".into(),
            class: "gvisor".into(),
            replicas,
        }]);
    }

    pub async fn options(&self) -> Options {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Options {
            node: "node-1".into(),
            dir: self.node_dir(),
            run_dir: self.run_dir(),
            advertised: listener.local_addr().unwrap().to_string(),
            listener,
            apiserver: self.apiserver_address.clone(),
            token_file: None,
            tls: self.authority.issue("atelet"),
            allowed_runtimes: BTreeSet::new(),
            allow_runsc_on_path: true,
            cache_bytes: 4 << 30,
            image_bytes: 4 << 30,
            docker_config: None,
            s3: S3Config::default(),
            form: Form::Processes(Processes {
                pools: self.pools.subscribe(),
                executable: std::env::current_exe().unwrap(),
                network_name: "ate-test".into(),
                network: "10.231.0.0/16".parse().unwrap(),
                refused: vec![],
            }),
            stop_slots_on_exit: false,
        }
    }

    pub async fn start(&mut self) {
        let options = self.options().await;
        self.start_with(options);
    }

    pub fn start_with(&mut self, options: Options) {
        self.address = options.advertised.clone();
        let stop = CancellationToken::new();
        let agent = run(options, stop.clone());
        self.agent = Some((tokio::spawn(agent), stop));
    }

    /// Ends the agent. Its executors go on.
    pub async fn stop(&mut self) {
        let (agent, stop) = self.agent.take().unwrap();
        stop.cancel();
        agent.await.unwrap().unwrap();
    }

    /// Generation of the sandbox that a slot has ahead, or is about to.
    pub fn ahead(&self, slot: &str) -> Option<String> {
        let dir = self.node_dir().join(format!("slots/team:{slot}"));
        let desired: Option<DesiredFile> = files::read(&dir.join("desired.json")).unwrap();
        desired?.ahead.map(|ahead| ahead.generation)
    }

    /// Waits until a slot has one, or would let an order wait for it.
    pub async fn created_ahead(&self, slot: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let dir = |ahead: &String| self.node_dir().join("sandboxes").join(ahead).is_dir();
            if let Some(ahead) = self.ahead(slot).filter(dir) {
                return ahead;
            }
            assert!(Instant::now() < deadline, "never created ahead on {slot}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A client with another process's certificate.
    pub fn client_of(&self, component: &str) -> TonicNodes {
        TonicNodes::new(self.authority.issue(component).load().unwrap())
    }

    /// What the agent says that its slots are, by name.
    pub async fn slots(&self) -> Vec<Slot> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.nodes.observe(&self.address, Default::default(), LONG);
            match answer.await {
                Ok(answer) => {
                    let mut slots = answer.slots;
                    slots.sort_by(|a, b| a.name.cmp(&b.name));
                    return slots;
                }
                Err(e) => assert!(Instant::now() < deadline, "{e:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the slots are as `fine` wants them.
    pub async fn until(&self, what: &str, fine: impl Fn(&[Slot]) -> bool) -> Vec<Slot> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let slots = self.slots().await;
            if fine(&slots) {
                return slots;
            }
            assert!(Instant::now() < deadline, "never {what}: {slots:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for so many slots, all free.
    pub async fn settled(&self, count: usize) -> Vec<Slot> {
        let free = |s: &Slot| s.phase() == slot::Phase::Free;
        self.until("free", |slots| {
            slots.len() == count && slots.iter().all(free)
        })
        .await
    }

    pub fn workload(&self, env: &[(&str, &str)]) -> Workload {
        let env = env.iter().map(|(name, value)| EnvVar {
            name: (*name).into(),
            value: (*value).into(),
        });
        Workload {
            containers: vec![Container {
                name: "app".into(),
                image: self.image.clone(),
                env: env.collect(),
                readyz: Some(Readyz {
                    http_get: Some(HttpGet {
                        path: "/healthz".into(),
                        port: 8080,
                    }),
                    timeout_seconds: 30,
                }),
                ..Container::default()
            }],
            runtime: Some(RuntimeConfig {
                backend: Some(Backend::Gvisor(GvisorConfig::default())),
            }),
            port: 8080,
            ..Workload::default()
        }
    }

    pub fn run_request(&self, slot: &str, actor: &ActorIdentity, epoch: u64) -> RunRequest {
        RunRequest {
            target_ateom_uid: slot.into(),
            actor: Some(actor.clone()),
            fence: Some(fence(epoch)),
            workload: Some(self.workload(&[])),
        }
    }

    pub async fn run(
        &self,
        slot: &str,
        actor: &ActorIdentity,
        epoch: u64,
    ) -> Result<String, NodeError> {
        let request = self.run_request(slot, actor, epoch);
        let response = self.nodes.run(&self.address, request, LONG).await?;
        Ok(response.address)
    }

    pub fn snapshot(&self, actor: &ActorIdentity, epoch: u64, local: bool) -> SnapshotRef {
        let uid = actor.uid.replace('-', "");
        SnapshotRef {
            id: format!("{uid}-{epoch:016x}"),
            uri: self.store(),
            local,
        }
    }

    pub async fn checkpoint(
        &self,
        slot: &str,
        actor: &ActorIdentity,
        epoch: u64,
        local: bool,
    ) -> Result<SnapshotRef, NodeError> {
        let snapshot = self.snapshot(actor, epoch, local);
        let request = CheckpointRequest {
            target_ateom_uid: slot.into(),
            actor: Some(actor.clone()),
            fence: Some(fence(epoch)),
            snapshot: Some(snapshot.clone()),
        };
        let response = self.nodes.checkpoint(&self.address, request, LONG).await?;
        assert!(response.bytes > 0);
        Ok(snapshot)
    }

    pub fn restore_request(
        &self,
        slot: &str,
        actor: &ActorIdentity,
        epoch: u64,
        snapshot: &SnapshotRef,
    ) -> RestoreRequest {
        RestoreRequest {
            target_ateom_uid: slot.into(),
            actor: Some(actor.clone()),
            fence: Some(fence(epoch)),
            workload: Some(self.workload(&[])),
            snapshot: Some(snapshot.clone()),
        }
    }

    pub async fn restore(
        &self,
        slot: &str,
        actor: &ActorIdentity,
        epoch: u64,
        snapshot: &SnapshotRef,
    ) -> Result<String, NodeError> {
        let request = self.restore_request(slot, actor, epoch, snapshot);
        let response = self.nodes.restore(&self.address, request, LONG).await?;
        Ok(response.address)
    }

    pub async fn end(
        &self,
        slot: &str,
        actor: &ActorIdentity,
        epoch: u64,
    ) -> Result<(), NodeError> {
        let request = StopRequest {
            target_ateom_uid: slot.into(),
            actor: Some(actor.clone()),
            fence: Some(fence(epoch)),
        };
        self.nodes
            .stop(&self.address, request, LONG)
            .await
            .map(drop)
    }
}

pub fn actor(name: &str) -> ActorIdentity {
    ActorIdentity {
        namespace: "team".into(),
        name: name.into(),
        actor_id: name.into(),
        template_namespace: "team".into(),
        template_name: "counter".into(),
        uid: uuid::Uuid::new_v4().to_string(),
    }
}

pub fn fence(epoch: u64) -> Fence {
    Fence {
        epoch,
        incarnation: 7,
        not_after_ms: 0,
    }
}

/// GET at an assignment's address; it must answer 200.
pub async fn fetch(address: &str, path: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match get(address, path).await {
            Ok((200, body)) => return body,
            other => assert!(Instant::now() < deadline, "{path}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The counters in memory and on disk after one more request, and the generation.
pub async fn count(address: &str) -> (u64, u64, String) {
    let body: serde_json::Value = serde_json::from_str(&fetch(address, "/").await).unwrap();
    let number = |key: &str| body[key].as_u64().unwrap();
    let generation = body["generation"].as_str().unwrap().to_owned();
    (number("memory"), number("file"), generation)
}
