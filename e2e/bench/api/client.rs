//! Clients of the API, and what a process uses.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use substrate::identity::Leaf;
use substrate::identity::tls::client_config;

/// Bound of a request that is not a watch.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The kernel counts CPU time in ticks of this length (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// Where actors are.
pub const ACTORS: &str = "/apis/runtime.ate.dev/v1alpha1";

/// A server, and as whom it is asked.
#[derive(clap::Args, Clone)]
pub struct Server {
    /// https://HOST:PORT
    #[arg(long)]
    pub url: String,
    /// Who signs its certificate
    #[arg(long)]
    ca: PathBuf,
    /// Our certificate
    #[arg(long)]
    cert: PathBuf,
    /// Its key
    #[arg(long)]
    key: PathBuf,
}

impl Server {
    /// A client with an HTTP/2 connection of its own.
    pub fn client(&self) -> anyhow::Result<Client> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let leaf = Leaf {
            chain: read(&self.cert)?,
            key: read(&self.key)?,
        };
        let mut tls = client_config(Some(&leaf), &read(&self.ca)?)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls);
        Ok(Client {
            http: http.build()?,
            url: self.url.clone(),
        })
    }
}

/// One connection to a server.
pub struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    /// The whole body, and how long it took.
    pub async fn get(&self, path: &str) -> anyhow::Result<(bytes::Bytes, Duration)> {
        let began = Instant::now();
        let request = self.http.get(format!("{}{path}", self.url));
        let response = request.timeout(TIMEOUT).send().await?;
        let code = response.status();
        let body = response.bytes().await?;
        if !code.is_success() {
            bail!("GET {path}: {code}: {}", String::from_utf8_lossy(&body));
        }
        Ok((body, began.elapsed()))
    }

    /// Creates an object.
    pub async fn create(&self, path: &str, object: &Value) -> anyhow::Result<()> {
        let request = self.http.post(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json");
        let response = request.body(object.to_string()).send().await?;
        let code = response.status();
        if !code.is_success() {
            bail!("POST {path}: {code}: {}", response.text().await?);
        }
        Ok(())
    }

    /// Opens a watch that outlasts the measurement.
    pub async fn watch(&self, path: &str, version: u64) -> anyhow::Result<reqwest::Response> {
        let query = format!("watch=1&timeoutSeconds=600&resourceVersion={version}");
        let response = self.http.get(format!("{}{path}?{query}", self.url));
        let response = response.send().await?;
        if !response.status().is_success() {
            bail!("watch: {}", response.text().await?);
        }
        Ok(response)
    }
}

/// An actor as a client writes it.
pub fn actor(name: &str) -> Value {
    json!({
        "apiVersion": "runtime.ate.dev/v1alpha1", "kind": "Actor", "metadata": {"name": name},
        "spec": {"templateRef": {"name": "counter"}},
    })
}

/// CPU time of a process so far.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no process name")?;
    let ticks = |n| fields.split(' ').nth(n).and_then(|t| t.parse::<u32>().ok());
    // proc_pid_stat(5): utime and stime are fields 14 and 15; the name is the second.
    let (user, system) = ticks(11).zip(ticks(12)).context("no times")?;
    Ok(TICK * (user + system))
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB"));
    Ok(kib.context("no VmRSS")?.trim().parse::<u64>()? << 10)
}
