//! What follows a `101 Switching Protocols`: bytes both ways until one side ends.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// How long both sides have to let go of the connection after the switch was agreed on.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Joins the two connections once both have switched. Ends when both directions have, or when `cut` is cancelled.
pub(super) async fn join(
    client: OnUpgrade,
    actor: OnUpgrade,
    permit: OwnedSemaphorePermit,
    cut: CancellationToken,
) {
    let switching = async { tokio::try_join!(client, actor) };
    let (client, actor) = match tokio::time::timeout(SWITCH_TIMEOUT, switching).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return tracing::debug!(%error, "upgrade failed"),
        Err(_) => return tracing::debug!("upgrade not completed in time"),
    };
    let (mut client, mut actor) = (TokioIo::new(client), TokioIo::new(actor));
    tokio::select! {
        ended = copy_bidirectional(&mut client, &mut actor) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "upgraded connection broke");
            }
        }
        () = cut.cancelled() => {}
    }
    drop(permit);
}
