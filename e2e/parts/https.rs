//! An HTTPS server whose answers a test writes byte by byte, so that it can also break off, stall and redirect.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Longest head of a request.
const MAX_HEAD: usize = 16 << 10;

pub type Connection = StreamOwned<ServerConnection, TcpStream>;

pub struct Https {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Https {
    /// Serves with `chain` and `key` (PEM). `answer` gets the path of each request and writes what it likes; then the
    /// connection ends without a closing alert, as when a server dies.
    pub fn start(
        chain: &str,
        key: &str,
        answer: impl Fn(&str, &mut Connection) + Send + Sync + 'static,
    ) -> Https {
        let config = Arc::new(config(chain, key));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Https {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            ended: Arc::default(),
        };
        let (requests, ended) = (server.requests.clone(), server.ended.clone());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let connection = ServerConnection::new(config.clone()).unwrap();
                let mut connection = StreamOwned::new(connection, stream);
                let (requests, answer) = (requests.clone(), answer.clone());
                std::thread::spawn(move || {
                    if let Some(path) = request(&mut connection) {
                        requests.fetch_add(1, Ordering::SeqCst);
                        answer(&path, &mut connection);
                        let _ = connection.flush();
                    }
                });
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Https {
    /// Ends the thread that waits for connections.
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn config(chain: &str, key: &str) -> ServerConfig {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

/// The path of the request; `None` when the client does not get that far.
fn request(connection: &mut Connection) -> Option<String> {
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        connection.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    Some(head.split(' ').nth(1)?.to_owned())
}

/// An answer with this body, announced as `length` bytes.
pub fn respond(connection: &mut Connection, status: &str, body: &[u8], length: usize) {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
    let _ = connection.write_all(head.as_bytes());
    let _ = connection.write_all(body);
}

/// Sends nothing more until the client has gone.
#[allow(dead_code, reason = "not every suite that includes this file stalls")]
pub fn stall(connection: &mut Connection) {
    let _ = connection.flush();
    let _ = connection.read(&mut [0]);
}
