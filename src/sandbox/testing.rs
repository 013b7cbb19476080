//! For tests with real sandboxes: own namespaces, the test server as an image, a network for one sandbox.

use super::Orphans;
use super::cgroup::{self, Groups};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Tells the copy of the test binary that it is pid 1 in its own namespaces.
const INSIDE: &str = "ATE_TEST_INSIDE";
/// Bound of one test.
const TEST_TIMEOUT: Duration = Duration::from_secs(240);
/// Where a sandbox is reached, as in the slots.
pub const INNER: [u8; 4] = [169, 254, 17, 2];
/// Bound of whatever a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `body` in its own pid, mount and network namespace, with an empty `/run`; whatever it leaves ends with it.
pub fn inside<F>(body: impl FnOnce(Orphans) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if std::env::var_os(INSIDE).is_some() {
        command("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        command("ip", &["link", "set", "lo", "up"]);
        in_first_thread(move || Orphans::reap_while(body).unwrap());
        return;
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let groups = OwnGroups(uuid::Uuid::new_v4().to_string());
    let child = Command::new("unshare")
        .args(["--kill-child", "--fork", "--pid", "--mount-proc"])
        .args(["--mount", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, &groups.0)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = KillOnDrop(child);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < TEST_TIMEOUT, "{name} takes too long");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{name} failed inside: {status}");
}

/// The control groups of a test, which its namespaces do not take along.
struct OwnGroups(String);

impl Drop for OwnGroups {
    fn drop(&mut self) {
        cgroup::remove_all(&self.0);
    }
}

/// The control groups of a slot in [`inside`].
pub fn groups() -> Groups {
    Groups::open(&std::env::var(INSIDE).unwrap())
}

/// Tests never run in the first thread of their process, so this is done in a copy of the process.
fn in_first_thread(body: impl FnOnce()) {
    use nix::sys::wait::{WaitStatus, waitpid};
    // SAFETY: the only other thread of the process waits for this test; it holds no lock that the copy needs.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends the copy without running what belongs to the original.
            unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
}

/// Processes in our namespace but ourselves.
pub fn others() -> Vec<String> {
    let me = std::process::id().to_string();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().into_string().ok())
        .filter(|name| name.parse::<u32>().is_ok_and(|pid| pid != 1) && *name != me)
        .collect()
}

/// Ends a child whatever happens to the test.
pub struct KillOnDrop(pub std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end; it must succeed.
pub fn command(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot start {program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The executable called `name` on PATH.
pub fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not on PATH"))
}

/// Directory of an image with nothing but `e2e/testserver` in it, built if it is older than its source.
pub fn rootfs() -> PathBuf {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    let source = e2e.join("testserver");
    let exe = std::env::current_exe().unwrap();
    let dir = exe.ancestors().nth(2).unwrap().join("testserver");
    let rootfs = dir.join("rootfs");
    std::fs::create_dir_all(&rootfs).unwrap();
    let lock = std::fs::File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let built = modified(&rootfs.join("testserver"));
    if built.is_none() || built < modified(&source.join("main.go")) {
        let fresh = dir.join("fresh");
        let status = Command::new(e2e.join("go.sh"))
            .args(["build", "-o"])
            .args([&fresh, Path::new(".")])
            .current_dir(&source)
            .status()
            .unwrap();
        assert!(status.success(), "go build of the test server");
        std::fs::rename(fresh, rootfs.join("testserver")).unwrap();
    }
    rootfs
}

/// A network namespace for one sandbox, with address, gateway and route.
pub struct Net {
    pub path: PathBuf,
    name: String,
}

impl Net {
    pub fn new() -> Net {
        let name = "slot".to_owned();
        command("ip", &["netns", "add", &name]);
        let veth = [
            "link", "add", "ate0", "type", "veth", "peer", "name", "eth0",
        ];
        command("ip", &[&veth[..], &["netns", &name]].concat());
        command("ip", &["addr", "add", "169.254.17.1/30", "dev", "ate0"]);
        command("ip", &["link", "set", "ate0", "up"]);
        let net = Net {
            path: Path::new("/run/netns").join(&name),
            name,
        };
        net.refresh();
        net
    }

    /// Gives the interface its address again, which a sandbox takes off.
    pub fn refresh(&self) {
        let ip = |args: &[&str]| command("ip", &[&["-n", &self.name], args].concat());
        ip(&["addr", "flush", "dev", "eth0"]);
        ip(&["addr", "add", "169.254.17.2/30", "dev", "eth0"]);
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "set", "eth0", "up"]);
        ip(&["route", "replace", "default", "via", "169.254.17.1"]);
    }
}

/// GET over HTTP/1.0: status and body.
pub async fn get(addr: impl Into<SocketAddr>, path: &str) -> std::io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
    exchange(addr.into(), request.as_bytes()).await
}

/// PUT of so many bytes.
pub async fn put(addr: impl Into<SocketAddr>, path: &str, bytes: usize) -> (u16, String) {
    let head = format!("PUT {path} HTTP/1.0\r\nHost: test\r\nContent-Length: {bytes}\r\n\r\n");
    let request = [head.into_bytes(), vec![b'x'; bytes]].concat();
    exchange(addr.into(), &request).await.unwrap()
}

async fn exchange(addr: SocketAddr, request: &[u8]) -> std::io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(addr).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
        match (status, body) {
            (Some(status), Some(body)) => Ok((status, body.to_owned())),
            _ => Err(std::io::Error::other(format!("no answer: {answer:?}"))),
        }
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await?
}

/// GET of the test server, repeated until it answers 200.
pub async fn answer(port: u16, path: &str) -> String {
    let start = Instant::now();
    loop {
        match get((INNER, port), path).await {
            Ok((200, body)) => return body,
            other => assert!(start.elapsed() < PATIENCE, "{path}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The test server's counters: memory, file, actor, generation.
pub async fn count(port: u16) -> (u64, u64, String, String) {
    let body: serde_json::Value = serde_json::from_str(&answer(port, "/").await).unwrap();
    let text = |key: &str| body[key].as_str().unwrap().to_owned();
    let number = |key: &str| body[key].as_u64().unwrap();
    (
        number("memory"),
        number("file"),
        text("actor"),
        text("generation"),
    )
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
