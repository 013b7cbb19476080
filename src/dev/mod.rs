//! `ate dev`: every component on one machine, supervised.
//!
//! Valkey, apiserver, atelet, controller and router are child processes, each of which can be killed and comes back
//! ([`component`]). Clients authenticate with the certificate in the kubeconfig that is written. A clean shutdown
//! suspends what runs ([`sleep`]); after a kill -9 the next start recovers everything from the store.

mod checks;
mod component;
mod layout;
mod pki;
mod sleep;

use crate::network::Cidr;
use component::{Component, Supervised};
use layout::Layout;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a component may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What `ate dev` is told.
pub struct Options {
    /// For everything that must survive.
    pub dir: PathBuf,
    /// For sockets and small state.
    pub run_dir: PathBuf,
    /// Address of the HTTP router.
    pub router: SocketAddr,
    /// Address of the REST API; gRPC and the node agent take the two ports after it.
    pub api: SocketAddr,
    /// Subnet of the slots.
    pub subnet: Cidr,
    /// Seconds.
    pub node_lease: u64,
    /// Seconds.
    pub operation_lease: u64,
    /// SHA-256 of runtimes that templates may name beside the one on PATH.
    pub allowed_runtimes: Vec<String>,
    /// Docker configuration with credentials of registries; it may be missing.
    pub docker_config: Option<PathBuf>,
    /// The S3 server, where it is not AWS's own.
    pub s3_endpoint: Option<String>,
    /// Certificates to trust for S3, where it is not the system's.
    pub s3_ca: Option<PathBuf>,
}

/// Why `ate dev` cannot run; each names what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error("ate dev must run as root: sandboxes and network namespaces need it")]
    NotRoot,
    /// A program is missing.
    #[error("{program} was not found on PATH; {fix}")]
    Missing {
        /// The program.
        program: &'static str,
        /// How to get it.
        fix: &'static str,
    },
    /// Somebody else listens there.
    #[error("{what} address {address} cannot be used; choose another with {flag}")]
    Address {
        /// Which one.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Somebody else has addresses of the slots' subnet.
    #[error("the subnet of the slots cannot be used: --subnet")]
    Subnet(#[source] crate::network::Error),
    /// Another `ate dev` uses the directory.
    #[error("another ate dev uses {0}; stop it, or choose another directory with --dir")]
    InUse(PathBuf),
    /// A file or directory.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was to be done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Certificates.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    /// A component does not start.
    #[error("{name} did not start within {} s; its last words: {words} (all of them: {})", START_LIMIT.as_secs(), log.display())]
    NotUp {
        /// The component.
        name: &'static str,
        /// The end of its log.
        words: String,
        /// Its log.
        log: PathBuf,
    },
}

/// Runs until told to stop.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let began = Instant::now();
    checks::preflight(&options)?;
    let layout = Layout::create(&options)?;
    let _lock = checks::lock(&layout)?;
    checks::addresses(&options)?;
    checks::subnet(&options).await?;
    pki::write_all(&layout, &options, SystemTime::now())?;
    let mut supervised = Vec::new();
    for component in components(&layout, &options)? {
        let name = component.name;
        println!("start     {name}");
        let running = Supervised::start(component);
        let up = running.wait_until_up(START_LIMIT, &stop).await;
        supervised.push(running);
        if let Err(e) = up {
            stop_all(supervised).await;
            return if stop.is_cancelled() { Ok(()) } else { Err(e) };
        }
    }
    greet(&layout, &options, began.elapsed());
    stop.run_until_cancelled(pki::keep(&layout, &options)).await;
    println!("stopping: suspending what runs");
    sleep::suspend_all(&layout, &options).await;
    stop_all(supervised).await;
    println!("stopped   everything sleeps in {}", layout.dir.display());
    Ok(())
}

/// The last started stops first.
async fn stop_all(mut supervised: Vec<Supervised>) {
    while let Some(component) = supervised.pop() {
        component.stop().await;
    }
}

fn components(layout: &Layout, options: &Options) -> Result<Vec<Component>, Error> {
    let ate = std::env::current_exe().map_err(|source| Error::File {
        action: "find",
        path: "the ate executable".into(),
        source,
    })?;
    let text = |path: PathBuf| path.display().to_string();
    let ate = |name: &'static str, up: component::Probe, args: Vec<String>| Component {
        name,
        program: ate.clone(),
        args: std::iter::once(name.to_owned())
            .chain(args)
            .chain(layout.tls_args(name))
            .collect(),
        log: layout.log(name),
        up,
        reaches_s3: name == "atelet",
    };
    let store = || ["--store".to_owned(), layout.store_url()];
    let kube = || ["--kubeconfig".to_owned(), text(layout.kubeconfig())];
    let memory = checks::memory()?;
    // One process of each at a time: the directory is locked, and what an earlier `ate dev` left is dead.
    let engine = |replica: &str| {
        vec![
            "--replica-name".to_owned(),
            replica.to_owned(),
            "--snapshots".to_owned(),
            layout.snapshots_url(),
            "--worker-memory".to_owned(),
            memory.to_string(),
            "--worker-cpu".to_owned(),
            checks::processors().to_string(),
            "--node-lease".to_owned(),
            options.node_lease.to_string(),
            "--operation-lease".to_owned(),
            options.operation_lease.to_string(),
        ]
    };
    let args = |parts: Vec<Vec<String>>| parts.concat();
    let of = |pairs: &[(&str, String)]| {
        pairs
            .iter()
            .flat_map(|(k, v)| [(*k).to_owned(), v.clone()])
            .collect::<Vec<_>>()
    };
    Ok(vec![
        layout.valkey()?,
        ate(
            "apiserver",
            component::Probe::Tcp(options.api),
            args(vec![
                of(&[
                    ("--listen", options.api.to_string()),
                    ("--listen-grpc", options.grpc().to_string()),
                ]),
                vec!["--without-kubernetes".to_owned()],
                store().to_vec(),
                kube().to_vec(),
                engine("apiserver"),
            ]),
        ),
        ate(
            "atelet",
            component::Probe::Tcp(options.node()),
            args(vec![
                of(&[
                    ("--listen", options.node().to_string()),
                    ("--apiserver", options.grpc().to_string()),
                    ("--node-name", layout.node_name()),
                    ("--dir", text(layout.node_dir())),
                    ("--run-dir", text(layout.run_dir.clone())),
                    ("--subnet", options.subnet.to_string()),
                    ("--network-name", options.network_name()),
                ]),
                options.runtime_args(),
                options.docker_config_args(),
                options.s3_args(),
                kube().to_vec(),
            ]),
        ),
        ate(
            "controller",
            component::Probe::Alive,
            args(vec![
                store().to_vec(),
                kube().to_vec(),
                engine("controller"),
            ]),
        ),
        ate(
            "router",
            component::Probe::Tcp(options.router),
            of(&[
                ("--listen", options.router.to_string()),
                ("--apiserver", options.grpc().to_string()),
            ]),
        ),
    ])
}

impl Options {
    #[cfg(test)]
    fn for_tests(dir: &std::path::Path) -> Options {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Options {
            dir: dir.join("lib"),
            run_dir: dir.join("run"),
            router: local(8080),
            api: local(8443),
            subnet: "10.231.0.0/16".parse().expect("a subnet"),
            node_lease: 90,
            operation_lease: 30,
            allowed_runtimes: vec![],
            docker_config: None,
            s3_endpoint: None,
            s3_ca: None,
        }
    }

    /// How the names of the slots' links begin.
    fn network_name(&self) -> String {
        format!("ate{}", self.api.port())
    }

    fn runtime_args(&self) -> Vec<String> {
        let sums = self.allowed_runtimes.iter();
        sums.flat_map(|sum| ["--allow-runtime".to_owned(), sum.clone()])
            .collect()
    }

    fn docker_config_args(&self) -> Vec<String> {
        let file = self.docker_config.iter();
        file.flat_map(|file| ["--docker-config".to_owned(), file.display().to_string()])
            .collect()
    }

    /// Where S3 is; its keys go by the environment.
    fn s3_args(&self) -> Vec<String> {
        let ca = self.s3_ca.as_ref().map(|file| file.display().to_string());
        [("--s3-endpoint", self.s3_endpoint.clone()), ("--s3-ca", ca)]
            .into_iter()
            .filter_map(|(flag, value)| Some([flag.to_owned(), value?]))
            .flatten()
            .collect()
    }

    fn grpc(&self) -> SocketAddr {
        SocketAddr::new(self.api.ip(), self.api.port() + 1)
    }

    fn node(&self) -> SocketAddr {
        SocketAddr::new(self.api.ip(), self.api.port() + 2)
    }
}

fn greet(layout: &Layout, options: &Options, took: Duration) {
    let pki = layout.pki();
    println!(
        "ready     in {:.1} s; Ctrl-C suspends every actor and stops\n",
        took.as_secs_f64()
    );
    println!(
        "  kubectl    export KUBECONFIG={}",
        layout.kubeconfig().display()
    );
    println!(
        "  requests   curl -H 'Host: NAME.NAMESPACE.{}' http://{}/",
        crate::api::view::ACTOR_ZONE,
        options.router
    );
    println!(
        "  grpcurl    grpcurl -cacert {0}/ca.crt -cert {0}/admin.crt -key {0}/admin.key -servername apiserver {1} list",
        pki.display(),
        options.grpc()
    );
    println!("  logs       {}\n", layout.logs().display());
}
