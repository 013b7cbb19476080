//! Who calls.

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use std::collections::BTreeMap;

/// Who calls, as Kubernetes' `user.Info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// The name.
    pub name: String,
    /// Tells users apart who had the same name one after the other; empty where nobody said.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows (such as scopes).
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody without credentials, under a name.
    pub fn anonymous(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// In the group of the authenticated, unless it is known to be in none
    /// (apiserver/pkg/authentication/group/authenticated_group_adder.go).
    pub(super) fn authenticated(mut self) -> Self {
        if self.name != ANONYMOUS && !self.is_in(AUTHENTICATED) && !self.is_in(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_anonymous_are_not_authenticated() {
        let legacy = User {
            name: "system:kube-aggregator".into(),
            ..User::default()
        };
        assert!(legacy.authenticated().is_in(AUTHENTICATED));
        assert!(
            !User::anonymous(ANONYMOUS)
                .authenticated()
                .is_in(AUTHENTICATED)
        );
        assert!(
            !User::anonymous("somebody")
                .authenticated()
                .is_in(AUTHENTICATED)
        );
    }
}
