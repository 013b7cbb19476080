//! A real registry that asks for a password, gone with its handle.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
/// Its only account.
pub const USER: &str = "puller";
pub const PASSWORD: &str = "hunter2-registry";
/// The same as htpasswd(1) writes it with bcrypt.
const HTPASSWD: &str = "puller:$2b$04$jFruTK9X9sp/395vI/5.POFKxGRo8plxWx8NbQeCapsfq6qgUqOFK";

pub struct Registry {
    child: Child,
    address: SocketAddr,
}

impl Registry {
    /// Keeps its images in `dir`.
    pub fn start(dir: &Path) -> Self {
        // The port may be taken between our asking for it and the server's binding it: then try another.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = port.local_addr().unwrap();
            drop(port);
            let mut server = Registry {
                child: spawn(dir, address),
                address,
            };
            if server.answers() {
                return server;
            }
        }
        panic!("docker-registry does not answer");
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// A docker configuration for it.
    pub fn docker_config(&self, password: &str) -> serde_json::Value {
        serde_json::json!({"auths": {self.host(): {"username": USER, "password": password}}})
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

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(dir: &Path, address: SocketAddr) -> Child {
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
    Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry is on PATH: e2e/setup.sh test")
}
