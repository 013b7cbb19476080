//! SeaweedFS: a real S3 server, and another one than Versity's. One for all tests, gone with their process.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Its only account.
pub const ACCESS_KEY: &str = "weed";
pub const SECRET_KEY: &str = "weed-secret-71ad";
/// Buckets lie in volumes of their own, seven each.
const VOLUMES: &str = "-volume.max=500";

/// Where it listens; it may need a while after that until it answers.
pub fn address() -> SocketAddr {
    static STARTED: OnceLock<SocketAddr> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let (told, address) = std::sync::mpsc::channel();
        // The kernel ends a child with the thread that made it: this one lasts as long as the process.
        thread::spawn(move || {
            let (mut server, _dir, address) = start();
            told.send(address).unwrap();
            server.wait().unwrap();
        });
        address.recv().unwrap()
    })
}

fn start() -> (Child, TempDir, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let ports: Vec<_> = (0..8)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports: Vec<_> = ports.iter().map(|p| p.local_addr().unwrap()).collect();
    let names = ["master", "volume", "filer", "s3"];
    let both = names
        .iter()
        .flat_map(|n| [format!("{n}.port"), format!("{n}.port.grpc")]);
    let mut command = Command::new("weed");
    command.args(["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
    command.args([VOLUMES, "-master.volumeSizeLimitMB=64"]);
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]);
    command.arg(format!("-dir={}", dir.path().display()));
    for (name, port) in both.zip(&ports) {
        command.arg(format!("-{name}={}", port.port()));
    }
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: prctl alone runs between fork and exec.
    unsafe { command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
    let child = command.spawn().expect("weed is on PATH");
    (child, dir, ports[6])
}
