//! Authorization of a cluster: a SubjectAccessReview per question, its answer kept for a short time.

use super::ask::{Answers, Failed, review};
use super::attributes::Attributes;
use super::gate::{Authorizer, Decision};
use super::user::User;
use async_trait::async_trait;
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;

/// Asks Kubernetes.
pub struct Reviews {
    client: Client,
    answers: Answers<(User, Attributes), Decision>,
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").finish_non_exhaustive()
    }
}

impl Reviews {
    /// By a client that may create SubjectAccessReviews (`system:auth-delegator`).
    pub fn new(client: Client) -> Self {
        Self {
            client,
            answers: Answers::new(),
        }
    }
}

#[async_trait]
impl Authorizer for Reviews {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Result<Decision, Failed> {
        let ask = async {
            let question = SubjectAccessReview {
                spec: spec(user, attributes),
                ..SubjectAccessReview::default()
            };
            let status = review(&self.client, &question)
                .await?
                .status
                .unwrap_or_default();
            if let Some(error) = status.evaluation_error.as_deref().filter(|e| !e.is_empty()) {
                tracing::debug!(error, "a right could not be evaluated in full");
            }
            Ok(if status.allowed && status.denied != Some(true) {
                Decision::Allowed
            } else {
                Decision::Denied {
                    reason: status.reason.unwrap_or_default(),
                }
            })
        };
        self.answers
            .get((user.clone(), attributes.clone()), ask)
            .await
    }
}

fn spec(user: &User, attributes: &Attributes) -> SubjectAccessReviewSpec {
    let some = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let (resource, path) = match attributes {
        Attributes::Resource(r) => {
            let resource = ResourceAttributes {
                verb: some(&r.verb),
                group: some(&r.group),
                version: some(&r.version),
                resource: some(&r.resource),
                subresource: some(&r.subresource),
                namespace: some(&r.namespace),
                name: some(&r.name),
                ..ResourceAttributes::default()
            };
            (Some(resource), None)
        }
        Attributes::Path { verb, path } => {
            let path = NonResourceAttributes {
                verb: some(verb),
                path: some(path),
            };
            (None, Some(path))
        }
    };
    SubjectAccessReviewSpec {
        user: some(&user.name),
        uid: some(&user.uid),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|e| !e.is_empty()),
        resource_attributes: resource,
        non_resource_attributes: path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::testing::Kubernetes;
    use crate::access::{CACHE_LIFE, Resource};
    use serde_json::json;

    fn anna() -> (User, Attributes) {
        let user = User {
            name: "anna".into(),
            groups: vec!["team-a".into()],
            ..User::default()
        };
        let wish = Attributes::Resource(Resource {
            verb: "get".into(),
            resource: "actors".into(),
            namespace: "team-a".into(),
            ..Resource::default()
        });
        (user, wish)
    }

    #[tokio::test]
    async fn an_answer_is_asked_once_whoever_waits() {
        let kubernetes = Kubernetes::answering(|_| (201, json!({"status": {"allowed": true}})));
        let reviews = Reviews::new(kubernetes.client());
        let (user, wish) = anna();
        let all = (0..10).map(|_| reviews.authorize(&user, &wish));
        for answer in futures::future::join_all(all).await {
            assert_eq!(answer.unwrap(), Decision::Allowed);
        }
        assert_eq!(kubernetes.asked().len(), 1);
        let spec = &kubernetes.asked()[0]["spec"];
        assert_eq!(
            spec,
            &json!({"user": "anna", "groups": ["team-a"],
                "resourceAttributes": {"verb": "get", "resource": "actors", "namespace": "team-a"}})
        );
        let other = User {
            name: "berta".into(),
            ..user
        };
        reviews.authorize(&other, &wish).await.unwrap();
        assert_eq!(
            kubernetes.asked().len(),
            2,
            "another user is another question"
        );
    }

    #[tokio::test]
    async fn a_denial_says_why_and_failures_are_tried_again_then_said() {
        let denied = json!({"status": {"allowed": false, "reason": "not today"}});
        let kubernetes = Kubernetes::answering(move |n| match n {
            0 => (
                503,
                json!({"code": 503, "status": "Failure", "message": "", "reason": ""}),
            ),
            _ => (201, denied.clone()),
        });
        tokio::time::pause();
        let (user, wish) = anna();
        let reviews = Reviews::new(kubernetes.client());
        let answer = reviews.authorize(&user, &wish).await.unwrap();
        assert_eq!(
            answer,
            Decision::Denied {
                reason: "not today".into()
            }
        );

        let down = Kubernetes::answering(|_| {
            (
                500,
                json!({"code": 500, "status": "Failure", "message": "", "reason": ""}),
            )
        });
        let reviews = Reviews::new(down.client());
        for asked in [5, 10] {
            let failed = reviews.authorize(&user, &wish).await;
            assert!(matches!(failed, Err(Failed::Api(_))), "{failed:?}");
            assert_eq!(down.asked().len(), asked, "a failure is not kept");
        }
    }

    #[test]
    fn a_revoked_right_is_believed_for_seconds_only() {
        assert!(CACHE_LIFE.as_secs() <= 10);
    }
}
