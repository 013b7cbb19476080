//! A real S3 server over a directory, gone with its handle.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
/// Its only account.
pub const ACCESS_KEY: &str = "test";
pub const SECRET_KEY: &str = "test-secret-0f3c";

pub struct Versitygw {
    child: Child,
    dir: PathBuf,
    address: SocketAddr,
    /// Certificate and key, PEM files.
    tls: Option<(PathBuf, PathBuf)>,
}

impl Versitygw {
    /// Serves the directories in `dir` as buckets, by plain HTTP or with a certificate for `localhost`.
    pub fn start(dir: &Path, tls: Option<(PathBuf, PathBuf)>) -> Self {
        // The port may be taken between our asking for it and the server's binding it: then try another.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = port.local_addr().unwrap();
            drop(port);
            let child = spawn(dir, address, tls.as_ref());
            let mut server = Versitygw {
                child,
                dir: dir.to_owned(),
                address,
                tls: tls.clone(),
            };
            if server.answers() {
                return server;
            }
        }
        panic!("versitygw does not answer");
    }

    pub fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// From now on it takes connections and answers nothing, until it is killed.
    #[allow(dead_code, reason = "not every suite that includes this file needs it")]
    pub fn freeze(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    }

    /// Starts it again, at the same address.
    #[allow(dead_code, reason = "not every suite that includes this file kills it")]
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.dir, self.address, self.tls.as_ref());
        assert!(self.answers(), "versitygw does not come back");
    }

    fn answers(&mut self) -> bool {
        let until = Instant::now() + START;
        while self.child.try_wait().unwrap().is_none() && Instant::now() < until {
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    }
}

impl Drop for Versitygw {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &Path, address: SocketAddr, tls: Option<&(PathBuf, PathBuf)>) -> Child {
    let mut command = Command::new("versitygw");
    command.args(["--port", &address.to_string()]);
    if let Some((certificate, key)) = tls {
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    command
        .arg("posix")
        .arg(dir)
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("versitygw is on PATH")
}
