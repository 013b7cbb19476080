//! A control plane, two replicas of our API server behind it. A guard removes everything when this process ends, however it
//! ends.

pub use super::namespace::{Kubectl, Namespace, actor};
use super::namespace::{pipe, run};
use super::shell;
use super::turns::Turn;
use crate::parts::look::{self, KUBECTL, outcome, text};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use substrate::identity::{Authority, LeafRequest, Usage, files};

/// Bound of whatever a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Names in the replicas' certificates: for kube-apiserver, for gRPC clients, for our own processes.
const NAMES: [&str; 3] = [
    "ate-apiserver.ate-system.svc",
    "api.ate-system.svc",
    "apiserver",
];
pub const REPLICAS: usize = 2;
pub const ACTORS: &str = "/apis/runtime.ate.dev/v1alpha1/namespaces";

/// Looks until it is so, within a bound.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    look::until(PATIENCE, what, look)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A replica of `ate apiserver` on the host.
struct Replica {
    rest: u16,
    grpc: u16,
    flags: Vec<String>,
    child: Option<Child>,
}

/// The cluster.
pub struct Cluster {
    id: String,
    dir: PathBuf,
    /// None of one that somebody else started.
    guard: Option<Mutex<Child>>,
    authority: Authority,
    store: u16,
    store_process: Mutex<Option<Child>>,
    replicas: Mutex<Vec<Replica>>,
}

/// What a test holds while it uses the cluster.
pub struct Shared(pub &'static Cluster, #[allow(dead_code)] Turn);
/// What a test holds that stops or changes what all use.
pub struct Alone(pub &'static Cluster, #[allow(dead_code)] Turn);

impl std::ops::Deref for Shared {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        self.0
    }
}

impl std::ops::Deref for Alone {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        self.0
    }
}

impl Drop for Alone {
    /// What a failed test left stopped, others need.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.logs());
        }
        self.0.start_store();
        (0..REPLICAS).for_each(|n| self.0.start_replica(n));
        self.0.route(&[0, 1]);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.logs());
        }
    }
}

/// A replica beside those that serve the API; ends with its handle.
pub struct Extra(&'static Cluster, pub usize);

impl Drop for Extra {
    fn drop(&mut self) {
        self.0.stop_replica(self.1);
    }
}

/// The cluster, beside other tests.
pub fn shared() -> Shared {
    let turn = Turn::shared();
    Shared(turn.cluster(), turn)
}

/// As [`shared`], before others that want that: for tests that are long.
pub fn shared_first() -> Shared {
    let turn = Turn::shared_first();
    Shared(turn.cluster(), turn)
}

/// A cluster with nobody else at it.
pub fn alone() -> Alone {
    let turn = Turn::alone();
    Alone(turn.cluster(), turn)
}

/// As [`alone`], before others that want that: for tests that are long.
pub fn alone_first() -> Alone {
    let turn = Turn::alone_first();
    Alone(turn.cluster(), turn)
}

/// A file of the repository.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Kills a process and waits for it.
pub fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A port that nobody listens on.
pub fn free_port(host: &str) -> u16 {
    let listener = TcpListener::bind((host, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

impl Cluster {
    /// Starts a control plane and installs what there is to install.
    pub fn start() -> Cluster {
        let cluster = Cluster::bare(&[]);
        cluster.install();
        cluster
    }

    /// Starts a control plane with a node, where pods run; nothing of ours is in it.
    pub fn with_node() -> Cluster {
        Cluster::bare(&["node"])
    }

    /// A cluster that somebody else started, with a node where a pod of `image` runs what is to run there.
    pub fn given(kubeconfig: &Path, image: &str) -> Cluster {
        let dir = format!("given-{}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::copy(kubeconfig, dir.join("kubeconfig")).unwrap();
        let cluster = Cluster::new("given".to_owned(), dir, "127.0.0.1", None);
        shell::start(&cluster, image);
        cluster
    }

    /// Whether it was started for us alone: its nodes and its control plane are ours as well.
    pub fn is_own(&self) -> bool {
        self.guard.is_some()
    }

    fn bare(form: &[&str]) -> Cluster {
        let mut guard = Command::new("setsid")
            .arg(root("e2e/aggregated/guard.sh"))
            .args(form)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut id = String::new();
        let said = BufReader::new(guard.stdout.take().unwrap()).read_line(&mut id);
        let id = id.trim().to_owned();
        assert!(
            said.is_ok() && !id.is_empty(),
            "no cluster (e2e/setup.sh control-plane; see above)"
        );
        let dir = PathBuf::from(format!("/var/tmp/agent-substrate-cluster{id}"));
        let host = format!("10.199.{id}.1");
        Cluster::new(id, dir, &host, Some(Mutex::new(guard)))
    }

    fn new(id: String, dir: PathBuf, host: &str, guard: Option<Mutex<Child>>) -> Cluster {
        let pki = dir.join("ours");
        let ports = (0..REPLICAS).map(|_| Replica {
            rest: free_port(host),
            grpc: free_port(host),
            flags: vec![],
            child: None,
        });
        Cluster {
            authority: Authority::load_or_create(&pki).unwrap(),
            store: free_port("127.0.0.1"),
            store_process: Mutex::default(),
            guard,
            replicas: Mutex::new(ports.collect()),
            id,
            dir,
        }
    }

    /// Everything that an installation does, and waits until the API is available.
    fn install(&self) {
        self.new_certificate();
        self.start_store();
        self.kubectl(&["apply", "-f", root("crds").to_str().unwrap()]);
        for part in ["config/apiserver", "config/rbac"] {
            self.kubectl(&["apply", "-k", root(part).to_str().unwrap()]);
        }
        // Our pods are processes on the host: whoever keeps endpoints must not look for pods.
        let unselect = r#"[{"op": "remove", "path": "/spec/selector"}]"#;
        for service in ["ate-apiserver", "api"] {
            self.kubectl(&[
                "-n",
                "ate-system",
                "patch",
                "service",
                service,
                "--type=json",
                "-p",
                unselect,
            ]);
        }
        self.trust_authority();
        self.write_kubeconfig("ate-apiserver", "ours/kubeconfig");
        (0..REPLICAS).for_each(|n| self.start_replica(n));
        self.route(&[0, 1]);
        self.kubectl(&[
            "wait",
            "--for=condition=Available",
            "apiservice/v1alpha1.runtime.ate.dev",
            "--timeout=60s",
        ]);
        eventually("the API is there", || {
            self.try_kubectl(&["get", "actors"]).ok()
        });
    }

    /// Tells kube-apiserver who signs the replicas' certificates.
    pub fn trust_authority(&self) {
        let bundle =
            serde_json::json!({"spec": {"caBundle": base64(self.authority.certificate())}});
        self.kubectl(&[
            "patch",
            "apiservice",
            "v1alpha1.runtime.ate.dev",
            "--type=merge",
            "-p",
            &bundle.to_string(),
        ]);
    }

    /// Writes a kubeconfig of one of our ServiceAccounts.
    pub fn write_kubeconfig(&self, account: &str, file: &str) {
        let token = self.token("ate-system", account, None);
        let admin = std::fs::read_to_string(self.path("kubeconfig")).unwrap();
        let mut config: serde_json::Value = serde_yaml_ng::from_str(&admin).unwrap();
        config["users"][0]["user"] = serde_json::json!({"token": token});
        config["contexts"][0]["context"]["namespace"] = "ate-system".into();
        std::fs::write(self.path(file), config.to_string()).unwrap();
    }

    /// A token of a ServiceAccount.
    pub fn token(&self, namespace: &str, name: &str, audience: Option<&str>) -> String {
        let mut args = vec!["-n", namespace, "create", "token", name];
        let audience = audience.map(|a| format!("--audience={a}"));
        args.extend(audience.as_deref());
        self.kubectl(&args).trim().to_owned()
    }

    /// A new certificate of the replicas; those that run find it themselves.
    pub fn new_certificate(&self) {
        let names = NAMES.map(str::to_owned).into_iter();
        let request = LeafRequest::new("apiserver", Usage::Both)
            .group("ate:component")
            .sans(names.chain([self.host()]));
        let leaf = self.authority.leaf(&request).unwrap();
        let write = |file: &str, mode, pem: &str| {
            files::write(&self.path(file), mode, pem.as_bytes()).unwrap();
        };
        write("ours/apiserver.key", files::SECRET_MODE, &leaf.key);
        write("ours/apiserver.crt", files::PUBLIC_MODE, &leaf.chain);
    }

    /// Which of the clusters that may run on a machine it is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The host's address in the cluster's network.
    pub fn host(&self) -> String {
        format!("10.199.{}.1", self.id)
    }

    /// `https://...` of kube-apiserver.
    pub fn kubernetes(&self) -> String {
        format!("https://10.199.{}.2:6443", self.id)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The CA that signs the replicas' certificates.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// `https://...` of a replica.
    pub fn replica(&self, n: usize) -> String {
        format!("https://{}:{}", self.host(), lock(&self.replicas)[n].rest)
    }

    /// `host:port` of a replica's gRPC door.
    pub fn grpc(&self, n: usize) -> String {
        format!("{}:{}", self.host(), lock(&self.replicas)[n].grpc)
    }

    /// Starts a program that does not outlive the cluster.
    pub fn spawn(&self, program: &str, args: &[String], log: &str) -> Child {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(log))
            .unwrap();
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut guard = lock(self.guard.as_ref().unwrap());
        writeln!(guard.stdin.as_mut().unwrap(), "{}", child.id()).unwrap();
        child
    }

    /// Starts the store if it does not run, and waits until it listens.
    pub fn start_store(&self) {
        let mut process = lock(&self.store_process);
        if process.is_none() {
            *process = Some(self.spawn_store(self.store, "valkey", &[]));
        }
    }

    /// `redis://...` of the store.
    pub fn store_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.store)
    }

    /// Kills the store.
    pub fn kill_store(&self) {
        if let Some(mut child) = lock(&self.store_process).take() {
            kill(&mut child);
        }
    }

    /// A `valkey-server` with a folder of the cluster's.
    pub fn spawn_store(&self, port: u16, folder: &str, more: &[&str]) -> Child {
        let dir = self.path(folder);
        std::fs::create_dir_all(&dir).unwrap();
        let settings = [
            ("--port", port.to_string()),
            ("--bind", "127.0.0.1".to_owned()),
            ("--dir", dir.display().to_string()),
            ("--save", String::new()),
            ("--appendonly", "yes".to_owned()),
            // The guard knows our processes by their command line.
            ("--set-proc-title", "no".to_owned()),
        ];
        let settings = settings.into_iter().flat_map(|(k, v)| [k.to_owned(), v]);
        let args: Vec<_> = settings.chain(more.iter().map(|&a| a.to_owned())).collect();
        let child = self.spawn("valkey-server", &args, &format!("log/{folder}.log"));
        eventually("valkey-server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        child
    }

    /// A replica with more flags, which Kubernetes is not told of.
    pub fn extra_replica(&'static self, flags: &[&str]) -> Extra {
        let host = self.host();
        let n = {
            let mut all = lock(&self.replicas);
            all.push(Replica {
                rest: free_port(&host),
                grpc: free_port(&host),
                flags: flags.iter().map(|f| (*f).to_owned()).collect(),
                child: None,
            });
            all.len() - 1
        };
        self.start_replica(n);
        Extra(self, n)
    }

    /// Starts a replica that does not run, and waits until it answers.
    pub fn start_replica(&self, n: usize) {
        let (rest, grpc, flags) = {
            let replica = &mut lock(&self.replicas)[n];
            if let Some(child) = &mut replica.child
                && child.try_wait().unwrap().is_none()
            {
                return;
            }
            (replica.rest, replica.grpc, replica.flags.clone())
        };
        let child = self.spawn_replica((rest, grpc), self.store, &flags, &format!("ate-{n}"));
        lock(&self.replicas)[n].child = Some(child);
        let (direct, url) = (super::direct::Direct::stranger(self), self.replica(n));
        eventually("a replica answers", || {
            if let Some(child) = &mut lock(&self.replicas)[n].child
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("ate apiserver ended with {status}: {}", self.logs());
            }
            direct.try_get(&format!("{url}/readyz")).ok()
        });
    }

    /// An `ate apiserver` of the cluster with ports for REST and gRPC, and the port of its store.
    pub fn spawn_replica(
        &self,
        (rest, grpc): (u16, u16),
        store: u16,
        flags: &[String],
        log: &str,
    ) -> Child {
        let file = |name: &str| self.path("ours").join(name).display().to_string();
        let args = [
            ("--listen", format!("{}:{rest}", self.host())),
            ("--listen-grpc", format!("{}:{grpc}", self.host())),
            ("--store", format!("redis://127.0.0.1:{store}")),
            ("--kubeconfig", file("kubeconfig")),
            ("--tls-ca", file("ca.crt")),
            ("--tls-cert", file("apiserver.crt")),
            ("--tls-key", file("apiserver.key")),
        ];
        let args = args.into_iter().flat_map(|(k, v)| [k.to_owned(), v]);
        let args = ["apiserver".to_owned()].into_iter().chain(args);
        let args: Vec<_> = args.chain(flags.iter().cloned()).collect();
        self.spawn(env!("CARGO_BIN_EXE_ate"), &args, &format!("log/{log}.log"))
    }

    /// Ends a replica by a signal, and waits for it.
    pub fn stop_replica(&self, n: usize) {
        let child = lock(&self.replicas)[n].child.take();
        let Some(mut child) = child else { return };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        eventually("a replica ends", || child.try_wait().unwrap());
    }

    /// Ends a replica without a chance to say goodbye.
    pub fn kill_replica(&self, n: usize) {
        if let Some(mut child) = lock(&self.replicas)[n].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Process id of a replica that runs.
    pub fn replica_pid(&self, n: usize) -> u32 {
        lock(&self.replicas)[n].child.as_ref().unwrap().id()
    }

    /// Asks the store itself.
    #[track_caller]
    pub fn ask_store(&self, command: &[&str]) -> String {
        let output = Command::new("valkey-cli")
            .args(["-p", &self.store.to_string()])
            .args(command)
            .output()
            .unwrap();
        outcome("valkey-cli", &output).unwrap()
    }

    /// Tells Kubernetes which replicas there are.
    pub fn route(&self, replicas: &[usize]) {
        let ports = |n: &usize| lock(&self.replicas)[*n].rest;
        self.route_to(&replicas.iter().map(ports).collect::<Vec<_>>());
    }

    /// Tells it at which ports of the host API servers are.
    pub fn route_to(&self, ports: &[u16]) {
        let subset = |port: &u16| serde_json::json!({"addresses": [{"ip": self.host()}], "ports": [{"name": "https", "port": port}]});
        let subsets: Vec<_> = ports.iter().map(subset).collect();
        let endpoints = serde_json::json!({
            "apiVersion": "v1", "kind": "Endpoints", "subsets": subsets,
            "metadata": {"name": "ate-apiserver", "namespace": "ate-system"},
        });
        self.apply(&endpoints.to_string());
    }

    /// The last words of both replicas.
    pub fn logs(&self) -> String {
        let tail = |n| {
            let file = self.path(&format!("log/ate-{n}.log"));
            let log = std::fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(30)..].join("\n");
            format!("--- replica {n}\n{last}\n")
        };
        (0..REPLICAS).map(tail).collect()
    }

    /// Runs a command on the first node.
    #[track_caller]
    pub fn on_node(&self, args: &[&str]) -> String {
        let said = match self.is_own() {
            true => self.try_on(1, args),
            false => run(shell::on_node(self), args),
        };
        said.unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs a command on a node.
    pub fn try_on(&self, node: u8, args: &[&str]) -> Result<String, String> {
        let node = node.to_string();
        self.script("nse.sh", &[&["-n", &node], args].concat())
    }

    /// Starts a node beside the first, and waits until it is ready.
    pub fn add_node(&self, node: u8) -> Result<String, String> {
        self.script("up.sh", &[&node.to_string()])
    }

    /// Ends all that runs on a node, as if it lost power.
    pub fn lose_node(&self, node: u8) -> Result<String, String> {
        self.script("down.sh", &[&node.to_string()])
    }

    /// Takes the cable out of a node, or puts it in again; what runs there goes on.
    pub fn connect_node(&self, node: u8, connected: bool) -> Result<String, String> {
        let switch = format!("e2e{}-switch", self.id);
        let port = format!("node{node}");
        let state = if connected { "up" } else { "down" };
        let output = Command::new("ip")
            .args(["-n", &switch, "link", "set", &port, state])
            .output();
        outcome("ip", &output.unwrap())
    }

    /// One of e2e/cluster.
    fn script(&self, name: &str, args: &[&str]) -> Result<String, String> {
        let output = Command::new(root("e2e/cluster").join(name))
            .args(args)
            .env("E2E_ID", &self.id)
            .env("E2E_DIR", &self.dir)
            .stdin(Stdio::null())
            .output();
        outcome(&format!("{name} {}", args.join(" ")), &output.unwrap())
    }

    pub fn log(&self, n: usize) -> String {
        std::fs::read_to_string(self.path(&format!("log/ate-{n}.log"))).unwrap_or_default()
    }

    /// A client command with the administrator's kubeconfig.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("KUBECACHEDIR", self.path("kubecache"))
            .env("HOME", &self.dir)
            .stdin(Stdio::null());
        command
    }

    /// A kubectl.
    pub fn with(&self, kubectl: Kubectl) -> Command {
        match kubectl {
            Kubectl::OfCluster => self.client(self.path("bin/kubectl").to_str().unwrap()),
            Kubectl::Newest => self.client(KUBECTL),
        }
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        run(self.with(Kubectl::Newest), args)
    }

    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        match self.try_kubectl(args) {
            Ok(said) => said,
            Err(error) => panic!("{error}"),
        }
    }

    /// kubectl with something on its standard input.
    pub fn try_pipe(&self, args: &[&str], input: &str) -> Result<String, String> {
        pipe(self.with(Kubectl::Newest), args, input)
    }

    #[track_caller]
    pub fn pipe(&self, args: &[&str], input: &str) -> String {
        match self.try_pipe(args, input) {
            Ok(said) => said,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        self.pipe(&["apply", "-f", "-"], yaml)
    }

    /// A namespace of a test's own; goes with it.
    pub fn namespace(&'static self, prefix: &str) -> Namespace {
        self.namespace_with(Kubectl::Newest, prefix)
    }

    /// The same, handled by one kubectl.
    pub fn namespace_with(&'static self, kubectl: Kubectl, prefix: &str) -> Namespace {
        let name = format!("{prefix}-{:08x}", rand::random::<u32>());
        self.kubectl(&["create", "namespace", &name]);
        Namespace::new(self, name, kubectl)
    }

    /// Something of an object.
    pub fn field(&self, namespace: &str, what: &str, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        let args = ["-n", namespace, "get", what, "-o", &path];
        let output = self.with(Kubectl::Newest).args(args).output().unwrap();
        text(&output.stdout)
    }
}

fn base64(text: &str) -> String {
    use k8s_openapi::ByteString;
    let json = serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap();
    json.as_str().unwrap().to_owned()
}
