//! How names are resolved within a sandbox: Kubernetes' `dnsPolicy` and `dnsConfig`.

use super::validate::{Cause, rules};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Name servers that resolvers take (resolv.conf(5)).
pub const MOST_SERVERS: usize = 3;
/// Domains that resolvers take.
pub const MOST_SEARCHES: usize = 32;
/// Kubernetes' own bounds.
const MOST_OPTIONS: usize = 16;
const LONGEST_NAME: usize = 253;

/// Where the configuration of names begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DnsPolicy {
    /// With the worker's: its pod's, or its machine's where there is no pod.
    #[default]
    ClusterFirst,
    /// With nothing: `dnsConfig` says all of it.
    None,
}

/// What is added to where `dnsPolicy` begins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct DnsConfig {
    /// Addresses of name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "atomic"))]
    #[garde(length(max = MOST_SERVERS), inner(custom(address)))]
    pub nameservers: Vec<String>,
    /// Domains in which short names are looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    #[garde(length(max = MOST_SEARCHES), inner(custom(domain)))]
    pub searches: Vec<String>,
    /// Options of resolvers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    #[garde(length(max = MOST_OPTIONS), dive)]
    pub options: Vec<DnsOption>,
}

/// An option of resolvers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct DnsOption {
    /// Its name.
    #[garde(custom(word))]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(word)))]
    pub value: Option<String>,
}

fn address(text: &str, _: &()) -> garde::Result {
    rules::ensure(text.parse::<IpAddr>().is_ok(), Cause::Invalid, || {
        format!("{} is no IP address", rules::quoted(text))
    })
}

fn domain(text: &str, _: &()) -> garde::Result {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let fits = !text.is_empty() && text.len() <= LONGEST_NAME && text.chars().all(part);
    rules::ensure(fits, Cause::Invalid, || {
        format!("{} is no domain", rules::quoted(text))
    })
}

/// Stays one word of the file that it is written into.
fn word(text: &str, _: &()) -> garde::Result {
    let fits = !text.is_empty() && text.len() <= 63 && text.chars().all(|c| c.is_ascii_graphic());
    rules::ensure(fits, Cause::Invalid, || {
        format!("{} is no option of resolvers", rules::quoted(text))
    })
}

/// The rule for `dnsConfig` under a policy.
pub fn rule<'a>(policy: DnsPolicy) -> impl Fn(&Option<DnsConfig>, &()) -> garde::Result + 'a {
    move |config, _| {
        let servers = config
            .as_ref()
            .is_some_and(|config| !config.nameservers.is_empty());
        let needed = match policy {
            DnsPolicy::ClusterFirst => false,
            DnsPolicy::None => true,
        };
        rules::ensure(servers || !needed, Cause::Required, || {
            "dnsPolicy None needs nameservers".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_would_not_stay_in_its_place_is_refused() {
        let check = |config: Value| {
            serde_json::from_value::<DnsConfig>(config)
                .unwrap()
                .validate()
        };
        let good = json!({
            "nameservers": ["10.0.0.10", "fd00::1"], "searches": ["a.svc.cluster.local", "local."],
            "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}],
        });
        assert!(check(good).is_ok());
        for (bad, field) in [
            (json!({"nameservers": ["dns.example"]}), "nameservers[0]"),
            (
                json!({"nameservers": ["1.1.1.1", "1.1.1.1", "1.1.1.1", "1.1.1.1"]}),
                "nameservers",
            ),
            (
                json!({"searches": ["a\nnameserver 6.6.6.6"]}),
                "searches[0]",
            ),
            (json!({"options": [{"name": "a b"}]}), "options[0].name"),
            (
                json!({"options": [{"name": "a", "value": "1\n"}]}),
                "options[0].value",
            ),
        ] {
            let error = check(bad.clone()).unwrap_err().to_string();
            assert!(error.starts_with(field), "{bad}: {error}");
        }
    }
}
