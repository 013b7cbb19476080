//! A real registry that asks for a password, gone with its handle.

use super::server::Server;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Its only account.
pub const USER: &str = "puller";
pub const PASSWORD: &str = "hunter2-registry";
/// The same as htpasswd(1) writes it with bcrypt.
const HTPASSWD: &str = "puller:$2b$04$jFruTK9X9sp/395vI/5.POFKxGRo8plxWx8NbQeCapsfq6qgUqOFK";

pub struct Registry(Server);

impl Registry {
    /// Keeps its images in `dir`.
    pub fn start(dir: &Path) -> Self {
        Self(Server::start(|address| command(dir, address)))
    }

    #[allow(dead_code, reason = "not every suite that includes this file needs it")]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.0.address().to_string()
    }

    /// A docker configuration for it.
    pub fn docker_config(&self, password: &str) -> serde_json::Value {
        serde_json::json!({"auths": {self.host(): {"username": USER, "password": password}}})
    }
}

fn command(dir: &Path, address: SocketAddr) -> Command {
    let (accounts, config) = (dir.join("htpasswd"), dir.join("registry.json"));
    std::fs::write(&accounts, HTPASSWD).unwrap();
    // JSON is YAML.
    let text = serde_json::json!({
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": dir.join("images")}},
        "http": {"addr": address.to_string()},
        "auth": {"htpasswd": {"realm": "test", "path": accounts}},
    });
    std::fs::write(&config, text.to_string()).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&config);
    command
}
