//! `ate check`.

use super::{args::KubeArgs, block_on};
use crate::kube;
use anyhow::{Context, bail};
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long it is tried again until all answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// One try.
const TRY: Duration = Duration::from_secs(10);
/// Of the router's answer; it is a line.
const MAX_ANSWER: usize = 64 << 10;
/// What kube-apiserver serves when our API server does.
const DISCOVERY: &str = "/apis/runtime.ate.dev/v1alpha1";
/// An actor that nobody has: to say so the router asks the API server, and that one the store.
const NOBODY: &str = "ate-check.ate-system.actors.resources.substrate.ate.dev";

#[derive(clap::Args)]
pub(super) struct Args {
    /// The router's address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "atenet-router.ate-system.svc:80"
    )]
    router: String,
    #[command(flatten)]
    kube: KubeArgs,
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    block_on(async {
        let client = kube::client(args.kube.kubeconfig.as_deref()).await?;
        surely("API", || api(&client)).await?;
        surely("router", || router(&args.router)).await
    })
}

/// Tries until it succeeds or time is up.
async fn surely<F>(what: &str, mut ask: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let asked = tokio::time::timeout(TRY, ask()).await;
        let failed = match asked.context("it does not answer in time").flatten() {
            Ok(()) => break,
            Err(failed) => failed,
        };
        if tokio::time::Instant::now() >= until {
            return Err(failed.context(format!("the {what} does not answer")));
        }
        tokio::time::sleep(AGAIN).await;
    }
    println!("the {what} answers");
    Ok(())
}

async fn api(client: &::kube::Client) -> anyhow::Result<()> {
    let request = Request::get(DISCOVERY).body(vec![])?;
    let said = client.request_text(request).await?;
    match said.contains("\"actors\"") {
        true => Ok(()),
        false => bail!("it does not know actors: {said}"),
    }
}

async fn router(address: &str) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/").header(http::header::HOST, NOBODY);
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let said = String::from_utf8_lossy(&body).trim().to_owned();
        match (code, said.contains("not found")) {
            (404, true) => Ok(()),
            _ => bail!("asked for an actor that nobody has, it says {code}: {said}"),
        }
    };
    tokio::select! {
        answered = answer => answered,
        ended = connection => bail!("it closed the connection: {ended:?}"),
    }
}
