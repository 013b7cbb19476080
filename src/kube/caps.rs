//! How many actors a namespace may have: what the installation says, unless the namespace says otherwise.

use super::namespaces::{Everywhere, Namespaces};
use std::sync::Arc;

/// Annotation of a Namespace: how many actors it may have. Whoever may write namespaces says it, as with a ResourceQuota.
pub const ACTOR_CAP: &str = "ate.dev/max-actors";

/// The caps of all namespaces.
#[derive(Clone)]
pub struct ActorCaps {
    namespaces: Arc<dyn Namespaces>,
    usual: u64,
}

impl ActorCaps {
    /// `usual` is for namespaces that say nothing.
    pub fn new(namespaces: Arc<dyn Namespaces>, usual: u64) -> Self {
        Self { namespaces, usual }
    }

    /// The same for every namespace.
    pub fn fixed(cap: u64) -> Self {
        Self::new(Arc::new(Everywhere), cap)
    }

    /// How many actors a namespace may have. One that was made just now may not be known yet; it has the usual cap.
    pub fn of(&self, namespace: &str) -> u64 {
        let Some(said) = self.namespaces.annotation(namespace, ACTOR_CAP) else {
            return self.usual;
        };
        said.trim().parse().unwrap_or_else(|_| {
            tracing::warn!(namespace, %said, "{ACTOR_CAP} is not a number: the usual cap holds");
            self.usual
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::namespaces::{Lifecycle, LookError};

    struct Says(&'static str);

    #[async_trait::async_trait]
    impl Namespaces for Says {
        async fn enter(&self, _: &str) -> Result<Lifecycle, LookError> {
            Ok(Lifecycle::Active)
        }

        async fn goes_without(&self, _: &str) -> Result<bool, LookError> {
            Ok(false)
        }

        fn annotation(&self, name: &str, key: &str) -> Option<String> {
            (name == "told" && key == ACTOR_CAP).then(|| self.0.to_owned())
        }
    }

    #[test]
    fn a_namespace_says_its_own_cap() {
        let cap = |said, namespace| ActorCaps::new(Arc::new(Says(said)), 7).of(namespace);
        assert_eq!(cap("3", "told"), 3);
        assert_eq!(cap("0", "told"), 0);
        assert_eq!(cap("3", "other"), 7);
        for bad in ["many", "-1", ""] {
            assert_eq!(cap(bad, "told"), 7, "{bad}");
        }
        assert_eq!(ActorCaps::fixed(5).of("told"), 5);
    }
}
