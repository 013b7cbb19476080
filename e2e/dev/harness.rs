//! An `ate dev` of a test's own: its directory, addresses and subnet collide with nobody's, and nothing of it is left.

use crate::parts::look::{self, KUBECTL, LOOK, outcome, text};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Condvar, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bound of whatever a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// So many `ate dev` at a time: tests mostly wait, but each has sandboxes of its own.
const AT_ONCE: usize = 3;
/// How many there are, and who waits for one to end.
static PRESENT: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
/// The next one's subnet, of 10.10.0.0/16 to 10.189.0.0/16, from a random one on: other processes test here too. The
/// clusters' addresses lie above.
static SUBNET: LazyLock<AtomicU8> = LazyLock::new(|| AtomicU8::new(rand::random()));

/// One of the `ate dev` that there may be at a time.
struct Turn;

impl Turn {
    fn take() -> Turn {
        let (present, ended) = &PRESENT;
        let present = present.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |present: &mut usize| *present == AT_ONCE;
        let present = ended.wait_while(present, full);
        *present.unwrap_or_else(PoisonError::into_inner) += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (present, ended) = &PRESENT;
        *present.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ended.notify_one();
    }
}

pub struct Dev {
    pub dir: tempfile::TempDir,
    api: u16,
    router: u16,
    subnet: u8,
    child: Option<Child>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    _turn: Turn,
}

/// Looks until it is so, within a bound.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    look::until(PATIENCE, what, look)
}

/// So many consecutive ports that nobody listens on.
fn free_ports(count: u16) -> u16 {
    (0..1000)
        .map(|_| 20_000 + rand::random::<u16>() % 30_000)
        .find(|first| (0..count).all(|i| TcpListener::bind(("127.0.0.1", first + i)).is_ok()))
        .expect("free ports")
}

/// The second byte of a subnet of which this machine has no address.
fn free_subnet() -> u8 {
    let shown = Command::new("ip").args(["-4", "-o", "addr"]).output();
    let shown = text(&shown.expect("ip").stdout);
    (0..180)
        .map(|_| 10 + SUBNET.fetch_add(1, Relaxed) % 180)
        .find(|subnet| !shown.contains(&format!(" 10.{subnet}.")))
        .expect("a free subnet")
}

impl Dev {
    /// Started and ready, with `flags` beside those that keep tests apart.
    pub fn start(flags: &[&str]) -> Dev {
        Self::start_with(flags, &[])
    }

    /// The same, with variables in the environment of every component.
    pub fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Dev {
        Self::start_in(|_| {}, flags, environment)
    }

    /// The same, in a directory that was prepared.
    pub fn start_in(
        prepare: impl FnOnce(&Path),
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Dev {
        let turn = Turn::take();
        let mut dev = Dev {
            dir: tempfile::Builder::new()
                .prefix("ate-e2e-")
                .tempdir()
                .unwrap(),
            api: free_ports(3),
            router: free_ports(1),
            subnet: free_subnet(),
            child: None,
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            environment: environment
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            _turn: turn,
        };
        prepare(dev.dir.path());
        dev.restart();
        dev
    }

    /// Starts it (again) on the same directory and waits until it is ready.
    pub fn restart(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("out.log"))
            .unwrap();
        let before = self.ready_lines();
        let child = Command::new(env!("CARGO_BIN_EXE_ate"))
            .arg("dev")
            .args([
                "--dir".as_ref(),
                self.path("lib").as_os_str(),
                "--run-dir".as_ref(),
                self.path("run").as_os_str(),
            ])
            .args([
                "--api",
                &format!("127.0.0.1:{}", self.api),
                "--router",
                &format!("127.0.0.1:{}", self.router),
            ])
            .args(["--subnet", &format!("10.{}.0.0/16", self.subnet)])
            .args(&self.flags)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("ate dev is ready", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("ate dev ended with {status}: {}", self.output());
            }
            (self.ready_lines() > before).then_some(())
        });
    }

    fn ready_lines(&self) -> usize {
        self.output()
            .lines()
            .filter(|l| l.starts_with("ready "))
            .count()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What it printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.path("out.log")).unwrap_or_default()
    }

    /// The last lines of a component's log.
    pub fn log(&self, component: &str) -> String {
        let log = std::fs::read_to_string(self.path(&format!("lib/logs/{component}.log")))
            .unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", self.path("lib/kubeconfig"))
            .env("KUBECACHEDIR", self.path("kubecache"));
        command.env("HOME", self.dir.path());
        command
    }

    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let output = self
            .client(KUBECTL)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        outcome(&format!("kubectl {}", args.join(" ")), &output)
    }

    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        match self.try_kubectl(args) {
            Ok(shown) => shown,
            Err(e) => panic!(
                "{e}\n--- apiserver\n{}\n--- atelet\n{}",
                self.log("apiserver"),
                self.log("atelet")
            ),
        }
    }

    pub fn try_plugin(&self, args: &[&str]) -> Result<String, String> {
        let output = self
            .client(env!("CARGO_BIN_EXE_kubectl-ate"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        outcome(&format!("kubectl ate {}", args.join(" ")), &output)
    }

    #[track_caller]
    pub fn plugin(&self, args: &[&str]) -> String {
        match self.try_plugin(args) {
            Ok(shown) => shown,
            Err(e) => panic!(
                "{e}\n--- apiserver\n{}\n--- atelet\n{}",
                self.log("apiserver"),
                self.log("atelet")
            ),
        }
    }

    /// grpcurl with the certificate of the person at the keyboard.
    pub fn try_grpcurl(&self, flags: &[&str], what: &str) -> Result<String, String> {
        let pki = |file: &str| self.path("lib/pki").join(file).display().to_string();
        let output = Command::new("grpcurl")
            .args([
                "-cacert",
                &pki("ca.crt"),
                "-cert",
                &pki("admin.crt"),
                "-key",
                &pki("admin.key"),
            ])
            .args(["-servername", "apiserver"])
            .args(flags)
            .arg(format!("127.0.0.1:{}", self.api + 1))
            .arg(what)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        outcome(&format!("grpcurl {what}"), &output)
    }

    pub fn apply(&self, yaml: &str) -> String {
        let file = self.path("apply.yaml");
        std::fs::write(&file, yaml).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()])
    }

    /// A pool, and a ready template `counter` of the test server.
    pub fn with_counter(&self, workers: usize) {
        self.apply(&format!(
            "apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: pool, namespace: default}}\nspec: {{replicas: {workers}}}\n---\n{}",
            self.template("counter", &image())
        ));
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "actortemplate/counter",
            &limit,
        ]);
    }

    pub fn template(&self, name: &str, image: &str) -> String {
        format!(
            "apiVersion: ate.dev/v1alpha1\nkind: ActorTemplate\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  containers:\n  \
             - name: app\n    image: {image}\n    ports: [{{name: http, containerPort: 8080}}]\n    readyz: {{httpGet: {{path: /healthz, port: 8080}}}}\n"
        )
    }

    pub fn actor(&self, name: &str, template: &str) -> String {
        self.apply(&format!(
            "apiVersion: runtime.ate.dev/v1alpha1\nkind: Actor\nmetadata: {{name: {name}, namespace: default}}\nspec: {{templateRef: {{name: {template}}}}}\n"
        ))
    }

    /// GET through the router; status and body.
    pub fn try_get(&self, actor: &str, path: &str) -> Result<(u16, String), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let host = format!("{actor}.default.actors.resources.substrate.ate.dev");
        let request = http::Request::get(format!("http://127.0.0.1:{}{path}", self.router))
            .header("host", host)
            .body(String::new())
            .unwrap();
        runtime.block_on(async {
            let client = Client::builder(TokioExecutor::new()).build_http();
            let exchange = async {
                let response = client
                    .request(request)
                    .await
                    .map_err(|e| format!("{e:?}"))?;
                let status = response.status().as_u16();
                let body = response
                    .into_body()
                    .collect()
                    .await
                    .map_err(|e| format!("{e:?}"))?;
                Ok((status, text(&body.to_bytes())))
            };
            tokio::time::timeout(PATIENCE, exchange)
                .await
                .map_err(|e| e.to_string())?
        })
    }

    #[track_caller]
    pub fn get(&self, actor: &str, path: &str) -> String {
        match self.try_get(actor, path) {
            Ok((200, body)) => body,
            other => panic!(
                "GET {path} of {actor}: {other:?}\n--- router\n{}\n--- apiserver\n{}\n--- atelet\n{}",
                self.log("router"),
                self.log("apiserver"),
                self.log("atelet")
            ),
        }
    }

    /// One more visit: the counters in memory and on disk.
    #[track_caller]
    pub fn visit(&self, actor: &str) -> (u64, u64) {
        counters(&self.get(actor, "/"))
    }

    /// The next visit that is served: after a loss or a start it may take a moment.
    pub fn served(&self, actor: &str) -> (u64, u64) {
        eventually("the actor is served", || {
            let (status, body) = self.try_get(actor, "/").ok()?;
            (status == 200).then(|| counters(&body))
        })
    }

    pub fn field(&self, actor: &str, path: &str) -> String {
        self.try_kubectl(&["get", "actor", actor, "-o", &format!("jsonpath={{{path}}}")])
            .unwrap_or_default()
    }

    /// Why a template is not ready: reason and message, read at once, for it is tried again and again and waits for a worker
    /// between two tries.
    pub fn template_says(&self, template: &str) -> Option<String> {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")]['reason','message']}";
        let args = ["get", "actortemplate", template, "-o", path];
        self.try_kubectl(&args).ok()
    }

    /// Where an actor that runs is reached, past the router: its worker, and its port as the node keeps it.
    pub fn address(&self, actor: &str) -> String {
        let ip = self.field(actor, ".status.worker.ip");
        let slots = std::fs::read_dir(self.path("lib/node/slots")).unwrap();
        let port = slots
            .filter_map(|slot| {
                let desired = std::fs::read(slot.ok()?.path().join("desired.json")).ok()?;
                serde_json::from_slice::<serde_json::Value>(&desired).ok()
            })
            .find(|desired| desired["assignment"]["actor"]["name"] == actor)
            .map(|desired| desired["assignment"]["host_port"].to_string());
        format!("{ip}:{}", port.unwrap())
    }

    /// Processes of this `ate dev` whose command line holds `word`.
    pub fn processes(&self, word: &str) -> Vec<i32> {
        let dir = self.dir.path().to_str().unwrap();
        let numbers = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        let of_ours = |pid: &i32| {
            let line = text(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
                .replace('\0', " ");
            line.contains(dir) && line.contains(word)
        };
        numbers.filter(of_ours).collect()
    }

    /// kill -9 of everything, sandboxes included.
    pub fn kill_everything(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let mut left = vec![0];
        let start = Instant::now();
        while !left.is_empty() && start.elapsed() < PATIENCE {
            left = self.processes("");
            left.iter().for_each(|pid| kill(*pid));
            std::thread::sleep(LOOK);
        }
    }

    /// Ctrl-C, and the end.
    pub fn stop(&mut self) -> String {
        let mut child = self.child.take().unwrap();
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child.id() as i32),
            nix::sys::signal::Signal::SIGINT,
        );
        let status = eventually("ate dev stops", || child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.output());
        self.output()
    }
}

pub fn kill(pid: i32) {
    signal(pid, nix::sys::signal::Signal::SIGKILL);
}

pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.kill_everything();
        for uid in std::fs::read_dir(self.path("run/ateoms"))
            .into_iter()
            .flatten()
            .flatten()
        {
            substrate::sandbox::cgroup::remove_all(&uid.file_name().to_string_lossy());
        }
        unmount_below(self.dir.path());
        let table = format!("ate-10.{}.0.0-16", self.subnet);
        let _ = Command::new("nft")
            .args(["delete", "table", "ip", &table])
            .stderr(Stdio::null())
            .status();
        if std::thread::panicking() {
            for component in ["apiserver", "atelet", "controller", "router"] {
                eprintln!("--- {component}\n{}", self.log(component));
            }
        }
    }
}

/// What a killed sandbox left mounted would keep the directory from going.
fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|l| l.split(' ').nth(1));
    for point in points
        .filter(|p| Path::new(p).starts_with(dir))
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// `memory` and `file` of the test server's answer.
pub fn counters(answer: &str) -> (u64, u64) {
    let value: serde_json::Value =
        serde_json::from_str(answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
    let number = |key: &str| {
        value[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no {key} in {answer}"))
    };
    (number("memory"), number("file"))
}

/// The test server as an image; built and packed once.
pub fn image() -> String {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(build).clone()
}

fn build() -> String {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("counter");
    let rootfs = root.join("rootfs");
    std::fs::create_dir_all(&rootfs).unwrap();
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    let built = Command::new(e2e.join("go.sh"))
        .args(["build", "-o"])
        .args([&rootfs.join("server"), Path::new(".")])
        .current_dir(e2e.join("testserver"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    pack(&root)
}

/// The test server as an image of its own, with this file beside it.
pub fn pack_with(root: &Path, file: &str) -> String {
    image();
    let counter = Path::new(env!("CARGO_TARGET_TMPDIR")).join("counter/rootfs/server");
    let rootfs = root.join("rootfs");
    std::fs::create_dir_all(&rootfs).unwrap();
    std::fs::copy(counter, rootfs.join("server")).unwrap();
    std::fs::write(rootfs.join(file), "").unwrap();
    pack(root)
}

/// What is in `rootfs` of a directory as an image that runs `/server`.
fn pack(root: &Path) -> String {
    let packed = Command::new(env!("CARGO_BIN_EXE_ate"))
        .args([
            "image".as_ref(),
            "pack".as_ref(),
            root.join("rootfs").as_os_str(),
            root.join("layout").as_os_str(),
        ])
        .args(["--", "/server"])
        .output()
        .unwrap();
    assert!(packed.status.success(), "{}", text(&packed.stderr));
    text(&packed.stdout).trim().to_owned()
}
