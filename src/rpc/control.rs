//! Channels between our processes: lazily connected, kept alive, mutual TLS.

use super::tls::Pems;
use super::{APISERVER, Error, Tls};
use crate::telemetry::chain;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take to come up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is probed after this long,
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and is broken when the probe is not answered for this long.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The way to one server. A call takes the channel as it is then, so that a new certificate is shown from the next call on; calls
/// under way end on the old one.
#[derive(Debug)]
pub struct Link {
    address: String,
    component: &'static str,
    tls: Tls,
    made: Mutex<(Arc<Pems>, Channel)>,
}

impl Link {
    /// To the API server at `address` (host:port). Connects when first used, and again after it broke.
    pub fn to_apiserver(address: &str, tls: &Tls) -> Result<Self, Error> {
        let now = tls.now()?;
        let channel = channel_to(address, APISERVER, &now)?;
        Ok(Self {
            address: address.to_owned(),
            component: APISERVER,
            tls: tls.clone(),
            made: Mutex::new((now, channel)),
        })
    }

    /// The channel for the next call.
    pub fn channel(&self) -> Channel {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(now) = self.tls.now()
            && !Arc::ptr_eq(&now, &made.0)
        {
            match channel_to(&self.address, self.component, &now) {
                Ok(channel) => *made = (now, channel),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the old certificate stays in use");
                }
            }
        }
        made.1.clone()
    }
}

/// A channel to the process at `address` (host:port), whose certificate must name `component`.
pub(super) fn channel_to(address: &str, component: &str, pems: &Pems) -> Result<Channel, Error> {
    let bad = |source| Error::BadAddress {
        address: address.to_owned(),
        source,
    };
    Ok(Endpoint::from_shared(format!("https://{address}"))
        .map_err(bad)?
        .tls_config(pems.client(component))
        .map_err(|e| Error::UnusableTls(Box::new(e)))?
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
    async fn an_address_that_is_none_is_named() {
        let tls = Authority::new().issue("router").load().unwrap();
        let link = |address| Link::to_apiserver(address, &tls);
        let error = link("not an address").unwrap_err().to_string();
        assert!(error.contains("\"not an address\""), "{error}");
        assert!(link("127.0.0.1:1").is_ok());
    }
}
