//! The chain: authenticators in their order, then the authorizer.

use super::attributes::{Attributes, is_open};
use super::{MASTERS, User};
use async_trait::async_trait;
use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use std::fmt::Debug;
use std::sync::Arc;

/// What a request brings to say who sent it.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The client's certificate chain, leaf first; empty where it showed none. TLS has checked that the client has the
    /// leaf's key, and nothing else.
    pub certificates: &'a [CertificateDer<'static>],
    /// HTTP headers, or gRPC metadata.
    pub headers: &'a HeaderMap,
}

/// Why nobody was recognised in credentials that were there. Said in our log only.
#[derive(Debug, thiserror::Error)]
pub enum Unrecognised {
    /// The credentials are wrong.
    #[error("{0}")]
    Bad(String),
    /// Whoever knows could not be asked.
    #[error("the token could not be checked")]
    Unavailable(#[source] super::ask::Failed),
}

/// Recognises one kind of credentials.
#[async_trait]
pub trait Authenticator: Debug + Send + Sync + 'static {
    /// Who it is. `None`: there are no credentials of this kind; an error: there are, and they are not good.
    async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<User>, Unrecognised>;

    /// Takes the credentials off, so that nothing behind the gate can take them for something else.
    fn strip(&self, _headers: &mut HeaderMap) {}
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allowed,
    /// No, and perhaps why.
    Denied {
        /// Empty where there is nothing to say.
        reason: String,
    },
}

/// Knows who may do what.
#[async_trait]
pub trait Authorizer: Debug + Send + Sync + 'static {
    /// Whether the user may. An error means that it cannot be told now.
    async fn authorize(
        &self,
        user: &User,
        attributes: &Attributes,
    ) -> Result<Decision, super::ask::Failed>;
}

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody knows the credentials, or there are none and there must be.
    #[error("Unauthorized")]
    Unauthenticated,
    /// Known, and not allowed; Kubernetes' words.
    #[error("{0}")]
    Denied(String),
    /// It cannot be told whether it is allowed: not the caller's fault.
    #[error("whether this is allowed could not be asked")]
    Unavailable(#[source] super::ask::Failed),
}

/// The chain.
#[derive(Clone, Debug)]
pub struct Gate {
    authenticators: Vec<Arc<dyn Authenticator>>,
    anonymous: Option<User>,
    authorizer: Arc<dyn Authorizer>,
}

impl Gate {
    /// Of authenticators in their order and an authorizer. Whoever shows nothing is refused.
    pub fn new(
        authenticators: Vec<Arc<dyn Authenticator>>,
        authorizer: Arc<dyn Authorizer>,
    ) -> Self {
        Self {
            authenticators,
            anonymous: None,
            authorizer,
        }
    }

    /// Whoever shows nothing is this user, of the group `system:unauthenticated`.
    pub fn with_anonymous(mut self, name: &str) -> Self {
        self.anonymous = Some(User::anonymous(name));
        self
    }

    /// Who it is: the first authenticator that knows them. Bad credentials never make somebody anonymous.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<User, Refusal> {
        let mut bad = None;
        for authenticator in &self.authenticators {
            match authenticator.authenticate(credentials).await {
                Ok(Some(user)) => return Ok(user.authenticated()),
                Ok(None) => {}
                Err(error) => bad = Some(error),
            }
        }
        match (bad, &self.anonymous) {
            (None, Some(anonymous)) => Ok(anonymous.clone()),
            (None, None) => Err(Refusal::Unauthenticated),
            (Some(error), _) => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "refused: unknown credentials"
                );
                Err(Refusal::Unauthenticated)
            }
        }
    }

    /// Takes off the headers that said who it is.
    pub fn strip(&self, headers: &mut HeaderMap) {
        headers.remove(http::header::AUTHORIZATION);
        for authenticator in &self.authenticators {
            authenticator.strip(headers);
        }
    }

    /// Whether the user may.
    pub async fn check(&self, user: &User, attributes: &Attributes) -> Result<(), Refusal> {
        let open = matches!(attributes, Attributes::Path { path, .. } if is_open(path));
        if open || user.is_in(MASTERS) {
            return Ok(());
        }
        match self.authorizer.authorize(user, attributes).await {
            Ok(Decision::Allowed) => Ok(()),
            Ok(Decision::Denied { reason }) => {
                let why = attributes.refusal(&user.name);
                Err(Refusal::Denied(if reason.is_empty() {
                    why
                } else {
                    format!("{why}: {reason}")
                }))
            }
            Err(source) => Err(Refusal::Unavailable(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{ANONYMOUS, Groups};

    /// Answers always the same.
    #[derive(Debug)]
    enum Fixed {
        Knows(&'static str),
        Nothing,
        Bad,
    }

    #[async_trait]
    impl Authenticator for Fixed {
        async fn authenticate(&self, _: Credentials<'_>) -> Result<Option<User>, Unrecognised> {
            match self {
                Self::Knows(name) => Ok(Some(User {
                    name: (*name).to_owned(),
                    ..User::default()
                })),
                Self::Nothing => Ok(None),
                Self::Bad => Err(Unrecognised::Bad("no".into())),
            }
        }
    }

    async fn who(chain: Vec<Fixed>, anonymous: bool) -> Option<String> {
        let chain = chain
            .into_iter()
            .map(|a| Arc::new(a) as Arc<dyn Authenticator>);
        let mut gate = Gate::new(chain.collect(), Arc::new(Groups(vec![])));
        if anonymous {
            gate = gate.with_anonymous(ANONYMOUS);
        }
        let headers = HeaderMap::new();
        let credentials = Credentials {
            certificates: &[],
            headers: &headers,
        };
        gate.authenticate(credentials).await.ok().map(|u| u.name)
    }

    #[tokio::test]
    async fn bad_credentials_are_never_anonymous() {
        use Fixed::*;
        for (chain, anonymous, name) in [
            (vec![Knows("a"), Knows("b")], true, Some("a")),
            (vec![Bad, Knows("b")], true, Some("b")),
            (vec![Nothing, Bad, Nothing], true, None),
            (vec![Nothing], true, Some(ANONYMOUS)),
            (vec![Nothing], false, None),
            (vec![], true, Some(ANONYMOUS)),
        ] {
            let said = format!("{chain:?}");
            assert_eq!(who(chain, anonymous).await.as_deref(), name, "{said}");
        }
    }

    #[tokio::test]
    async fn masters_and_open_paths_need_no_right() {
        let gate = Gate::new(vec![], Arc::new(Groups(vec![])));
        let path = |path: &str| Attributes::Path {
            verb: "get".into(),
            path: path.into(),
        };
        let nobody = User::anonymous(ANONYMOUS);
        assert!(gate.check(&nobody, &path("/readyz")).await.is_ok());
        let refused = gate.check(&nobody, &path("/readyz/x")).await;
        assert!(matches!(refused, Err(Refusal::Denied(_))), "{refused:?}");
        let master = User {
            groups: vec![MASTERS.into()],
            ..User::default()
        };
        assert!(gate.check(&master, &path("/apis")).await.is_ok());
    }
}
