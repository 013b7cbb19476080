//! The command line of `ate`: arguments in, services composed, one line per failure out.
//!
//! A file per subcommand. Each reads its arguments, makes what its service needs, and runs it until SIGTERM or
//! SIGINT. Nothing here decides anything.

mod apiserver;
mod args;
mod atelet;
mod ateom;
mod check;
mod controller;
mod dev;
mod driver;
mod follow;
mod image;
mod manifests;
mod probes;
mod router;
mod stop;
mod tls;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs thousands of stateful agent sessions on a small pool of warm sandboxes.
#[derive(Parser)]
#[command(name = "ate", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on this machine, without Kubernetes
    Dev(dev::Args),
    /// Serve the Actor API (REST for kubectl, gRPC for existing clients) and move actors
    Apiserver(apiserver::Args),
    /// Reconcile WorkerPools and ActorTemplates
    Controller(controller::Args),
    /// Run the node agent
    Atelet(atelet::Args),
    /// Route requests to actors, waking those that sleep
    Router(router::Args),
    /// Pack files as an image that an ActorTemplate can name
    #[command(subcommand)]
    Image(image::Command),
    /// Ask an installation whether it answers, from a pod of its cluster
    Check(check::Args),
    /// Write the custom resource definitions
    Manifests(manifests::Args),
    /// Run the executor of one slot (started by the node agent)
    #[command(hide = true)]
    Ateom(ateom::Args),
    /// Take TLS off connections to a server beside us (the store and the S3 server that the chart brings)
    #[command(hide = true)]
    Tls(tls::Args),
}

/// Entry point of `ate`.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Dev(args) => dev::main(args),
        Command::Apiserver(args) => apiserver::main(args),
        Command::Atelet(args) => atelet::main(args),
        Command::Controller(args) => controller::main(args),
        Command::Router(args) => router::main(args),
        Command::Image(command) => image::main(command),
        Command::Check(args) => check::main(args),
        Command::Manifests(args) => manifests::main(&args),
        Command::Ateom(args) => ateom::main(args),
        Command::Tls(args) => tls::main(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ate: {}", one_line(&e));
            ExitCode::FAILURE
        }
    }
}

/// The whole chain of causes on one line.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line.replace('\n', " ")
}

/// Runs a service on a runtime of its own.
fn block_on<F: Future<Output = anyhow::Result<()>>>(service: F) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(service)
}
