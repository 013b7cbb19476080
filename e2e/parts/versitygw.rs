//! A real S3 server over a directory, gone with its handle.

use super::server::Server;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Its only account.
pub const ACCESS_KEY: &str = "test";
pub const SECRET_KEY: &str = "test-secret-0f3c";

pub struct Versitygw {
    server: Server,
    dir: PathBuf,
    /// Certificate and key, PEM files.
    tls: Option<(PathBuf, PathBuf)>,
}

impl Versitygw {
    /// Serves the directories in `dir` as buckets, by plain HTTP or with a certificate for `localhost`.
    pub fn start(dir: &Path, tls: Option<(PathBuf, PathBuf)>) -> Self {
        Versitygw {
            server: Server::start(|address| command(dir, address, tls.as_ref())),
            dir: dir.to_owned(),
            tls,
        }
    }

    pub fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}", self.server.address().port()),
            None => format!("http://{}", self.server.address()),
        }
    }

    #[allow(dead_code, reason = "not every suite that includes this file needs it")]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    #[allow(dead_code, reason = "not every suite that includes this file needs it")]
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// From now on it takes connections and answers nothing, until it is killed.
    #[allow(dead_code, reason = "not every suite that includes this file needs it")]
    pub fn freeze(&self) {
        let pid = nix::unistd::Pid::from_raw(self.server.pid().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    }

    /// Starts it again, at the same address.
    #[allow(dead_code, reason = "not every suite that includes this file kills it")]
    pub fn restart(&mut self) {
        let address = self.server.address();
        self.server
            .restart(command(&self.dir, address, self.tls.as_ref()));
    }
}

fn command(dir: &Path, address: SocketAddr, tls: Option<&(PathBuf, PathBuf)>) -> Command {
    let mut command = Command::new("versitygw");
    command.args(["--port", &address.to_string()]);
    if let Some((certificate, key)) = tls {
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    command
        .arg("posix")
        .arg(dir)
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY);
    command
}
