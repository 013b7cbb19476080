//! Has the kernel find out that the other end of a connection has vanished: a stream may be silent for hours, so nothing
//! else would. Where the kernel refuses, the connection goes on without.

use nix::sys::socket::{setsockopt, sockopt};
use std::time::Duration;
use tokio::net::TcpStream;

/// Seconds between two probes.
const INTERVAL: u32 = 5;
/// Unanswered probes after which the connection is broken.
const PROBES: u32 = 3;

/// Probes the other end of `stream` whenever it has been silent for `after`, in whole seconds.
pub(super) fn when_silent(stream: &TcpStream, after: Duration) {
    let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX);
    let set = setsockopt(stream, sockopt::KeepAlive, &true)
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepIdle, &seconds))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &INTERVAL))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepCount, &PROBES));
    note(set);
}

/// Breaks `stream` when something that was sent has not got through for `limit` (`TCP_USER_TIMEOUT`, tcp(7)).
pub(super) fn when_stalled(stream: &TcpStream, limit: Duration) {
    let ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    note(setsockopt(stream, sockopt::TcpUserTimeout, &ms));
}

fn note(set: nix::Result<()>) {
    if let Err(error) = set {
        tracing::debug!(%error, "no probes on a connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_kernel_takes_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        when_silent(&stream, Duration::from_secs(17));
        when_stalled(&stream, Duration::from_secs(120));
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&stream, sockopt::TcpKeepIdle), Ok(17));
        assert_eq!(getsockopt(&stream, sockopt::TcpKeepCount), Ok(PROBES));
        assert_eq!(getsockopt(&stream, sockopt::TcpUserTimeout), Ok(120_000));
    }
}
