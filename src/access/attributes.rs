//! What somebody wants to do, as RBAC sees it, and how Kubernetes says that they may not
//! (apiserver/pkg/endpoints/handlers/responsewriters/errors.go).

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attributes {
    /// Something with objects.
    Resource(Resource),
    /// Something with a path that is not about objects.
    Path {
        /// HTTP method, lower case.
        verb: String,
        /// The path.
        path: String,
    },
}

/// Something with objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resource {
    /// get, list, watch, create, update, patch, delete or deletecollection.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Empty: the object itself.
    pub subresource: String,
    /// Empty: all of them.
    pub namespace: String,
    /// Empty: the collection.
    pub name: String,
}

/// Paths that anybody may ask: they say nothing but whether we live.
const OPEN_PATHS: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// Whether anybody may ask for a path.
pub fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path)
}

/// Go's `%q` of what may come in a request, harmless where somebody takes the text for HTML.
fn quoted(text: &str) -> String {
    let safe = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    format!("{safe:?}")
}

impl Attributes {
    /// `User "u" cannot list resource "actors" in API group "g" in the namespace "ns"`.
    pub fn refusal(&self, user: &str) -> String {
        let user = quoted(user);
        match self {
            Self::Path { verb, path } => {
                format!("User {user} cannot {verb} path {}", quoted(path))
            }
            Self::Resource(r) => {
                let resource = match r.subresource.as_str() {
                    "" => r.resource.clone(),
                    sub => format!("{}/{sub}", r.resource),
                };
                let whither = match r.namespace.as_str() {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {}", quoted(namespace)),
                };
                format!(
                    "User {user} cannot {} resource {} in API group {} {whither}",
                    r.verb,
                    quoted(&resource),
                    quoted(&r.group)
                )
            }
        }
    }
}

impl Resource {
    /// `namespace/resource/name/subresource`, without what is not there.
    pub fn object(&self) -> String {
        let parts = [
            &self.namespace,
            &self.resource,
            &self.name,
            &self.subresource,
        ];
        let said: Vec<_> = parts.iter().filter(|p| !p.is_empty()).collect();
        said.iter()
            .map(|p| p.as_str())
            .collect::<Vec<_>>()
            .join("/")
    }

    /// Whether it changes something.
    pub fn writes(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_kubernetes_words() {
        let mut resource = Resource {
            verb: "create".into(),
            group: "runtime.ate.dev".into(),
            version: "v1alpha1".into(),
            resource: "actors".into(),
            subresource: "resume".into(),
            namespace: "team-a".into(),
            name: "x".into(),
        };
        assert_eq!(
            Attributes::Resource(resource.clone()).refusal("anna"),
            r#"User "anna" cannot create resource "actors/resume" in API group "runtime.ate.dev" in the namespace "team-a""#
        );
        assert_eq!(resource.object(), "team-a/actors/x/resume");
        (resource.namespace, resource.subresource) = (String::new(), String::new());
        assert_eq!(
            Attributes::Resource(resource).refusal("a<b"),
            r#"User "a&lt;b" cannot create resource "actors" in API group "runtime.ate.dev" at the cluster scope"#
        );
        let path = Attributes::Path {
            verb: "get".into(),
            path: "/apis".into(),
        };
        assert_eq!(
            path.refusal("system:anonymous"),
            r#"User "system:anonymous" cannot get path "/apis""#
        );
    }
}
