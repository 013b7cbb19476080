//! Load for the API's numbers in `make bench`. api.sh starts the processes and calls the commands here, one per measurement;
//! each prints its numbers as JSON lines, which numbers.py shows and keeps. Built with the feature `bench` only.

mod client;
mod get;
mod pull;
mod seed;
mod streams;
mod wake;
mod watch;

use clap::Parser;
use serde_json::json;
use std::path::PathBuf;
use substrate::identity::{Authority, LeafRequest, Usage, files};

#[derive(clap::Parser)]
enum Command {
    /// Makes a CA and the API server's certificate in a directory
    Certificates {
        dir: PathBuf,
        /// Names and addresses that it serves under
        names: Vec<String>,
    },
    /// GET and LIST of actors beside ConfigMaps of the same size
    Get(get::Args),
    /// Writes at a rate, and what each of many watchers sees of them
    Watch(watch::Args),
    /// Requests beside many watches of their connection
    Streams(streams::Args),
    /// Creates sleeping actors, and says what they take
    Seed(seed::Args),
    /// Lists everything page by page
    List(get::ListArgs),
    /// Pulls and unpacks an image
    Pull(pull::Args),
    /// Begin, claim and commit over many connections
    Wake(wake::Args),
}

/// Whether a value is within its target.
#[derive(Clone, Copy)]
pub enum Target {
    /// Shown for itself.
    None,
    AtMost(f64),
    AtLeast(f64),
}

/// Prints a number.
pub fn number(name: &str, value: f64, unit: &str, target: Target) {
    let (said, ok) = match target {
        Target::None => (None, None),
        Target::AtMost(bound) => (Some(format!("<= {bound}")), Some(value <= bound)),
        Target::AtLeast(bound) => (Some(format!(">= {bound:.3}")), Some(value >= bound)),
    };
    let line = json!({"name": name, "value": value, "unit": unit, "target": said, "ok": ok});
    println!("{line}");
}

/// The value below which a part of the samples lies.
pub fn quantile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    let at = (last as f64 * part).round() as usize;
    samples.get(at).copied().unwrap_or(f64::NAN)
}

fn certificates(dir: &std::path::Path, names: Vec<String>) -> anyhow::Result<()> {
    let authority = Authority::load_or_create(dir)?;
    let request = LeafRequest::new("apiserver", Usage::Both)
        .group("ate:component")
        .sans(names);
    let leaf = authority.leaf(&request)?;
    let write = |file: &str, mode, pem: &str| files::write(&dir.join(file), mode, pem.as_bytes());
    write("apiserver.key", files::SECRET_MODE, &leaf.key)?;
    write("apiserver.crt", files::PUBLIC_MODE, &leaf.chain)?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Certificates { dir, names } => certificates(&dir, names),
        Command::Get(args) => get::measure(args).await,
        Command::Watch(args) => watch::measure(args).await,
        Command::Streams(args) => streams::measure(args).await,
        Command::Seed(args) => seed::measure(args).await,
        Command::List(args) => get::list(args).await,
        Command::Pull(args) => pull::pull(args).await,
        Command::Wake(args) => wake::measure(args).await,
    }
}
