//! Bearer tokens: a TokenReview per token, its answer kept for a short time under the token's hash.

use super::ask::{Answers, Failed, review};
use super::gate::{Authenticator, Credentials, Unrecognised};
use super::user::User;
use async_trait::async_trait;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use sha2::{Digest, Sha256};

/// No token is longer.
const MAX_TOKEN: usize = 16 << 10;

/// Recognises bearer tokens.
pub struct Tokens {
    client: Client,
    audiences: Vec<String>,
    answers: Answers<[u8; 32], Option<User>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// By a client that may create TokenReviews (`system:auth-delegator`). A token must be for one of `audiences`, or for
    /// the Kubernetes API itself.
    pub fn new(client: Client, audiences: Vec<String>) -> Self {
        Self {
            client,
            audiences,
            answers: Answers::new(),
        }
    }

    /// Forgets all answers.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.answers.forget();
    }

    async fn ask(&self, token: &str) -> Result<Option<User>, Failed> {
        if !self.audiences.is_empty() {
            let ours = self.ask_for(token, Some(self.audiences.clone())).await?;
            if ours.is_some() {
                return Ok(ours);
            }
        }
        self.ask_for(token, None).await
    }

    async fn ask_for(
        &self,
        token: &str,
        audiences: Option<Vec<String>>,
    ) -> Result<Option<User>, Failed> {
        let question = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: audiences.clone(),
            },
            ..TokenReview::default()
        };
        let status = review(&self.client, &question).await?.status;
        Ok(recognised(status.unwrap_or_default(), audiences))
    }
}

/// The user, if the token is good and for one of the audiences that were asked for: an authenticator that knows nothing of
/// audiences leaves them out of its answer.
fn recognised(status: TokenReviewStatus, asked: Option<Vec<String>>) -> Option<User> {
    let good = status.authenticated == Some(true);
    let named = status.audiences.unwrap_or_default();
    let for_us = asked.is_none_or(|asked| asked.iter().any(|a| named.contains(a)));
    let user = status.user.filter(|_| good && for_us)?;
    Some(User {
        name: user.username.filter(|n| !n.is_empty())?,
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    })
}

/// The token in `Authorization: Bearer TOKEN`. Other schemes are not ours.
fn bearer(credentials: &Credentials<'_>) -> Option<String> {
    let value = credentials.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim_start().split(' ').next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<User>, Unrecognised> {
        let Some(token) = bearer(&credentials) else {
            return Ok(None);
        };
        if token.len() > MAX_TOKEN {
            return Err(Unrecognised::Bad("the token is too long".into()));
        }
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let answer = self.answers.get(key, self.ask(&token)).await;
        match answer {
            Ok(Some(user)) => Ok(Some(user)),
            Ok(None) => Err(Unrecognised::Bad("the token is not valid".into())),
            Err(failed) => Err(Unrecognised::Unavailable(failed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::testing::Kubernetes;
    use http::HeaderMap;
    use serde_json::{Value, json};

    async fn with(tokens: &Tokens, authorization: &str) -> Result<Option<String>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().unwrap());
        let credentials = Credentials {
            certificates: &[],
            headers: &headers,
        };
        let user = tokens.authenticate(credentials).await;
        user.map(|u| u.map(|u| u.name)).map_err(|e| e.to_string())
    }

    fn kubernetes() -> Kubernetes {
        Kubernetes::with(|review: &Value| {
            let ours = json!(["api.ate-system.svc"]);
            let (token, asked) = (&review["spec"]["token"], &review["spec"]["audiences"]);
            let status = match token.as_str().unwrap() {
                "for-us" if *asked == ours => {
                    json!({"authenticated": true, "audiences": ours, "user": {"username": "kagent", "groups": ["g"]}})
                }
                "for-kubernetes" if asked.is_null() => {
                    json!({"authenticated": true, "user": {"username": "anna"}})
                }
                // Knows nothing of audiences.
                "blind" if !asked.is_null() => {
                    json!({"authenticated": true, "user": {"username": "eve"}})
                }
                _ => json!({"authenticated": false, "error": "no"}),
            };
            (201, json!({"spec": {}, "status": status}))
        })
    }

    #[tokio::test]
    async fn tokens_for_us_or_for_kubernetes_are_good() {
        let kubernetes = kubernetes();
        let tokens = Tokens::new(kubernetes.client(), vec!["api.ate-system.svc".into()]);
        assert_eq!(
            with(&tokens, "Bearer for-us").await,
            Ok(Some("kagent".into()))
        );
        assert_eq!(
            with(&tokens, "bearer for-us").await,
            Ok(Some("kagent".into()))
        );
        assert_eq!(kubernetes.asked().len(), 1);
        assert_eq!(
            with(&tokens, "Bearer for-kubernetes").await,
            Ok(Some("anna".into()))
        );
        for bad in ["Bearer other", "Bearer blind"] {
            assert!(
                with(&tokens, bad).await.unwrap_err().contains("not valid"),
                "{bad}"
            );
        }
        assert_eq!(with(&tokens, "Basic eHg=").await, Ok(None));
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN + 1));
        assert!(with(&tokens, &long).await.unwrap_err().contains("too long"));
    }
}
