//! Channels between our processes: lazily connected, kept alive, mutual TLS.

use super::{APISERVER, Error, Tls};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take to come up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is probed after this long,
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and is broken when the probe is not answered for this long.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel to the API server at `address` (host:port). Connects when first used, and again after it broke.
pub fn channel(address: &str, tls: &Tls) -> Result<Channel, Error> {
    channel_to(address, APISERVER, tls)
}

/// A channel to the process at `address` (host:port), whose certificate must name `component`.
pub(super) fn channel_to(address: &str, component: &str, tls: &Tls) -> Result<Channel, Error> {
    let bad = |source| Error::BadAddress {
        address: address.to_owned(),
        source,
    };
    Ok(Endpoint::from_shared(format!("https://{address}"))
        .map_err(bad)?
        .tls_config(tls.client(component))
        .map_err(Error::UnusableTls)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::testing::Authority;

    #[tokio::test]
    async fn a_foreign_key_is_told_apart() {
        let authority = Authority::new();
        let mut files = authority.issue("router");
        files.key = authority.issue("atelet").key;
        let error = channel("127.0.0.1:1", &files.load().unwrap()).unwrap_err();
        assert!(matches!(error, Error::UnusableTls(_)), "{error:?}");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_named() {
        let tls = Authority::new().issue("router").load().unwrap();
        let error = channel("not an address", &tls).unwrap_err().to_string();
        assert!(error.contains("\"not an address\""), "{error}");
        assert!(channel("127.0.0.1:1", &tls).is_ok());
    }
}
