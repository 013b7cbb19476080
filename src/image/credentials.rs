//! Who we are to registries, as docker's `config.json` says it (<https://docs.docker.com/reference/cli/docker/login/>) and as
//! Kubernetes reads it from Secrets of type `kubernetes.io/dockerconfigjson`.
//!
//! Helpers are not run: a program that a file names would run as the node agent does, with all its rights, and the file may be
//! somebody else's Secret. An image that only a helper could open is refused with what to do instead.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::error::io;
use super::{ImageError, Result};

/// Cap on one configuration, in bytes: that of a Secret.
const MAX_CONFIG: u64 = 1 << 20;
/// Logins that are tried for one image.
const MAX_LOGINS: usize = 8;

/// What is presented to registries. The configuration that was added first is tried first.
#[derive(Clone, Default)]
pub struct Credentials(Vec<Config>);

/// One configuration.
#[derive(Clone)]
struct Config {
    /// What it is, for people.
    origin: String,
    logins: Vec<(Scope, Secret)>,
    /// Registries for which it names a program instead.
    helped: Vec<Scope>,
    /// It names a program for all registries that it has no secret for.
    helps_all: bool,
}

/// What is presented to one registry.
#[derive(Clone)]
pub(super) struct Login {
    /// Where it stands, for people.
    pub(super) origin: String,
    pub(super) secret: Secret,
}

#[derive(Clone)]
pub(super) enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// Is exchanged for a token.
    Refresh(String),
    /// Is the token.
    Token(String),
}

/// What an entry is for: a host, in which a `*` stands for anything but dots, and the beginning of a path.
#[derive(Clone)]
struct Scope {
    host: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConfig {
    #[serde(default)]
    auths: BTreeMap<String, RawAuth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Deserialize)]
struct RawAuth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|c| &c.origin))
            .finish()
    }
}

impl Credentials {
    /// Adds a docker configuration, which people know as `origin`.
    ///
    /// # Errors
    /// `BadCredentials` when it cannot be read. What is in it is not repeated.
    pub fn add(&mut self, origin: &str, json: &[u8]) -> Result<()> {
        let bad = |reason: String| ImageError::BadCredentials {
            what: origin.to_owned(),
            reason,
        };
        if json.len() as u64 > MAX_CONFIG {
            return Err(bad(format!("it is over {MAX_CONFIG} bytes")));
        }
        // The parser's own words may quote the text.
        let raw: RawConfig = serde_json::from_slice(json).map_err(|e| {
            let reason = format!(
                "no docker configuration: line {}, column {}",
                e.line(),
                e.column()
            );
            bad(format!("it is {reason}"))
        })?;
        let mut logins = Vec::new();
        for (key, auth) in raw.auths {
            let secret = secret(auth).map_err(|why| bad(format!("auths[{key:?}]{why}")))?;
            logins.extend(secret.map(|secret| (Scope::read(&key), secret)));
        }
        // The most special first, as Kubernetes has it; a login without a path is for the whole registry.
        logins.sort_by_key(|(scope, _)| {
            std::cmp::Reverse((!scope.host.contains('*'), scope.path.len()))
        });
        self.0.push(Config {
            origin: origin.to_owned(),
            logins,
            helped: raw
                .cred_helpers
                .keys()
                .map(|key| Scope::read(key))
                .collect(),
            helps_all: !raw.creds_store.is_empty(),
        });
        Ok(())
    }

    /// Adds the docker configuration in a file; none is fine.
    ///
    /// # Errors
    /// `BadCredentials`, `Io`.
    pub async fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = match File::open(path).await {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io("read", path)(e)),
        };
        let mut json = Vec::new();
        let read = file.take(MAX_CONFIG + 1).read_to_end(&mut json).await;
        read.map_err(io("read", path))?;
        self.add(&path.display().to_string(), &json)
    }

    /// What may open `repository` of the registry `host`, the likeliest first.
    pub(super) fn logins(&self, host: &str, repository: &str) -> Vec<Login> {
        let fits = |config: &Config| {
            let logins = config.logins.iter();
            let fitting = logins.filter(|(scope, _)| scope.covers(host, repository));
            let origin = config.origin.clone();
            let login = move |(_, secret): &(Scope, Secret)| Login {
                origin: origin.clone(),
                secret: secret.clone(),
            };
            fitting.map(login).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(fits).take(MAX_LOGINS).collect()
    }

    /// The configuration that leaves this registry to a program, if one does.
    pub(super) fn helper(&self, host: &str, repository: &str) -> Option<&str> {
        let names =
            |c: &&Config| c.helps_all || c.helped.iter().any(|s| s.covers(host, repository));
        self.0.iter().find(names).map(|c| &*c.origin)
    }
}

/// `None`: docker notes in this way that a helper has it.
fn secret(raw: RawAuth) -> Result<Option<Secret>, &'static str> {
    if !raw.registry_token.is_empty() {
        return Ok(Some(Secret::Token(raw.registry_token)));
    }
    if !raw.identity_token.is_empty() {
        return Ok(Some(Secret::Refresh(raw.identity_token)));
    }
    let (user, password) = match raw.auth.trim() {
        "" => (raw.username, raw.password),
        encoded => {
            let plain = STANDARD.decode(encoded).ok();
            let plain = plain.and_then(|plain| String::from_utf8(plain).ok());
            let plain = plain.ok_or(".auth is not USER:PASSWORD in base64")?;
            let (user, password) = plain
                .split_once(':')
                .ok_or(".auth is not USER:PASSWORD in base64")?;
            // Docker pads with NUL what it once wrote in fixed lengths.
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        }
    };
    if user.contains(':') || user.contains(char::is_control) || password.contains(char::is_control)
    {
        return Err(" has a user or password with characters that cannot be sent");
    }
    Ok((!user.is_empty()).then_some(Secret::Password { user, password }))
}

impl Scope {
    /// Keys are hosts, or URLs as early versions of docker wrote them.
    fn read(key: &str) -> Self {
        let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io",
            host => host,
        };
        let path = match path.trim_matches('/') {
            "v1" | "v2" => "",
            path => path,
        };
        Self {
            host: host.to_ascii_lowercase(),
            path: path.to_owned(),
        }
    }

    fn covers(&self, host: &str, repository: &str) -> bool {
        let below = || {
            let rest = repository.strip_prefix(&self.path);
            self.path.is_empty()
                || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        same_host(&self.host, host) && below()
    }
}

/// A `*` never reaches beyond a dot or into a port.
fn same_host(pattern: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let (mut wanted, mut given) = (pattern.split(['.', ':']), host.split(['.', ':']));
    if pattern.matches(':').count() != host.matches(':').count() {
        return false;
    }
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if same_label(wanted, given) => {}
            _ => return false,
        }
    }
}

/// One `*` is possible.
fn same_label(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((start, end)) => label
            .strip_prefix(start)
            .is_some_and(|rest| rest.ends_with(end)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn users(credentials: &Credentials, image: &str) -> Vec<String> {
        let (host, repository) = image.split_once('/').unwrap();
        let shown = |login: Login| match login.secret {
            Secret::Password { user, password } => format!("{}: {user}/{password}", login.origin),
            Secret::Refresh(token) => format!("{}: refresh {token}", login.origin),
            Secret::Token(token) => format!("{}: token {token}", login.origin),
        };
        credentials
            .logins(host, repository)
            .into_iter()
            .map(shown)
            .collect()
    }

    fn of(json: serde_json::Value) -> Credentials {
        let mut credentials = Credentials::default();
        credentials.add("c", json.to_string().as_bytes()).unwrap();
        credentials
    }

    #[test]
    fn entries_as_docker_and_kubernetes_write_them() {
        let basic = |text: &str| json!({"auth": STANDARD.encode(text)});
        let all = of(json!({"auths": {
            "https://index.docker.io/v1/": basic("hub:a:b"),
            "ghcr.io": {"username": "me", "password": "word"},
            "ghcr.io/team": basic("team:t"),
            "127.0.0.1:5000": basic("local:l"),
            "*.azurecr.io": {"identitytoken": "r"},
            "one.azurecr.io": {"registrytoken": "t"},
            "empty.example": {},
        }, "HttpHeaders": {"X": "y"}}));
        for (image, want) in [
            ("docker.io/library/busybox", &["c: hub/a:b"][..]),
            ("ghcr.io/me/app", &["c: me/word"]),
            ("GHCR.io/team/app", &["c: team/t", "c: me/word"]),
            ("ghcr.io/teammate/app", &["c: me/word"]),
            ("127.0.0.1:5000/app", &["c: local/l"]),
            ("127.0.0.1:5001/app", &[]),
            ("127.0.0.1/app", &[]),
            ("two.azurecr.io/app", &["c: refresh r"]),
            ("one.azurecr.io/app", &["c: token t", "c: refresh r"]),
            ("a.b.azurecr.io/app", &[]),
            ("azurecr.io/app", &[]),
            ("empty.example/app", &[]),
            ("evil-ghcr.io/app", &[]),
        ] {
            assert_eq!(users(&all, image), want, "{image}");
        }
    }

    #[test]
    fn what_was_added_first_is_tried_first() {
        let auths =
            |user: &str| json!({"auths": {"r.example": {"username": user, "password": "p"}}});
        let mut all = of(auths("secret"));
        all.add("node", auths("node").to_string().as_bytes())
            .unwrap();
        assert_eq!(users(&all, "r.example/a"), ["c: secret/p", "node: node/p"]);
    }

    #[test]
    fn helpers_are_known_and_not_run() {
        let one = of(json!({"credHelpers": {"r.example": "touch /tmp/x"}}));
        assert_eq!(one.helper("r.example", "a"), Some("c"));
        assert_eq!(one.helper("s.example", "a"), None);
        let all = of(json!({"auths": {"r.example": {}}, "credsStore": "desktop"}));
        assert_eq!(all.helper("s.example", "a"), Some("c"));
    }

    #[test]
    fn what_cannot_be_read_is_named_without_what_is_in_it() {
        let secret = STANDARD.encode("hunter2-without-colon");
        for bad in [
            "hunter2".to_owned(),
            r#"{"auths": {"r": "hunter2"}}"#.to_owned(),
            json!({"auths": {"r": {"auth": "!hunter2"}}}).to_string(),
            json!({"auths": {"r": {"auth": secret}}}).to_string(),
            json!({"auths": {"r": {"username": "u", "password": "hunter2\r\nX: y"}}}).to_string(),
            " ".repeat(MAX_CONFIG as usize + 1),
        ] {
            let error = Credentials::default()
                .add("Secret team/s", bad.as_bytes())
                .unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(
                said.contains("Secret team/s") && !said.contains("hunter2"),
                "{said}"
            );
        }
        let debug = format!(
            "{:?}",
            of(json!({"auths": {"r": {"registrytoken": "hunter2"}}}))
        );
        assert!(!debug.contains("hunter2"), "{debug}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}", key in "\\PC{0,40}") {
            drop(Credentials::default().add("c", text.as_bytes()));
            let one = of(json!({"auths": {&key: {"username": "u"}}, "credHelpers": {&key: "x"}}));
            drop(one.logins(&text, &key));
            prop_assert!(one.helper(&key, &text).is_none_or(|c| c == "c"));
        }
    }
}
