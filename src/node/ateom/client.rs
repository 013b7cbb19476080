//! Talking to an executor.

use super::Error;
use crate::proto::atenode::ateom_client::AteomClient;
use hyper_util::rt::TokioIo;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// A unix socket answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the executor that listens on `socket`. Calls take as long as the sandbox takes: callers set their own deadlines.
///
/// # Errors
/// [`Error::Connect`] when nobody listens.
pub async fn connect(socket: &Path) -> Result<AteomClient<Channel>, Error> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    // The address is not used: the connector knows the socket.
    let channel = Endpoint::from_static("http://ateom")
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|source| Error::Connect {
            path: socket.to_owned(),
            source,
        })?;
    Ok(AteomClient::new(channel))
}
