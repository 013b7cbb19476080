//! The kubeconfig that `ate dev` writes (format: kubernetes/client-go, tools/clientcmd/api/v1).

use super::Leaf;
use serde_json::json;

/// Name of cluster, user and context.
const NAME: &str = "ate-dev";

/// A kubeconfig (YAML) with everything embedded: no file beside it is needed.
pub fn kubeconfig(server: &str, ca: &str, client: &Leaf) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": {
            "server": server,
            "certificate-authority-data": base64(ca.as_bytes()),
        }}],
        "users": [{"name": NAME, "user": {
            "client-certificate-data": base64(client.chain.as_bytes()),
            "client-key-data": base64(client.key.as_bytes()),
        }}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": "default"}}],
    });
    serde_yaml_ng::to_string(&config).unwrap_or_default()
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let value = chunk
            .iter()
            .chain(&[0, 0])
            .take(3)
            .fold(0u32, |v, b| v << 8 | u32::from(*b));
        for i in 0..4 {
            let index = (value >> (18 - 6 * i) & 63) as usize;
            text.push(if i <= chunk.len() {
                char::from(ALPHABET[index])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("\u{ff}\u{fe}", "w7/Dvg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded, "{plain}");
        }
    }

    #[test]
    fn a_client_library_reads_it() {
        let client = Leaf {
            chain: "CHAIN".into(),
            key: "KEY".into(),
        };
        let text = kubeconfig("https://127.0.0.1:1234", "CA", &client);
        let config: kube::config::Kubeconfig = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("ate-dev"));
        let cluster = config.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:1234"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Q0E="));
    }
}
