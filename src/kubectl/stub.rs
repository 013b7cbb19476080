//! A server for the tests: answers each question with the next of the given objects, the last one for ever.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::client::Actors;

type Piece = std::io::Result<Vec<u8>>;

pub(super) struct Stub {
    address: SocketAddr,
    script: Arc<Script>,
    pub(super) log: Log,
    server: tokio::task::JoinHandle<()>,
}

/// The writing end of the one log that the server serves.
pub(super) struct Log(Mutex<Option<mpsc::Sender<Piece>>>);

struct Script {
    answers: Mutex<Vec<Value>>,
    asked: Mutex<Vec<String>>,
    log: Mutex<Option<mpsc::Receiver<Piece>>>,
}

impl Stub {
    /// Objects of kind Status are answered with their code; without any answer, the log is.
    pub(super) async fn start(mut answers: Vec<Value>) -> Stub {
        answers.reverse();
        let (sender, receiver) = mpsc::channel(4);
        let log = Mutex::new(Some(receiver));
        let script = Arc::new(Script {
            answers: Mutex::new(answers),
            asked: Mutex::default(),
            log,
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(script.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Stub {
            address,
            script,
            log: Log(Mutex::new(Some(sender))),
            server,
        }
    }

    pub(super) fn actors(&self) -> Actors {
        Actors::of(self.address)
    }

    /// The questions so far: method, path and query.
    pub(super) fn asked(&self) -> Vec<String> {
        self.script.asked.lock().unwrap().clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Log {
    pub(super) async fn send(&self, bytes: &[u8]) -> Result<(), mpsc::error::SendError<Piece>> {
        self.sender().send(Ok(bytes.to_vec())).await
    }

    pub(super) async fn fail(&self) {
        self.sender()
            .send(Err(std::io::Error::other("cut")))
            .await
            .unwrap();
    }

    pub(super) fn end(&self) {
        self.0.lock().unwrap().take();
    }

    fn sender(&self) -> mpsc::Sender<Piece> {
        self.0.lock().unwrap().clone().unwrap()
    }
}

async fn answer(State(script): State<Arc<Script>>, request: Request) -> Response {
    script
        .asked
        .lock()
        .unwrap()
        .push(format!("{} {}", request.method(), request.uri()));
    let mut answers = script.answers.lock().unwrap();
    let next = if answers.len() > 1 {
        answers.pop()
    } else {
        answers.last().cloned()
    };
    match next {
        Some(object) => {
            let code = object["code"].as_u64().unwrap_or(200);
            (
                StatusCode::from_u16(code as u16).unwrap(),
                axum::Json(object),
            )
                .into_response()
        }
        None => {
            let pieces = script.log.lock().unwrap().take().unwrap();
            Body::from_stream(ReceiverStream::new(pieces).map(|piece| piece)).into_response()
        }
    }
}
