//! Keys that a security token service gives for a token, as pods of managed Kubernetes get them.

use super::harness::{Dev, eventually};
use super::objects::{BUCKET, apply, ready};
use crate::parts::server::Server;
use crate::parts::weed;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const ROLE: &str = "arn:aws:iam::role/Node";
const AUDIENCE: &str = "ate";

/// Who says whose token it is, as OpenID Connect has it: a key, and where its public half can be read.
struct Issuer {
    key: EcdsaKeyPair,
    address: SocketAddr,
}

impl Issuer {
    fn start() -> Issuer {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Uncompressed: 4, x, y.
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let text = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        let public = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "one", "x": text(x), "y": text(y)});
        let keys = json!({ "keys": [public] }).to_string();
        std::thread::spawn(move || {
            for mut connection in listener.incoming().map_while(Result::ok) {
                let _ = connection.read(&mut [0; 4096]);
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    keys.len()
                );
                let _ = connection.write_all((head + &keys).as_bytes());
            }
        });
        Issuer { key, address }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A token of the node agent (RFC 7519), for an hour.
    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let claims = json!({
            "iss": self.url(), "sub": "system:serviceaccount:ate-system:atelet", "aud": AUDIENCE,
            "iat": now.as_secs(), "exp": now.as_secs() + 3600,
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = json!({"alg": "ES256", "typ": "JWT", "kid": "one"});
        let signed = format!("{}.{}", part(head), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature.unwrap().as_ref())
        )
    }

    /// What the service is to believe: our tokens, for a role that may do all to buckets.
    fn roles(&self) -> Value {
        let provider = json!({"issuer": self.url(), "clientId": AUDIENCE, "jwksUri": format!("{}/keys", self.url())});
        let allow = |statement: Value| json!({"Version": "2012-10-17", "Statement": [statement]});
        let all =
            allow(json!({"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}));
        let trust = allow(json!({
            "Effect": "Allow", "Principal": {"Federated": "*"}, "Action": ["sts:AssumeRoleWithWebIdentity"],
        }));
        json!({
            "sts": {"tokenDuration": "1h", "issuer": "weed", "signingKey": STANDARD.encode([7; 32])},
            "providers": [{"name": "oidc", "type": "oidc", "enabled": true, "config": provider}],
            "policy": {"defaultEffect": "Deny", "storeType": "memory"},
            "policies": [{"name": "All", "document": all}],
            "roles": [{"roleName": "Node", "roleArn": ROLE, "trustPolicy": trust, "attachedPolicies": ["All"]}],
        })
    }
}

/// By the server's own account, as soon as it answers.
fn make_bucket(server: &str) {
    let account = format!("user = \"{}:{}\"", weed::ACCESS_KEY, weed::SECRET_KEY);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), account).unwrap();
    eventually("there is a bucket", || {
        let made = Command::new("curl")
            .args(["--silent", "--fail", "--max-time", "5", "--request", "PUT"])
            .args(["--aws-sigv4", "aws:amz:us-east-1:s3"])
            .args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
            .arg("--config")
            .arg(file.path())
            .arg(format!("{server}/{BUCKET}"))
            .status();
        made.unwrap().success().then_some(())
    });
}

#[test]
fn an_actor_sleeps_with_keys_that_a_token_was_given_for() {
    let dir = tempfile::tempdir().unwrap();
    let (token, roles) = (dir.path().join("token"), dir.path().join("roles.json"));
    let issuer = Issuer::start();
    std::fs::write(&token, issuer.token()).unwrap();
    std::fs::write(&roles, issuer.roles().to_string()).unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let server = Server::start(|address| weed::command(&data, address, Some(&roles)));
    let url = format!("http://{}", server.address());
    make_bucket(&url);
    let dev = Dev::start_with(
        &["--s3-endpoint", &url],
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", ROLE),
            ("AWS_ENDPOINT_URL_STS", &url),
            ("AWS_REGION", "us-east-1"),
        ],
    );
    apply(&dev, &format!("s3://{BUCKET}"));
    ready(&dev);
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));
    dev.plugin(&["suspend", "a"]);
    assert_eq!(dev.visit("a"), (2, 2));
}
