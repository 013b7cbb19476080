//! What a proxy changes in headers: hop-by-hop fields go (RFC 9110, 7.6.1), where the request came from is added.

use http::header::{
    CONNECTION, COOKIE, Entry, HOST, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use std::net::IpAddr;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Hop-by-hop whether or not `Connection` names them.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Never removed, even if a client has `Connection` name them: the request would reach the actor as another one.
const KEPT: [HeaderName; 4] = [HOST, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST];

/// The protocol that a request wants to switch to (`Upgrade`, named by `Connection`; HTTP/1.1 only).
pub(super) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = version == Version::HTTP_11 && connection_options(headers).any(|o| o == UPGRADE);
    wants.then(|| headers.get(UPGRADE).cloned()).flatten()
}

/// Removes what concerns only the connection that it came by.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_options(headers)
        .filter(|name| !KEPT.contains(name))
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Asks the next hop for, or tells the previous one of, a switch to `protocol`.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Says where the request came from. The client's address is appended to what earlier proxies said; `host` and,
/// unless a proxy before us that ends TLS has set it, the scheme are ours.
pub(super) fn set_forwarded(headers: &mut HeaderMap, peer: IpAddr, host: &HeaderValue) {
    let mut way: Vec<u8> = Vec::new();
    for earlier in headers.get_all(FORWARDED_FOR) {
        way.extend_from_slice(earlier.as_bytes());
        way.extend_from_slice(b", ");
    }
    way.extend_from_slice(peer.to_canonical().to_string().as_bytes());
    if let Ok(way) = HeaderValue::from_bytes(&way) {
        headers.insert(FORWARDED_FOR, way);
    }
    let scheme = headers.get(FORWARDED_PROTO).map(HeaderValue::as_bytes);
    if !matches!(scheme, Some(b"http" | b"https")) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    headers.insert(FORWARDED_HOST, host.clone());
}

/// HTTP/2 may split cookies over several fields, HTTP/1.1 must not (RFC 9113, 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(cookies) = headers.entry(COOKIE) else {
        return;
    };
    let parts: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
    if parts.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|option| option.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn hop_by_hop_fields_go() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("connection", "host, x-forwarded-for"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("host", "a"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-public", "2"),
        ]);
        remove_hop_by_hop(&mut headers);
        let left = map(&[
            ("host", "a"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-public", "2"),
        ]);
        assert_eq!(headers, left);
    }

    #[test]
    fn an_upgrade_needs_both_fields_and_http_1_1() {
        let both = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        let alone = map(&[("upgrade", "h2c")]);
        assert_eq!(upgrade(Version::HTTP_11, &both).unwrap(), "websocket");
        assert_eq!(upgrade(Version::HTTP_10, &both), None);
        assert_eq!(upgrade(Version::HTTP_11, &alone), None);
    }

    #[test]
    fn forwarded_fields() {
        let host = HeaderValue::from_static("a.b:80");
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "spoofed"),
        ]);
        set_forwarded(&mut headers, "::ffff:10.0.0.3".parse().unwrap(), &host);
        let want = map(&[
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 10.0.0.3"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.b:80"),
        ]);
        assert_eq!(headers, want);

        let mut headers = map(&[("x-forwarded-proto", "gopher")]);
        set_forwarded(&mut headers, "::1".parse().unwrap(), &host);
        assert_eq!(headers["x-forwarded-for"], "::1");
        assert_eq!(headers["x-forwarded-proto"], "http");
    }

    #[test]
    fn cookies_are_joined() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut headers);
        assert_eq!(headers, map(&[("cookie", "a=1; b=2")]));
    }
}
