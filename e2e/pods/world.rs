//! A cluster with a node, all of ours installed in it by Helm, a pool of two workers and a template that is ready. The cluster is
//! started for us, or it is that of a kubeconfig (`E2E_KUBECONFIG`).

use super::door::Door;
use crate::aggregated::{Cluster, eventually, root, shell};
use crate::dev::harness::image;
use crate::parts::look::{outcome, text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Images, as the chart calls them: user, programs.
const IMAGES: [(&str, &str, &[&str]); 3] = [
    (
        "ate:0.1.0",
        "65532",
        &[env!("CARGO_BIN_EXE_ate"), "runsc", "nft"],
    ),
    ("valkey/valkey:8.1", "999", &["valkey-server"]),
    ("versity/versitygw:v1.8.0", "65532", &["versitygw"]),
];
/// Where the pool and its actors are.
pub const NAMESPACE: &str = "team";
/// Workers of the pool.
pub const WORKERS: usize = 2;
/// Where the counter's image is on the node, and so in the node agent's pod.
const LAYOUT: &str = "/var/lib/ate/test-image";
/// The kubeconfig of a cluster that is there, with one node.
const GIVEN: &str = "E2E_KUBECONFIG";
/// Our image there; otherwise that of [`IMAGES`] is made of this build.
const IMAGE: &str = "E2E_IMAGE";
/// An image with sh, curl, nsenter and tar there, which our own clusters have.
const TOOLS: (&str, &str) = ("E2E_TOOLS", "localhost/busybox:1");
/// Whether an actor lost what it did after its last snapshot.
pub const ROLLED_BACK: &str = ".status.conditions[?(@.type==\"RolledBack\")].status";
/// How long a request through the router may take.
const ANSWER: Duration = Duration::from_secs(60);

static WORLD: OnceLock<World> = OnceLock::new();
static TURN: Mutex<()> = Mutex::new(());

/// What there is in the cluster.
pub struct World {
    pub(super) cluster: Cluster,
    /// Address of the router's Service.
    router: String,
    /// From `helm install` until all of ours are ready; images were there.
    pub installed: Duration,
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
        let cluster = match std::env::var_os(GIVEN) {
            Some(kubeconfig) => Cluster::given(Path::new(&kubeconfig), &tools()),
            None => {
                let cluster = Cluster::with_node();
                for (name, user, programs) in IMAGES {
                    load_image(&cluster, name, user, programs);
                }
                cluster
            }
        };
        let mut world = World {
            router: String::new(),
            installed: Duration::ZERO,
            cluster,
        };
        let begun = Instant::now();
        world.install();
        world.installed = begun.elapsed();
        world.router = format!("{}:80", world.service("atenet-router"));
        world.populate();
        world
    }

    /// By Helm, as anybody would. There are no volumes for the store and the S3 server here.
    fn install(&self) {
        let image = std::env::var(IMAGE).unwrap_or(IMAGES[0].0.to_owned());
        let (repository, tag) = image.rsplit_once(':').expect("E2E_IMAGE is NAME:TAG");
        let (repository, tag) = (
            format!("--set=image.repository={repository}"),
            format!("--set-string=image.tag={tag}"),
        );
        for (release, values) in [
            ("substrate-crds", &[][..]),
            (
                "substrate",
                &[
                    &repository,
                    &tag,
                    "--set=store.bundled.persistence.enabled=false",
                    "--set=objects.bundled.persistence.enabled=false",
                ],
            ),
        ] {
            let chart = root("charts").join(release);
            let install = ["upgrade", "--install", release, chart.to_str().unwrap()];
            let said = self.helm(&[&install[..], &["--create-namespace"], values].concat());
            said.unwrap_or_else(|e| panic!("{e}"));
        }
        for ready in [
            &["wait", "deployment", "--all", "--for=condition=Available"][..],
            &["rollout", "status", "daemonset/atelet"],
            &[
                "wait",
                "apiservice/v1alpha1.runtime.ate.dev",
                "--for=condition=Available",
            ],
        ] {
            let args = [&["-n", "ate-system"], ready, &["--timeout=120s"]].concat();
            let said = self.cluster.try_kubectl(&args);
            said.unwrap_or_else(|e| panic!("{e}\n{}", self.tell()));
        }
    }

    /// helm in our own namespace.
    pub fn helm(&self, args: &[&str]) -> Result<String, String> {
        let mut helm = self.cluster.client("helm");
        helm.args(args).args(["--namespace", "ate-system"]);
        outcome("helm", &helm.output().unwrap())
    }

    /// A pool and a template, ready.
    fn populate(&self) {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        self.apply(&namespace);
        self.lay_out("root");
        self.pool();
        self.template("counter", &counter());
        self.wait("actortemplate/counter", "condition=Ready");
    }

    /// Puts the counter's image on a node's disk, by the name of its folder.
    pub(super) fn lay_out(&self, disk: &str) {
        let image = image();
        let (packed, _) = image.rsplit_once('@').unwrap();
        let packed = Path::new(&packed["oci-layout:".len()..]);
        if !self.cluster.is_own() {
            let parent = Path::new(LAYOUT).parent().unwrap().to_str().unwrap();
            self.cluster.on_node(&["rm", "-rf", LAYOUT]);
            self.cluster.on_node(&["mkdir", "-p", parent]);
            return shell::copy(&self.cluster, packed, &format!("/proc/1/root{LAYOUT}"));
        }
        let to = self.cluster.path(disk).join(&LAYOUT[1..]);
        if to.exists() {
            return;
        }
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-a").args([packed, &to]).status();
        assert!(copied.unwrap().success());
    }

    /// Makes the pool, if it is not there.
    pub fn pool(&self) {
        self.apply(&json!({
            "apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool",
            "metadata": {"name": "pool", "namespace": NAMESPACE}, "spec": {"replicas": WORKERS},
        }));
    }

    /// Makes a template of an image that serves as the counter does.
    pub fn template(&self, name: &str, image: &str) {
        self.apply(&Self::template_of(name, image));
    }

    /// The same, not yet made.
    pub fn template_of(name: &str, image: &str) -> Value {
        json!({
            "apiVersion": "ate.dev/v1alpha1", "kind": "ActorTemplate",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"containers": [{
                "name": "app", "image": image,
                "ports": [{"name": "http", "containerPort": 8080}],
                "readyz": {"httpGet": {"path": "/healthz", "port": 8080}},
            }]},
        })
    }

    pub fn apply(&self, object: &Value) {
        self.cluster.apply(&object.to_string());
    }

    /// kubectl in the namespace.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.kubectl_in(NAMESPACE, args)
    }

    #[track_caller]
    pub fn kubectl_in(&self, namespace: &str, args: &[&str]) -> String {
        let args: Vec<_> = ["-n", namespace].iter().chain(args).copied().collect();
        match self.cluster.try_kubectl(&args) {
            Ok(said) => said,
            Err(error) => panic!("{error}\n{}", self.tell()),
        }
    }

    #[track_caller]
    pub fn wait(&self, what: &str, until: &str) {
        self.kubectl(&["wait", what, &format!("--for={until}"), "--timeout=120s"]);
    }

    /// A client command with the administrator's kubeconfig.
    pub fn client(&self, program: &str) -> Command {
        self.cluster.client(program)
    }

    /// A file with what a Secret of ours has at a key.
    pub fn pem(&self, secret: &str, key: &str) -> PathBuf {
        let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
        let pem = self.kubectl_system(&["get", "secret", secret, "-o", &template]);
        let file = self.cluster.path(&format!("{secret}-{key}"));
        std::fs::write(&file, pem).unwrap();
        file
    }

    /// Says PING by TLS to a server of ours with this name, with the certificate of a process of ours, of this Secret.
    pub fn openssl(&self, address: &str, name: &str, secret: Option<&str>) -> Command {
        let ping = self.cluster.path("ping");
        std::fs::write(&ping, "PING\r\nQUIT\r\n").unwrap();
        let mut command = self.cluster.client("openssl");
        command.args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-connect",
            address,
        ]);
        command.args(["-servername", name, "-verify_hostname", name]);
        command
            .arg("-CAfile")
            .arg(self.pem("ate-store-tls", "ca.crt"));
        if let Some(secret) = secret {
            command.arg("-cert").arg(self.pem(secret, "tls.crt"));
            command.arg("-key").arg(self.pem(secret, "tls.key"));
        }
        command.stdin(std::fs::File::open(&ping).unwrap());
        command
    }

    /// grpcurl of a client that knows the API server's CA and nothing else.
    pub fn grpcurl_as_client(&self) -> Command {
        let mut command = self.cluster.client("grpcurl");
        command.args(["-servername", "api.ate-system.svc", "-cacert"]);
        command.arg(self.pem("ate-apiserver-tls", "ca.crt"));
        command
    }

    /// grpcurl with the certificate of a process of ours, of this Secret.
    pub fn grpcurl(&self, secret: &str) -> Command {
        let file = |key: &str| self.pem(secret, key);
        let mut command = self.cluster.client("grpcurl");
        command.arg("-import-path").arg(root("src/proto"));
        command.args(["-proto", "node.proto", "-servername", "apiserver"]);
        command.arg("-cacert").arg(file("ca.crt"));
        command.arg("-cert").arg(file("tls.crt"));
        command.arg("-key").arg(file("tls.key"));
        command
    }

    /// The API server's door for our processes and for clients.
    pub fn grpc(&self) -> Door {
        self.door("api", 443)
    }

    /// The way to a Service of ours from this machine.
    pub fn door(&self, service: &str, port: u16) -> Door {
        match self.cluster.is_own() {
            true => Door::plain(format!("{}:{port}", self.service(service))),
            false => Door::forwarded(&self.cluster, service, port),
        }
    }

    /// Says that a test needs a cluster of our own, where there is none.
    pub fn left_out(&self, why: &str) -> bool {
        let left_out = !self.cluster.is_own();
        if left_out {
            println!("left out, as the cluster is not ours: {why}");
        }
        left_out
    }

    /// A program of this machine that reaches addresses of Services, with files of this machine as arguments after `arguments`.
    pub fn beside(&self, program: &Path, arguments: &[&str], files: &[&Path]) -> Command {
        let bring = |file: &Path| {
            if self.cluster.is_own() {
                return file.display().to_string();
            }
            let to = format!("/tmp/{}", file.file_name().unwrap().display());
            shell::copy(&self.cluster, file, &to);
            to
        };
        let mut command = self.command(&bring(program));
        command.args(arguments);
        command.args(files.iter().map(|file| bring(file)));
        command
    }

    /// A program where addresses of Services are reached.
    fn command(&self, program: &str) -> Command {
        match self.cluster.is_own() {
            true => Command::new(program),
            false => shell::inside(&self.cluster, program),
        }
    }

    /// kubectl in our own namespace, where it may fail.
    pub fn try_kubectl_system(&self, args: &[&str]) -> Result<String, String> {
        self.cluster
            .try_kubectl(&[&["-n", "ate-system"], args].concat())
    }

    /// kubectl in our own namespace.
    pub fn kubectl_system(&self, args: &[&str]) -> String {
        let args: Vec<_> = ["-n", "ate-system"].iter().chain(args).copied().collect();
        self.cluster.kubectl(&args)
    }

    pub fn field(&self, what: &str, path: &str) -> String {
        self.cluster.field(NAMESPACE, what, path)
    }

    /// POST of an object at a path.
    pub fn post(&self, path: &str, object: &Value) -> Result<String, String> {
        let create = ["create", "--raw", path, "-f", "-"];
        self.cluster.try_pipe(&create, &object.to_string())
    }

    /// What the API answers at a path.
    pub fn raw(&self, path: &str) -> String {
        self.cluster.kubectl(&["get", "--raw", path])
    }

    /// What a request to an actor through the router's Service is answered in a pod of a namespace. What is attached to a pod may miss
    /// what it says first, so its log is read.
    #[track_caller]
    pub fn ask_from_pod(&self, actor: &str, namespace: &str) -> String {
        let host = format!("Host: {}", host(actor, namespace));
        let image = format!("--image={}", tools());
        let run = ["run", "asker", &image, "--restart=Never", "--"];
        let curl = ["curl", "-sS", "-m", "60", "-H", &host];
        let url = "http://atenet-router.ate-system.svc/";
        self.kubectl_in(namespace, &[&run[..], &curl, &[url]].concat());
        let ended = "--for=jsonpath={.status.phase}=Succeeded";
        self.kubectl_in(namespace, &["wait", "pod/asker", ended, "--timeout=90s"]);
        let said = self.kubectl_in(namespace, &["logs", "pod/asker"]);
        self.kubectl_in(namespace, &["delete", "pod/asker"]);
        said
    }

    /// Makes an actor that goes with the test.
    pub fn actor(&self, name: &str) -> Actor<'_> {
        self.actor_of("counter", name)
    }

    /// The same, of another template.
    pub fn actor_of(&self, template: &str, name: &str) -> Actor<'_> {
        self.apply(&json!({
            "apiVersion": "runtime.ate.dev/v1alpha1", "kind": "Actor",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"templateRef": {"name": template}},
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

    /// Process id, on the node, of a pod's executor.
    pub fn executor(&self, pod: &str) -> String {
        let uid = self.field(&format!("pod/{pod}"), ".metadata.uid");
        let said = self.cluster.on_node(&["ps", "-eo", "pid=,args="]);
        let ours = |line: &&str| line.contains("ate ateom ") && line.contains(&uid);
        let line = said.lines().find(ours).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    }

    /// A process of ours on the node: KiB of memory that it has for itself (PSS), and ticks of processor time so far.
    pub fn costs(&self, args: &str) -> Option<(u64, u64)> {
        let said = self.cluster.on_node(&["ps", "-eo", "pid=,args="]);
        let line = said.lines().find(|line| line.contains(args))?;
        let process = format!("/proc/{}", line.split_whitespace().next()?);
        let read = |file: &str| self.cluster.on_node(&["cat", &format!("{process}/{file}")]);
        let (memory, stat) = (read("smaps_rollup"), read("stat"));
        let pss = memory.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        let pss = pss.split_whitespace().next()?.parse().ok()?;
        // After the name in brackets: utime and stime are the 12th and 13th.
        let fields = stat.rsplit_once(')')?.1.split_whitespace();
        let ticks = fields.skip(11).take(2).map(|n| n.parse().unwrap_or(0));
        Some((pss, ticks.sum()))
    }

    /// SHA-256 of the node's own runtime.
    pub fn runtime(&self) -> String {
        let said = self.cluster.on_node(&["ls", "/var/lib/ate/runtimes"]);
        said.trim().to_owned()
    }

    /// Process id of the node agent, on its node.
    pub fn agent(&self) -> Option<String> {
        self.processes("ate atelet --slots=pods").pop()
    }

    /// Runs a command on the node.
    #[track_caller]
    pub fn on_node(&self, args: &[&str]) -> String {
        self.cluster.on_node(args)
    }

    /// Process ids, on the node, of those whose command line has this.
    pub fn processes(&self, command: &str) -> Vec<String> {
        let said = self.cluster.on_node(&["ps", "-eo", "pid=,args="]);
        let lines = said.lines().filter(|line| line.contains(command));
        let pids = lines.filter_map(|line| line.split_whitespace().next());
        pids.map(str::to_owned).collect()
    }

    /// Sends processes of the node a signal.
    pub fn signal(&self, signal: &str, pids: &[String]) {
        let pids = pids.iter().map(String::as_str);
        let args: Vec<_> = ["kill", signal].into_iter().chain(pids).collect();
        self.cluster.on_node(&args);
    }

    /// Kills the node agent; returns its process id.
    pub fn kill_agent(&self) -> String {
        let pid = self.agent().unwrap();
        self.signal("-KILL", std::slice::from_ref(&pid));
        pid
    }

    /// Files and directories of a snapshot that the S3 server's pod has.
    pub fn published(&self, id: &str) -> usize {
        self.find("/var/lib/kubelet/pods", id, "-print")
    }

    /// Removes the node's copy of a snapshot; how many files and directories of it there were.
    pub fn lose_copy(&self, id: &str) -> usize {
        self.find("/var/lib/ate/snapshots", id, "-delete")
    }

    /// What the node has below `dir` with `id` in its path, and what is done with it.
    fn find(&self, dir: &str, id: &str, done: &str) -> usize {
        let named = format!("*{id}*");
        let find = ["find", dir, "-depth", "-path", &named, "-printf", "x\n"];
        let said = self.cluster.on_node(&[&find[..], &[done]].concat());
        said.lines().filter(|line| *line == "x").count()
    }

    /// What a pod sees of its node beside its own directory: names, and where each lies there.
    pub fn lent(&self, pod_uid: &str) -> BTreeMap<String, String> {
        let mounts = self.cluster.on_node(&["cat", "/proc/self/mountinfo"]);
        let mine = |l: &&str| l.contains(pod_uid) && l.contains("/lent/");
        let lent = mounts.lines().filter(mine).filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let (source, at) = (fields.next()?, fields.next()?);
            let (_, name) = at.split_once("/lent/")?;
            Some((name.to_owned(), source.to_owned()))
        });
        lent.collect()
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
        let logs = |what| ["-n", "ate-system", "logs", what, "--tail=40", "--prefix"];
        let ours = [
            "ds/atelet",
            "deploy/ate-api-server",
            "deploy/ate-controller",
            "deploy/atenet-router",
        ]
        .map(logs);
        let ours = ours.iter().map(|args| &args[..]);
        let asks: [&[&str]; 4] = [
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
        let said = ours.chain(asks).map(|args| {
            let said = self.cluster.try_kubectl(args).unwrap_or_else(|e| e);
            format!("--- kubectl {}\n{said}\n", args.join(" "))
        });
        said.collect()
    }
}

/// An actor; deleted with this.
pub struct Actor<'a> {
    world: &'a World,
    name: String,
}

impl Actor<'_> {
    /// Its name for requests.
    pub fn host(&self) -> String {
        host(&self.name, NAMESPACE)
    }

    /// Path of a subresource.
    pub fn path(&self, subresource: &str) -> String {
        let name = &self.name;
        format!("/apis/runtime.ate.dev/v1alpha1/namespaces/{NAMESPACE}/actors/{name}/{subresource}")
    }

    /// GET through the router; any other answer than 200 is an error.
    pub fn get(&self, path: &str) -> Result<String, String> {
        let host = format!("Host: {}", self.host());
        let mut curl = self.world.command("curl");
        let output = curl
            .args(["-sS", "--fail-with-body", "-m"])
            .arg(ANSWER.as_secs().to_string())
            .args(["-H", &host, &format!("http://{}{path}", self.world.router)])
            .output();
        outcome("curl", &output.unwrap())
    }

    /// One more visit: the counters in memory and on disk.
    #[track_caller]
    pub fn visit(&self) -> (u64, u64) {
        self.try_visit().unwrap_or_else(|e| panic!("{e}"))
    }

    /// The same, where it may not be answered.
    pub fn try_visit(&self) -> Result<(u64, u64), String> {
        let said = self.get("/")?;
        let body: Value = serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))?;
        let number = |key: &str| body[key].as_u64().ok_or(format!("no {key}: {said}"));
        Ok((number("memory")?, number("file")?))
    }

    /// Suspends it, and waits.
    #[track_caller]
    pub fn sleep(&self) {
        self.try_sleep().unwrap_or_else(|e| panic!("{e}"));
    }

    /// The same, where it may not be answered.
    pub fn try_sleep(&self) -> Result<(), String> {
        let path = self.path("suspend?wait=50");
        self.world.post(&path, &json!({}))?;
        match self.field(".status.phase") {
            phase if phase == "Suspended" => Ok(()),
            phase => Err(format!("it is {phase:?}")),
        }
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
        let delete = ["-n", NAMESPACE, "delete", "actor", &self.name];
        let deleted = self.world.cluster.try_kubectl(&delete);
        if !std::thread::panicking() {
            deleted.unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// The counter's image, as templates name it.
pub fn counter() -> String {
    let image = image();
    let (_, digest) = image.rsplit_once('@').unwrap();
    format!("oci-layout:{LAYOUT}@{digest}")
}

/// Whether this run shows how long steps took: `make e2e` does.
pub fn shows_table() -> bool {
    std::env::var_os("E2E_TABLE").is_some()
}

/// Name of an actor for requests.
fn host(actor: &str, namespace: &str) -> String {
    format!("{actor}.{namespace}.actors.resources.substrate.ate.dev")
}

/// The image of pods that ask others.
fn tools() -> String {
    let (variable, own) = TOOLS;
    std::env::var(variable).unwrap_or(own.to_owned())
}

/// Makes an image and gives it to the node; one that comes later finds it, too.
fn load_image(cluster: &Cluster, name: &str, user: &str, programs: &[&str]) {
    let images = cluster.path("images");
    std::fs::create_dir_all(&images).unwrap();
    let tar = images.join(format!("{}.tar", name.replace(['/', ':'], "-")));
    let made = Command::new(root("e2e/image.sh"))
        .args([name.as_ref(), tar.as_os_str(), user.as_ref()])
        .args(programs)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let file = tar.to_str().unwrap();
    cluster.on_node(&["ctr", "-n", "k8s.io", "images", "import", file]);
}
