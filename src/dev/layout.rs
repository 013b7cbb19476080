//! Where everything of `ate dev` lies.

use super::component::{Component, Probe};
use super::{Error, Options};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directories.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) run_dir: PathBuf,
}

/// The longest path that a unix socket may have (`sun_path`).
const MAX_SOCKET: usize = 107;

impl Layout {
    /// Makes the directories; only root may look into them.
    pub(super) fn create(options: &Options) -> Result<Self, Error> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|source| fail("use", path, source));
        let layout = Layout {
            dir: absolute(&options.dir)?,
            run_dir: absolute(&options.run_dir)?,
        };
        for dir in [
            layout.dir.clone(),
            layout.run_dir.clone(),
            layout.pki(),
            layout.logs(),
            layout.valkey_dir(),
            layout.snapshots(),
        ] {
            std::fs::create_dir_all(&dir).map_err(|source| fail("create", &dir, source))?;
            let mode = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(&dir, mode).map_err(|source| fail("protect", &dir, source))?;
        }
        Ok(layout)
    }

    pub(super) fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    pub(super) fn node_dir(&self) -> PathBuf {
        self.dir.join("node")
    }

    fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    pub(super) fn snapshots_url(&self) -> String {
        format!("file://{}", self.snapshots().display())
    }

    fn valkey_dir(&self) -> PathBuf {
        self.dir.join("valkey")
    }

    fn valkey_socket(&self) -> PathBuf {
        self.run_dir.join("valkey.sock")
    }

    pub(super) fn store_url(&self) -> String {
        format!("redis+unix://{}", self.valkey_socket().display())
    }

    /// The machine's name, as a node.
    pub(super) fn node_name(&self) -> String {
        let name = nix::unistd::gethostname()
            .ok()
            .and_then(|n| n.into_string().ok())
            .unwrap_or_default();
        let clean: String = name
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let clean = clean.trim_matches('-');
        if clean.is_empty() {
            "node".to_owned()
        } else {
            clean.chars().take(63).collect()
        }
    }

    /// The certificate that a component shows.
    pub(super) fn tls_args(&self, name: &str) -> Vec<String> {
        let pki = self.pki();
        let file = |f: &str| pki.join(f).display().to_string();
        [
            ("--tls-ca", file("ca.crt")),
            ("--tls-cert", file(&format!("{name}.crt"))),
            ("--tls-key", file(&format!("{name}.key"))),
        ]
        .into_iter()
        .flat_map(|(k, v)| [k.to_owned(), v])
        .collect()
    }

    /// Valkey: on a unix socket only, with an append-only file that is synced before a write is answered.
    pub(super) fn valkey(&self) -> Result<Component, Error> {
        let socket = self.valkey_socket();
        if socket.as_os_str().len() > MAX_SOCKET {
            let source = std::io::Error::other(format!(
                "a socket's path may have {MAX_SOCKET} bytes; shorten --run-dir"
            ));
            return Err(fail("use", &socket, source));
        }
        let _ = std::fs::remove_file(&socket);
        let program = super::checks::valkey()?;
        let settings = [
            ("--port", "0".to_owned()),
            ("--unixsocket", socket.display().to_string()),
            ("--unixsocketperm", "700".to_owned()),
            ("--dir", self.valkey_dir().display().to_string()),
            ("--appendonly", "yes".to_owned()),
            ("--appendfsync", "always".to_owned()),
            ("--save", String::new()),
            ("--daemonize", "no".to_owned()),
        ];
        Ok(Component {
            name: "valkey",
            program,
            args: settings
                .into_iter()
                .flat_map(|(k, v)| [k.to_owned(), v])
                .collect(),
            log: self.log("valkey"),
            up: Probe::Unix(socket),
            reaches_s3: false,
        })
    }
}

pub(super) fn fail(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}
