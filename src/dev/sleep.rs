//! A clean shutdown suspends what runs.

use super::Options;
use super::layout::Layout;
use crate::proto::ateapi::actor::Status;
use crate::proto::ateapi::control_client::ControlClient;
use crate::proto::ateapi::{Actor, ListActorsRequest, SuspendActorRequest};
use crate::rpc::{Link, TlsFiles};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;
use tonic::transport::Channel;

/// Suspends at the same time: what two cores take.
const AT_ONCE: usize = 4;
/// How long one suspend may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Suspends every actor that is not asleep. What cannot be suspended is said and left to the next start.
pub(super) async fn suspend_all(layout: &Layout, options: &Options) {
    let client = match connect(layout, options) {
        Ok(client) => client,
        Err(e) => return tracing::warn!(error = %e, "cannot suspend actors"),
    };
    let awake = match awake(client.clone()).await {
        Ok(awake) => awake,
        Err(e) => return tracing::warn!(error = %e.message(), "cannot list actors"),
    };
    let style = ProgressStyle::with_template("suspend   {bar:30} {pos}/{len}")
        .unwrap_or(ProgressStyle::default_bar());
    let bar = ProgressBar::new(u64::try_from(awake.len()).unwrap_or(0)).with_style(style);
    stream::iter(awake)
        .for_each_concurrent(AT_ONCE, |actor| {
            let (mut client, bar) = (client.clone(), bar.clone());
            async move {
                let mut request = tonic::Request::new(SuspendActorRequest {
                    actor_id: actor.actor_id.clone(),
                });
                request.set_timeout(LIMIT);
                if let Err(e) = client.suspend_actor(request).await {
                    tracing::warn!(
                        actor = actor.actor_id,
                        error = e.message(),
                        "was not suspended"
                    );
                }
                bar.inc(1);
            }
        })
        .await;
    bar.finish_and_clear();
}

fn connect(
    layout: &Layout,
    options: &Options,
) -> Result<ControlClient<Channel>, crate::rpc::Error> {
    let pki = layout.pki();
    let files = TlsFiles {
        ca: pki.join("ca.crt"),
        cert: pki.join("admin.crt"),
        key: pki.join("admin.key"),
    };
    let link = Link::to_apiserver(&options.grpc().to_string(), &files.load()?)?;
    Ok(ControlClient::new(link.channel()))
}

async fn awake(mut client: ControlClient<Channel>) -> Result<Vec<Actor>, tonic::Status> {
    let (mut all, mut page_token) = (vec![], String::new());
    loop {
        let page = client
            .list_actors(ListActorsRequest {
                page_size: 1000,
                page_token,
            })
            .await?
            .into_inner();
        let asleep = |a: &Actor| matches!(a.status(), Status::Suspended | Status::Paused);
        all.extend(page.actors.into_iter().filter(|a| !asleep(a)));
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}
