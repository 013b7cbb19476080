//! A cluster with a node, an image of our binary on it, a pool of two workers and a template that is ready.

use crate::aggregated::{Cluster, eventually, free_port, root};
use crate::dev::harness::image;
use crate::parts::look::{outcome, text};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use substrate::identity::{LeafRequest, Usage, files};

/// The image, as `config/` calls it.
const IMAGE: &str = "ate:0.1.0";
/// Where the pool and its actors are.
pub const NAMESPACE: &str = "team";
/// Workers of the pool.
pub const WORKERS: usize = 2;
/// How long a request through the router may take.
const ANSWER: Duration = Duration::from_secs(60);

static WORLD: OnceLock<World> = OnceLock::new();
static TURN: Mutex<()> = Mutex::new(());

/// What there is in the cluster.
pub struct World {
    cluster: Cluster,
    router: String,
    /// They end with the cluster.
    _processes: [Child; 2],
}

/// The world, for one test.
pub struct Mine(&'static World, #[allow(dead_code)] MutexGuard<'static, ()>);

impl std::ops::Deref for Mine {
    type Target = World;
    fn deref(&self) -> &World {
        self.0
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.tell());
        }
    }
}

/// The world, with all workers free.
pub fn world() -> Mine {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mine = Mine(WORLD.get_or_init(World::start), turn);
    mine.settled();
    mine
}

impl World {
    fn start() -> World {
        let cluster = Cluster::start_with_node();
        load_image(&cluster);
        let file = |name: &str| cluster.path("ours").join(name).display().to_string();
        for name in ["controller", "router", "atelet"] {
            certificate(&cluster, name);
        }
        cluster.write_kubeconfig("ate-controller", "ours/kubeconfig-controller");
        let tls = |name: &str| {
            let (crt, key) = (format!("{name}.crt"), format!("{name}.key"));
            [
                ("--tls-ca", file("ca.crt")),
                ("--tls-cert", file(&crt)),
                ("--tls-key", file(&key)),
            ]
        };
        let spawn = |what: &str, flags: &[(&str, String)]| {
            let flags = flags.iter().cloned().chain(tls(what));
            let flags = flags.flat_map(|(k, v)| [k.to_owned(), v]);
            let args: Vec<_> = [what.to_owned()].into_iter().chain(flags).collect();
            cluster.spawn(env!("CARGO_BIN_EXE_ate"), &args, &format!("log/{what}.log"))
        };
        let controller = [
            ("--store", cluster.store_url()),
            ("--kubeconfig", file("kubeconfig-controller")),
            ("--worker-image", IMAGE.to_owned()),
            ("--replica-name", "controller".to_owned()),
        ];
        let router = format!("{}:{}", cluster.host(), free_port(&cluster.host()));
        let to_router = [
            ("--listen", router.clone()),
            ("--apiserver", cluster.grpc(0)),
        ];
        let processes = [
            spawn("controller", &controller),
            spawn("router", &to_router),
        ];
        let world = World {
            router,
            _processes: processes,
            cluster,
        };
        world.install();
        world
    }

    /// The node agent, a pool and a template.
    fn install(&self) {
        let c = &self.cluster;
        let file = |name: &str| c.path("ours").join(name).display().to_string();
        c.kubectl(&[
            "-n",
            "ate-system",
            "create",
            "secret",
            "generic",
            "atelet-tls",
            &format!("--from-file=ca.crt={}", file("ca.crt")),
            &format!("--from-file=tls.crt={}", file("atelet.crt")),
            &format!("--from-file=tls.key={}", file("atelet.key")),
        ]);
        // The API server is on the host.
        let grpc = c.grpc(0);
        let (host, port) = grpc.rsplit_once(':').unwrap();
        self.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "api-host", "namespace": "ate-system",
                "labels": {"kubernetes.io/service-name": "api"},
            },
            "endpoints": [{"addresses": [host]}],
            "ports": [{"name": "grpc", "port": port.parse::<u16>().unwrap()}],
        }));
        let atelet = root("config/manager/atelet.yaml");
        c.kubectl(&["apply", "-f", atelet.to_str().unwrap()]);
        c.kubectl(&["create", "namespace", NAMESPACE]);
        // Where the node has it, and so the node agent's pod.
        let layout = "/var/lib/ate/test-image";
        let image = image();
        let (packed, digest) = image.rsplit_once('@').unwrap();
        let to = c.path("root").join(&layout[1..]);
        let copied = Command::new("cp")
            .arg("-a")
            .args([Path::new(&packed["oci-layout:".len()..]), &to])
            .status();
        assert!(copied.unwrap().success());
        self.apply(&json!({
            "apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool",
            "metadata": {"name": "pool", "namespace": NAMESPACE}, "spec": {"replicas": WORKERS},
        }));
        self.apply(&json!({
            "apiVersion": "ate.dev/v1alpha1", "kind": "ActorTemplate",
            "metadata": {"name": "counter", "namespace": NAMESPACE},
            "spec": {"containers": [{
                "name": "app", "image": format!("oci-layout:{layout}@{digest}"),
                "ports": [{"name": "http", "containerPort": 8080}],
                "readyz": {"httpGet": {"path": "/healthz", "port": 8080}},
            }]},
        }));
        self.wait("actortemplate/counter", "condition=Ready");
    }

    fn apply(&self, object: &Value) {
        self.cluster.apply(&object.to_string());
    }

    /// kubectl in the namespace.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        let args: Vec<_> = ["-n", NAMESPACE].iter().chain(args).copied().collect();
        match self.cluster.try_kubectl(&args) {
            Ok(said) => said,
            Err(error) => panic!("{error}\n{}", self.tell()),
        }
    }

    #[track_caller]
    pub fn wait(&self, what: &str, until: &str) {
        self.kubectl(&["wait", what, &format!("--for={until}"), "--timeout=120s"]);
    }

    /// grpcurl with the certificate of a process of ours.
    pub fn grpcurl(&self, certificate: &str) -> Command {
        let file = |name: String| self.cluster.path("ours").join(name);
        let mut command = self.cluster.client("grpcurl");
        command.arg("-import-path").arg(root("src/proto"));
        command.args([
            "-proto",
            "node.proto",
            "-servername",
            "apiserver",
            "-cacert",
        ]);
        command.arg(file("ca.crt".to_owned())).arg("-cert");
        command.arg(file(format!("{certificate}.crt"))).arg("-key");
        command.arg(file(format!("{certificate}.key")));
        command
    }

    /// The API server's door for our processes.
    pub fn grpc(&self) -> String {
        self.cluster.grpc(0)
    }

    /// kubectl in our own namespace.
    pub fn kubectl_system(&self, args: &[&str]) -> String {
        let args: Vec<_> = ["-n", "ate-system"].iter().chain(args).copied().collect();
        self.cluster.kubectl(&args)
    }

    pub fn field(&self, what: &str, path: &str) -> String {
        self.cluster.field(NAMESPACE, what, path)
    }

    /// Makes an actor that goes with the test.
    pub fn actor(&self, name: &str) -> Actor<'_> {
        self.apply(&json!({
            "apiVersion": "runtime.ate.dev/v1alpha1", "kind": "Actor",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"templateRef": {"name": "counter"}},
        }));
        Actor {
            world: self,
            name: name.to_owned(),
        }
    }

    /// Names and uids of the workers that are free.
    pub fn free(&self) -> Vec<(String, String)> {
        let path = "range .items[?(@.status.phase==\"Free\")]}{.metadata.name} {.status.podUID}{\"\\n\"}{end";
        let said = self.field("workers", path);
        let lines = said.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(n, u)| (n.to_owned(), u.to_owned())).collect()
    }

    /// Waits until there are as many free workers as the pool has, and no others.
    pub fn settled(&self) {
        eventually("all workers are free", || {
            let all = self.field("workers", ".items[*].metadata.name");
            let count = all.split_whitespace().count();
            (count == WORKERS && self.free().len() == WORKERS).then_some(())
        });
    }

    /// Process id of a pod's executor.
    pub fn executor(&self, pod: &str) -> i32 {
        let uid = self.field(&format!("pod/{pod}"), ".metadata.uid");
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        let ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let args: Vec<_> = line.split(|b| *b == 0).collect();
            args.get(1) == Some(&&b"ateom"[..]) && args.contains(&uid.as_bytes())
        };
        pids.find(ours).unwrap()
    }

    /// Mounts of the node that are of a pod's assignment.
    pub fn lent(&self, pod_uid: &str) -> usize {
        let mounts = self.cluster.on_node(&["cat", "/proc/self/mountinfo"]);
        let lent = format!("{pod_uid}/lent/");
        let kubelet = format!("/pods/{pod_uid}/");
        let mine = |l: &&str| l.contains(&lent) || l.contains(&kubelet) && l.contains("/lent/");
        mounts.lines().filter(mine).count()
    }

    /// The node's directories of a pod.
    pub fn directories(&self, pod_uid: &str) -> Vec<String> {
        let dirs = ["/var/lib/ate/workers", "/run/ate/ateoms"];
        let said = self
            .cluster
            .on_node(&["find", dirs[0], dirs[1], "-maxdepth", "1"]);
        let mine = said.lines().filter(|line| line.ends_with(pod_uid));
        mine.map(str::to_owned).collect()
    }

    /// Address of a Service, in whichever namespace it is.
    pub fn service(&self, name: &str) -> String {
        let path = format!("jsonpath={{.items[?(@.metadata.name==\"{name}\")].spec.clusterIP}}");
        self.cluster
            .kubectl(&["get", "services", "-A", "-o", &path])
    }

    /// What everybody said last.
    pub fn tell(&self) -> String {
        let tail = |log: String| {
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        let of_host = ["controller", "router", "ate-0"].map(|name| {
            let file = self.cluster.path(&format!("log/{name}.log"));
            let log = std::fs::read_to_string(file).unwrap_or_default();
            format!("--- {name}\n{}\n", tail(log))
        });
        let asks: [&[&str]; 5] = [
            &["-n", "ate-system", "logs", "ds/atelet", "--tail=60"],
            &[
                "-n",
                NAMESPACE,
                "logs",
                "-l",
                "ate.dev/worker-pool",
                "--tail=20",
            ],
            &[
                "get",
                "pods,actors,workers,actortemplates",
                "-A",
                "-o",
                "wide",
            ],
            &["-n", NAMESPACE, "describe", "pods"],
            &["-n", "ate-system", "describe", "pods"],
        ];
        let said = asks.map(|args| {
            let said = self.cluster.try_kubectl(args).unwrap_or_else(|e| e);
            format!("--- kubectl {}\n{said}\n", args.join(" "))
        });
        [of_host.concat(), said.concat()].concat()
    }
}

/// An actor; deleted with this.
pub struct Actor<'a> {
    world: &'a World,
    name: String,
}

impl Actor<'_> {
    /// GET through the router; any other answer than 200 is an error.
    pub fn get(&self, path: &str) -> Result<String, String> {
        let host = format!(
            "Host: {}.{NAMESPACE}.actors.resources.substrate.ate.dev",
            self.name
        );
        let output = Command::new("curl")
            .args(["-sS", "--fail-with-body", "-m"])
            .arg(ANSWER.as_secs().to_string())
            .args(["-H", &host, &format!("http://{}{path}", self.world.router)])
            .output();
        outcome("curl", &output.unwrap())
    }

    /// One more visit: the counters in memory and on disk.
    #[track_caller]
    pub fn visit(&self) -> (u64, u64) {
        let said = self.get("/").unwrap_or_else(|e| panic!("{e}"));
        let body: Value = serde_json::from_str(&said).unwrap();
        let number = |key: &str| body[key].as_u64().unwrap();
        (number("memory"), number("file"))
    }

    /// Suspends it, and waits.
    pub fn sleep(&self) {
        let path = format!(
            "/apis/runtime.ate.dev/v1alpha1/namespaces/{NAMESPACE}/actors/{}/suspend?wait=50",
            self.name
        );
        let made = self
            .world
            .cluster
            .try_pipe(&["create", "--raw", &path, "-f", "-"], "{}");
        made.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(self.field(".status.phase"), "Suspended");
    }

    pub fn worker(&self) -> String {
        self.field(".status.worker.name")
    }

    pub fn field(&self, path: &str) -> String {
        self.world.field(&format!("actor/{}", self.name), path)
    }
}

impl Drop for Actor<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.world.kubectl(&["delete", "actor", &self.name]);
        }
    }
}

fn certificate(cluster: &Cluster, name: &str) {
    let request = LeafRequest::new(name, Usage::Both)
        .group("ate:component")
        .sans([name]);
    let leaf = cluster.authority().leaf(&request).unwrap();
    let write = |file: String, mode, pem: &str| {
        files::write(&cluster.path(&file), mode, pem.as_bytes()).unwrap();
    };
    write(format!("ours/{name}.key"), files::SECRET_MODE, &leaf.key);
    write(format!("ours/{name}.crt"), files::PUBLIC_MODE, &leaf.chain);
}

/// Makes the image and gives it to the node.
fn load_image(cluster: &Cluster) {
    let tar = cluster.path("ate.tar");
    let made = Command::new(root("e2e/image.sh"))
        .args([IMAGE.as_ref(), tar.as_os_str(), "65532".as_ref()])
        .args([env!("CARGO_BIN_EXE_ate"), "runsc", "nft"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let tar: &Path = &tar;
    cluster.on_node(&[
        "ctr",
        "-n",
        "k8s.io",
        "images",
        "import",
        tar.to_str().unwrap(),
    ]);
    std::fs::remove_file(tar).unwrap();
}
