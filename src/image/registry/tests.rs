//! Registries that misbehave: a TCP server that answers each request as its script says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Patience;
use crate::image::testing::{Blobs, Layer, tree};
use crate::image::{Credentials, ImageError, ImageStore, UnpackedImage};

/// What a script does with one request.
enum Act {
    /// What a good registry answers.
    Serve,
    /// This status with these headers.
    Refuse(u16, String),
    /// A 200 with this document.
    Say(String),
    /// A good answer, cut after so many bytes of the body by closing.
    Cut(usize),
    /// As `Cut`, by a reset.
    Reset(usize),
    /// As `Cut`, and then silence.
    Stall(usize),
    /// The whole, whatever range was asked for.
    Whole,
    /// Bytes without end.
    Endless,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    authorization: String,
    range: String,
    /// How often this path was asked for, this time included.
    time: usize,
    body: String,
}

type Script = dyn Fn(&Asked) -> Act + Send + Sync;

struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(
        files: HashMap<String, Vec<u8>>,
        script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (files, script) = (Arc::new(files), Arc::new(script) as Arc<Script>);
        let log = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, files.clone(), script.clone(), log.clone()));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// One request of one connection.
async fn serve(
    mut stream: TcpStream,
    files: Arc<HashMap<String, Vec<u8>>>,
    script: Arc<Script>,
    log: Arc<Mutex<Vec<Asked>>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |name: &str| {
        let line = head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        });
        line.unwrap_or_default().to_owned()
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let asked = {
        let mut log = log.lock().unwrap();
        let time = log.iter().filter(|a| a.path == path).count() + 1;
        let asked = Asked {
            path,
            authorization: header("authorization"),
            range: header("range"),
            time,
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        log.push(asked.clone());
        asked
    };
    let name = asked.path.rsplit(':').next().unwrap_or_default();
    let whole = files.get(name).cloned().unwrap_or_default();
    let from = asked
        .range
        .strip_prefix("bytes=")
        .and_then(|r| r.strip_suffix('-'));
    let from: usize = from.map_or(0, |from| from.parse().unwrap());
    let good = |from: usize| {
        let rest = &whole[from.min(whole.len())..];
        let status = match from {
            0 => "200 OK".to_owned(),
            _ => format!(
                "206 Partial Content\r\ncontent-range: bytes {from}-{}/{}",
                whole.len() - 1,
                whole.len()
            ),
        };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            rest.len()
        )
        .into_bytes();
        answer.extend_from_slice(rest);
        (answer.len() - rest.len(), answer)
    };
    match script(&asked) {
        Act::Serve if !files.contains_key(name) => {
            stream
                .write_all(
                    b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                )
                .await?
        }
        Act::Serve => stream.write_all(&good(from).1).await?,
        Act::Whole => stream.write_all(&good(0).1).await?,
        Act::Refuse(status, headers) => {
            let words = r#"{"errors": [{"code": "SAID", "message": "so"}]}"#;
            let answer = format!(
                "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{words}",
                words.len()
            );
            stream.write_all(answer.as_bytes()).await?;
        }
        Act::Say(text) => {
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            );
            stream.write_all(answer.as_bytes()).await?;
        }
        Act::Cut(bytes) | Act::Reset(bytes) | Act::Stall(bytes) if bytes > whole.len() => {
            stream.write_all(&good(from).1).await?;
        }
        Act::Cut(bytes) => {
            let (head, answer) = good(from);
            stream.write_all(&answer[..head + bytes]).await?;
        }
        Act::Reset(bytes) => {
            let (head, answer) = good(from);
            stream.write_all(&answer[..head + bytes]).await?;
            stream.set_zero_linger()?;
            return Ok(());
        }
        Act::Stall(bytes) => {
            let (head, answer) = good(from);
            stream.write_all(&answer[..head + bytes]).await?;
            std::future::pending::<()>().await;
        }
        Act::Endless => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
                .await?;
            loop {
                stream.write_all(&[0; 4096]).await?;
            }
        }
    }
    stream.shutdown().await
}

/// Short of breath: tests wait for counts, not for time.
fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        silence: Duration::from_millis(300),
        retries: 4,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_secs(20),
    }
}

/// An image of one layer, and a store that has nothing yet.
struct World {
    dir: tempfile::TempDir,
    files: HashMap<String, Vec<u8>>,
    digest: String,
    layer: String,
    store: ImageStore,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(&dir.path().join("layout"));
        let layer = Layer::new().file("a", &"x".repeat(100_000)).plain();
        let hex = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&layer));
        let image = blobs.image(vec![layer]);
        let of = |name: String| {
            (
                name.clone(),
                std::fs::read(blobs.dir.join("blobs/sha256").join(&name)).unwrap(),
            )
        };
        let files = tree(&blobs.dir.join("blobs/sha256"))
            .into_iter()
            .map(of)
            .collect();
        let store = dir.path().join("store");
        Self {
            files,
            digest: image["digest"].as_str().unwrap().to_owned(),
            layer: hex,
            store: ImageStore::open_with(&store, patience()).await.unwrap(),
            dir,
        }
    }

    async fn pull(
        &self,
        server: &Server,
        credentials: &Credentials,
    ) -> Result<UnpackedImage, ImageError> {
        let reference = format!("{}/team/app@{}", server.address, self.digest);
        let image = self
            .store
            .ensure(&reference.parse().unwrap(), credentials)
            .await;
        if image.is_err() {
            for part in ["images", "tmp"] {
                assert_eq!(
                    tree(&self.dir.path().join("store").join(part)),
                    Vec::<String>::new()
                );
            }
        }
        image
    }

    /// Pulls without credentials from a registry that does what `script` says with requests for the layer.
    async fn with_layer(
        &self,
        script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> (Result<UnpackedImage, ImageError>, Vec<Asked>) {
        let layer = self.layer.clone();
        let script = move |asked: &Asked| match asked.path.ends_with(&layer) {
            true => script(asked),
            false => Act::Serve,
        };
        let server = Server::start(self.files.clone(), script).await;
        let pulled = self.pull(&server, &Credentials::default()).await;
        let mut asked = server.asked();
        asked.retain(|a| a.path.ends_with(&self.layer));
        (pulled, asked)
    }
}

fn whole(pulled: Result<UnpackedImage, ImageError>) {
    let file = pulled.unwrap().rootfs.join("a");
    assert_eq!(std::fs::read(file).unwrap(), vec![b'x'; 100_000]);
}

fn said(pulled: Result<UnpackedImage, ImageError>) -> String {
    crate::telemetry::chain(&pulled.unwrap_err())
}

#[tokio::test]
async fn a_layer_goes_on_where_it_broke_off() {
    for broken in [Act::Cut as fn(usize) -> Act, Act::Reset, Act::Stall] {
        let world = World::new().await;
        let (pulled, asked) = world
            .with_layer(move |a| {
                if a.time == 1 {
                    broken(60_000)
                } else {
                    Act::Serve
                }
            })
            .await;
        whole(pulled);
        assert_eq!(asked.len(), 2);
        let from: usize = asked[1].range["bytes=".len()..]
            .trim_end_matches('-')
            .parse()
            .unwrap();
        // A reset may take what was sent before it.
        assert!(from <= 60_000 && asked[0].range.is_empty(), "{asked:?}");
    }
}

#[tokio::test]
async fn a_registry_without_ranges_starts_over() {
    let world = World::new().await;
    let (pulled, asked) = world
        .with_layer(|a| {
            if a.time == 1 {
                Act::Cut(60_000)
            } else {
                Act::Whole
            }
        })
        .await;
    whole(pulled);
    assert_eq!(asked[1].range, "bytes=60000-");
}

#[tokio::test]
async fn what_never_gets_better_ends() {
    for (script, tries, words) in [
        (
            Box::new(|_: &Asked| Act::Cut(0)) as Box<Script>,
            5,
            "is not available",
        ),
        (Box::new(|_: &Asked| Act::Reset(0)), 5, "is not available"),
        (Box::new(|_: &Asked| Act::Stall(10)), 5, "is not available"),
        (
            Box::new(|_: &Asked| Act::Refuse(500, String::new())),
            5,
            "500 Internal Server Error: SAID so",
        ),
        (
            Box::new(|_: &Asked| Act::Refuse(429, "retry-after: 0\r\n".into())),
            5,
            "429 Too Many Requests: SAID so, try again after 0 s",
        ),
        (
            Box::new(|_: &Asked| Act::Refuse(429, "retry-after: 3600\r\n".into())),
            1,
            "try again after 3600 s",
        ),
        (
            Box::new(|_: &Asked| Act::Refuse(418, String::new())),
            1,
            "418",
        ),
        (
            Box::new(|_: &Asked| {
                Act::Refuse(307, "location: http://registry.example/x\r\n".into())
            }),
            1,
            "redirects to plain HTTP",
        ),
        (
            Box::new(|_: &Asked| Act::Endless),
            1,
            "has other content than its digest",
        ),
        (
            Box::new(|_: &Asked| Act::Refuse(401, String::new())),
            1,
            "does not allow pulling",
        ),
        (
            Box::new(|_: &Asked| Act::Refuse(404, String::new())),
            1,
            "not found",
        ),
    ] {
        let world = World::new().await;
        let (pulled, asked) = world.with_layer(script).await;
        let said = said(pulled);
        assert!(said.contains(words), "{words}: {said}");
        assert_eq!(asked.len(), tries, "{said}");
    }
}

#[tokio::test]
async fn documents_are_bounded_and_asked_for_again() {
    let world = World::new().await;
    let server = Server::start(world.files.clone(), |a| match a.time {
        1 => Act::Refuse(503, String::new()),
        2 => Act::Cut(10),
        _ => Act::Serve,
    });
    whole(world.pull(&server.await, &Credentials::default()).await);

    let world = World::new().await;
    let server = Server::start(world.files.clone(), |_| Act::Endless).await;
    let said = said(world.pull(&server, &Credentials::default()).await);
    assert!(said.contains("over 4194304 bytes"), "{said}");
}

fn login(server: &Server, auth: serde_json::Value) -> Credentials {
    let mut credentials = Credentials::default();
    let config = json!({"auths": {&server.address: auth}});
    credentials
        .add("Secret team/s", config.to_string().as_bytes())
        .unwrap();
    credentials
}

/// Lets in who shows what `token` gives for the request's `Authorization` or body, and later ones from the first expired on.
fn guarded(door: &'static str) -> impl Fn(&Asked) -> Act + Send + Sync {
    move |asked: &Asked| {
        let basic = format!("Basic {}", STANDARD.encode("me:hunter2"));
        if asked.path.starts_with("/token") {
            assert!(
                asked.path.contains("scope=repository%3Ateam%2Fapp%3Apull")
                    || asked.body.contains("scope=repository%3Ateam%2Fapp%3Apull")
            );
            let good = asked.authorization == basic || asked.body.contains("refresh_token=hunter2");
            return match good {
                true => Act::Say(json!({"access_token": format!("t{}", asked.time)}).to_string()),
                false => Act::Refuse(401, String::new()),
            };
        }
        let good = match door {
            "Basic" => asked.authorization == basic,
            // The first token is good for one request.
            _ => {
                asked.authorization == "Bearer t2"
                    || asked.authorization == "Bearer t1" && asked.path.contains("manifests")
            }
        };
        match good {
            true => Act::Serve,
            false => Act::Refuse(401, format!("www-authenticate: {door}\r\n")),
        }
    }
}

#[tokio::test]
async fn passwords_and_tokens_open_a_registry_and_are_not_shown() {
    let password = || json!({"auth": STANDARD.encode("me:hunter2")});
    let world = World::new().await;
    let server = Server::start(world.files.clone(), guarded("Basic")).await;
    for (bad, words) in [
        (Credentials::default(), "spec.imagePullSecrets"),
        (
            login(&server, json!({"username": "me", "password": "hunter3"})),
            "with the credentials of Secret team/s",
        ),
        (
            login(&server, json!({"registrytoken": "hunter3"})),
            "with the credentials of Secret team/s",
        ),
    ] {
        let error = world.pull(&server, &bad).await.unwrap_err();
        let said = format!("{} {error:?}", crate::telemetry::chain(&error));
        assert!(matches!(error, ImageError::NotAllowed { .. }), "{said}");
        assert!(said.contains(words) && !said.contains("hunter"), "{said}");
    }
    // The first that opens it, after one that does not.
    let mut two = login(&server, json!({"username": "me", "password": "hunter3"}));
    let good = json!({"auths": {&server.address: password()}}).to_string();
    two.add("node", good.as_bytes()).unwrap();
    whole(world.pull(&server, &two).await);

    for secret in [password(), json!({"identitytoken": "hunter2"})] {
        let world = World::new().await;
        // The realm is on the registry's own address, which is not known before it listens.
        let address: Arc<std::sync::OnceLock<String>> = Arc::default();
        let known = address.clone();
        let server = Server::start(world.files.clone(), move |asked| {
            match guarded("Bearer")(asked) {
                Act::Refuse(401, _) if !asked.path.starts_with("/token") => {
                    let realm = format!(
                        "www-authenticate: Bearer realm=\"http://{}/token\",service=\"s\"\r\n",
                        known.get().unwrap()
                    );
                    Act::Refuse(401, realm)
                }
                act => act,
            }
        })
        .await;
        address.set(server.address.clone()).unwrap();
        whole(world.pull(&server, &login(&server, secret)).await);
        let tokens = server
            .asked()
            .iter()
            .filter(|a| a.path.starts_with("/token"))
            .count();
        assert_eq!(tokens, 2, "one, and another when it had expired");
    }
}

#[tokio::test]
async fn a_password_goes_to_no_server_without_tls() {
    let world = World::new().await;
    let thief = Server::start(HashMap::new(), |_| {
        Act::Say(json!({"token": "t"}).to_string())
    })
    .await;
    // By a name that is not this machine's, and resolves to it.
    let realm = format!(
        "www-authenticate: Bearer realm=\"http://registry.example:{}/token\"\r\n",
        thief.address.rsplit(':').next().unwrap()
    );
    let server = Server::start(world.files.clone(), move |_| {
        Act::Refuse(401, realm.clone())
    })
    .await;
    let credentials = login(&server, json!({"username": "me", "password": "hunter2"}));
    let error = world.pull(&server, &credentials).await.unwrap_err();
    assert!(matches!(error, ImageError::NotAllowed { .. }), "{error:?}");
    assert!(thief.asked().is_empty());
}

#[tokio::test]
async fn a_token_server_that_is_busy_is_asked_again() {
    let world = World::new().await;
    let address: Arc<std::sync::OnceLock<String>> = Arc::default();
    let known = address.clone();
    let server = Server::start(world.files.clone(), move |asked| {
        match (
            asked.path.starts_with("/token"),
            &*asked.authorization,
            asked.time,
        ) {
            (true, _, 1) => Act::Refuse(429, "retry-after: 0\r\n".into()),
            (true, _, _) => Act::Say(json!({"token": "everybody"}).to_string()),
            (false, "Bearer everybody", _) => Act::Serve,
            (false, _, _) => Act::Refuse(
                401,
                format!(
                    "www-authenticate: Bearer realm=\"http://{}/token\"\r\n",
                    known.get().unwrap()
                ),
            ),
        }
    })
    .await;
    address.set(server.address.clone()).unwrap();
    whole(world.pull(&server, &Credentials::default()).await);
}
