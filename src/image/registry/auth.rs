//! Who we are to one repository: Basic, or a token that a server of the registry's choice gives
//! (<https://distribution.github.io/distribution/spec/auth/token/>).
//!
//! Nothing is presented before it is asked for, and each login once, unless it worked before: tokens expire.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_auth::{ChallengeRef, parse_challenges};
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::patience::Trouble;
use super::request;
use crate::image::credentials::{Credentials, Login, Secret};

/// Cap on what a token server answers, in bytes.
const MAX_TOKEN: u64 = 256 << 10;
/// The name under which a refresh token is exchanged.
const CLIENT: &str = "agent-substrate";

/// The state of the acquaintance.
pub(super) struct Auth {
    host: String,
    scope: String,
    logins: Vec<Login>,
    /// A configuration that leaves this registry to a program.
    helper: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is presented now.
    header: Option<HeaderValue>,
    /// Changes with it.
    turn: u64,
    /// Of the login that it is of, or that is next.
    login: usize,
    /// It was accepted.
    worked: bool,
}

/// What follows from a refusal.
pub(super) enum Next {
    /// There is something else to present.
    Again,
    /// There is not; how it was tried.
    Nothing(String),
}

impl Auth {
    pub(super) fn new(host: &str, repository: &str, credentials: &Credentials) -> Self {
        Self {
            host: host.to_owned(),
            scope: format!("repository:{repository}:pull"),
            logins: credentials.logins(host, repository),
            helper: credentials.helper(host, repository).map(str::to_owned),
            state: Mutex::default(),
        }
    }

    /// What to present, and its number.
    pub(super) async fn current(&self) -> (Option<HeaderValue>, u64) {
        let state = self.state.lock().await;
        (state.header.clone(), state.turn)
    }

    /// What was presented as `turn` is good.
    pub(super) async fn worked(&self, turn: u64) {
        let mut state = self.state.lock().await;
        state.worked |= state.turn == turn;
    }

    /// What was presented as `turn` was refused.
    pub(super) async fn next(
        &self,
        http: &reqwest::Client,
        turn: u64,
        refusal: &HeaderMap,
    ) -> Result<Next, Trouble> {
        let mut state = self.state.lock().await;
        if state.turn != turn {
            return Ok(Next::Again);
        }
        let first = state.turn == 0;
        if !first && !state.worked {
            state.login += 1;
        }
        loop {
            let login = self.logins.get(state.login);
            // Without any login a token server may still let everybody in.
            let nobody = self.logins.is_empty() && (first || state.worked);
            if login.is_none() && !nobody {
                return Ok(Next::Nothing(self.how()));
            }
            match self.answer(http, refusal, login).await? {
                Some(header) => {
                    state.header = Some(header);
                    state.turn += 1;
                    state.worked = false;
                    return Ok(Next::Again);
                }
                None if login.is_some() => state.login += 1,
                None => return Ok(Next::Nothing(self.how())),
            }
        }
    }

    /// The header that a challenge asks for; `None`: this login is of no use.
    async fn answer(
        &self,
        http: &reqwest::Client,
        refusal: &HeaderMap,
        login: Option<&Login>,
    ) -> Result<Option<HeaderValue>, Trouble> {
        let secret = login.map(|login| &login.secret);
        if let Some(Secret::Token(token)) = secret {
            return Ok(bearer(token));
        }
        let lines = refusal.get_all(WWW_AUTHENTICATE).iter();
        let lines: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
        let challenges: Vec<ChallengeRef<'_>> = lines
            .iter()
            .flat_map(|l| parse_challenges(l).unwrap_or_default())
            .collect();
        for challenge in challenges {
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                return self.token(http, &challenge, secret).await;
            }
            if challenge.scheme.eq_ignore_ascii_case("basic")
                && let Some(Secret::Password { user, password }) = secret
            {
                let pair = STANDARD.encode(format!("{user}:{password}"));
                return Ok(sensitive(&format!("Basic {pair}")));
            }
        }
        Ok(None)
    }

    async fn token(
        &self,
        http: &reqwest::Client,
        challenge: &ChallengeRef<'_>,
        secret: Option<&Secret>,
    ) -> Result<Option<HeaderValue>, Trouble> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let param = |name: &str| {
            let found = challenge
                .params
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let realm = param("realm").and_then(|realm| Url::parse(&realm).ok());
        let Some(realm) = realm.filter(|realm| self.may_be_asked(realm)) else {
            return Ok(None);
        };
        let mut query = vec![("scope", self.scope.clone())];
        query.extend(param("service").map(|service| ("service", service)));
        let answer = ask(http, realm, query, secret).send().await;
        let answer = answer.map_err(request::broken)?;
        match answer.status() {
            StatusCode::OK => {}
            status if request::is_passing(status) => {
                let after = request::retry_after(answer.headers());
                let source = format!("its token server: {}", request::refusal(answer).await).into();
                return Err(Trouble::Passing { source, after });
            }
            _ => return Ok(None),
        }
        let bytes = request::body(answer, MAX_TOKEN).await?;
        let Ok(answer) = serde_json::from_slice::<Token>(&bytes) else {
            return Err(Trouble::passing(
                "its token server does not answer with a token",
            ));
        };
        Ok(match answer.token.is_empty() {
            true => bearer(&answer.access_token),
            false => bearer(&answer.token),
        })
    }

    /// Passwords go by TLS, or to this machine when the registry is on it.
    fn may_be_asked(&self, realm: &Url) -> bool {
        let local =
            || request::is_local(&self.host) && realm.host_str().is_some_and(request::is_local);
        realm.scheme() == "https" || local()
    }

    /// With what we tried, or what to do.
    fn how(&self) -> String {
        let origins: Vec<&str> = self.logins.iter().map(|login| &*login.origin).collect();
        match (&origins[..], &self.helper) {
            ([], Some(helper)) => format!(
                "without credentials, and {helper} leaves them to a credential helper, which is not run; put them under auths there, or into a Secret that the template names in spec.imagePullSecrets"
            ),
            ([], None) => "without credentials; name a Secret with them in the template's spec.imagePullSecrets, or give the node a docker configuration (--docker-config)".to_owned(),
            (origins, _) => format!("with the credentials of {}", origins.join(", ")),
        }
    }
}

fn ask(
    http: &reqwest::Client,
    realm: Url,
    query: Vec<(&str, String)>,
    secret: Option<&Secret>,
) -> RequestBuilder {
    match secret {
        Some(Secret::Refresh(token)) => {
            let mut form = realm.clone();
            form.set_query(None);
            form.query_pairs_mut()
                .extend_pairs(&query)
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", CLIENT)
                .append_pair("refresh_token", token);
            let body = form.query().unwrap_or_default().to_owned();
            http.post(realm)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body)
        }
        Some(Secret::Password { user, password }) => http
            .get(realm)
            .query(&query)
            .basic_auth(user, Some(password)),
        Some(Secret::Token(_)) | None => http.get(realm).query(&query),
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}")).filter(|_| !token.is_empty())
}

/// Not shown by anybody's `Debug`.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
