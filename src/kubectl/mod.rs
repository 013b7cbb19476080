//! `kubectl ate`: the verbs that plain kubectl has no word for (resume, suspend, pause), an actor's log, and what nodes hold.
//!
//! A client of our REST API like any other: it finds the server through the kubeconfig, posts to the actor's
//! subresources and watches what comes of it. What *could* come of it is judged in [`outcome`], without I/O. Everything
//! else that one does with actors (get, describe, create, delete, wait) is kubectl's own. Called by the binary
//! `kubectl-ate`, which kubectl finds on PATH.

mod args;
mod client;
mod error;
mod logs;
mod order;
mod outcome;
mod progress;
#[cfg(test)]
mod stub;
mod top;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Args, Command};
use self::client::Actors;
use self::error::Error;

/// The resource's name as kubectl prints it before a slash and the actor's name.
const RESOURCE: &str = "actor.runtime.ate.dev";

/// Entry point of `kubectl-ate`: exit code 0 when all that was asked for happened, 1 otherwise.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            let wrong = usage.use_stderr();
            // Where even the usage cannot be printed, nothing is left to be said.
            let _ = usage.print();
            return if wrong {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    // The kubeconfig decides about TLS; ring is the one provider that we link. An earlier choice may stand.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!(
                "error: this process cannot wait for anything: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    if runtime.block_on(run(args)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Carries the command out and tells its results; whether all of it succeeded.
async fn run(args: Args) -> bool {
    let result = match Actors::connect(&args.connection).await {
        Err(error) => Err(error),
        Ok(actors) => match args.command {
            Command::Resume(what) => {
                return order::all(&actors, outcome::Order::Resume, &what).await;
            }
            Command::Boot(what) => {
                return order::all(&actors, outcome::Order::Boot, &what).await;
            }
            Command::Suspend(what) => {
                return order::all(&actors, outcome::Order::Suspend, &what).await;
            }
            Command::Pause(what) => return order::all(&actors, outcome::Order::Pause, &what).await,
            Command::Logs(what) => logs::copy(&actors, &what, tokio::io::stdout()).await,
            Command::Top(what) => top::show(&actors, &what, std::io::stdout()).await,
        },
    };
    result.inspect_err(explain).is_ok()
}

/// Prints an error with its whole chain of causes, in the way of kubectl.
fn explain(error: &Error) {
    complain(error.explained());
}

/// Prints a line of result. A reader that went away (`| head`) is no error.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a line of complaint.
fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
