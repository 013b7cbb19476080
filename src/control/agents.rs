//! Which node a node agent speaks for. All agents have one certificate; a token of the agent's ServiceAccount names the node that its
//! pod is on (KEP-4193: the claim `kubernetes.io.node`, in Kubernetes 1.30 and later).

use crate::access::{Authenticator, Credentials, Tokens, Unrecognised};
use crate::telemetry::chain;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use moka::future::Cache;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::time::timeout;
use tonic::Status;

/// Where a TokenReview says which node a token is bound to.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// A token that was good is taken for good so long while Kubernetes cannot be asked: its outage must not take all nodes along.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How long Kubernetes is waited for where the answer is remembered: well below the time in which agents want their reports answered.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tokens that are remembered at most.
const MAX_REMEMBERED: u64 = 20_000;

/// Knows the nodes of node agents.
#[derive(Debug)]
pub struct Agents {
    tokens: Tokens,
    /// The user that agents are.
    user: String,
    /// Nodes by tokens' hashes.
    known: Cache<[u8; 32], String>,
}

/// The node that a report's token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound(pub String);

impl Agents {
    /// Agents are this user, in Kubernetes' words: `system:serviceaccount:NAMESPACE:NAME`.
    pub fn new(tokens: Tokens, user: String) -> Self {
        let known = Cache::builder()
            .max_capacity(MAX_REMEMBERED)
            .time_to_live(REMEMBERED);
        Self {
            tokens,
            user,
            known: known.build(),
        }
    }

    /// The node of whoever sent these headers.
    pub(super) async fn node_of(&self, headers: &HeaderMap) -> Result<Bound, Status> {
        let header = headers.get(AUTHORIZATION);
        let header = header.map(http::HeaderValue::as_bytes).unwrap_or_default();
        let key: [u8; 32] = Sha256::digest(header).into();
        let credentials = Credentials {
            certificates: &[],
            headers,
        };
        let asked = self.tokens.authenticate(credentials);
        let answer = match self.known.get(&key).await {
            None => asked.await,
            Some(node) => match timeout(PATIENCE, asked).await {
                Ok(answer) => answer,
                Err(_) => return Ok(Bound(node)),
            },
        };
        let user = match answer {
            Ok(Some(user)) => user,
            Ok(None) => {
                return Err(Status::unauthenticated(
                    "send the token of the node agent's pod in `authorization`",
                ));
            }
            Err(Unrecognised::Bad(why)) => {
                self.known.invalidate(&key).await;
                return Err(Status::unauthenticated(why));
            }
            Err(Unrecognised::Unavailable(error)) => {
                let known = self.known.get(&key).await;
                let unavailable = || Status::unavailable(chain(&error));
                return known.map(Bound).ok_or_else(unavailable);
            }
        };
        if user.name != self.user {
            let why = format!("{:?} is no node agent, {:?} is", user.name, self.user);
            return Err(Status::permission_denied(why));
        }
        let node = user.extra.get(NODE_NAME).and_then(|all| all.first());
        let node = node.ok_or_else(|| {
            Status::permission_denied("the token is bound to no node: it must be that of a pod")
        })?;
        self.known.insert(key, node.clone()).await;
        Ok(Bound(node.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::testing::{Kubernetes, SILENCE};
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};
    use tonic::Code;

    const AGENT: &str = "system:serviceaccount:ate-system:atelet";
    const THERE: u16 = 201;

    /// Kubernetes answers so, unless it is [`THERE`].
    fn agents(away: Arc<AtomicU16>) -> Agents {
        let kubernetes = Kubernetes::with(move |review: &Value| {
            let code = away.load(Ordering::SeqCst);
            if code != THERE {
                return (code, json!({"kind": "Status", "code": code}));
            }
            let user = |name: &str, node: Option<&str>| {
                let extra = node.map(|n| json!({NODE_NAME: [n]}));
                json!({"authenticated": true, "user": {"username": name, "extra": extra}})
            };
            let status = match review["spec"]["token"].as_str().unwrap() {
                "of-a" => user(AGENT, Some("a")),
                "of-no-pod" => user(AGENT, None),
                "of-another" => user("system:serviceaccount:team:x", Some("a")),
                _ => json!({"authenticated": false}),
            };
            (201, json!({"spec": {}, "status": status}))
        });
        Agents::new(Tokens::new(kubernetes.client(), vec![]), AGENT.into())
    }

    async fn node(agents: &Agents, token: &str) -> Result<String, Code> {
        let mut headers = HeaderMap::new();
        if !token.is_empty() {
            let value = format!("Bearer {token}");
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        let node = agents.node_of(&headers).await;
        node.map(|n| n.0).map_err(|s| s.code())
    }

    #[tokio::test]
    async fn only_a_token_of_an_agents_pod_names_a_node() {
        let agents = agents(Arc::new(THERE.into()));
        assert_eq!(node(&agents, "of-a").await, Ok("a".into()));
        for (token, code) in [
            ("", Code::Unauthenticated),
            ("forged", Code::Unauthenticated),
            ("of-no-pod", Code::PermissionDenied),
            ("of-another", Code::PermissionDenied),
        ] {
            assert_eq!(node(&agents, token).await, Err(code), "{token}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_good_is_good_while_kubernetes_is_away() {
        for code in [403, SILENCE] {
            let away = Arc::new(AtomicU16::new(THERE));
            let agents = agents(away.clone());
            assert_eq!(node(&agents, "of-a").await, Ok("a".into()));
            agents.tokens.forget();
            away.store(code, Ordering::SeqCst);
            let begun = tokio::time::Instant::now();
            assert_eq!(node(&agents, "of-a").await, Ok("a".into()));
            assert!(begun.elapsed() <= PATIENCE + Duration::from_millis(10));
            assert_eq!(node(&agents, "of-another").await, Err(Code::Unavailable));
        }
    }
}
