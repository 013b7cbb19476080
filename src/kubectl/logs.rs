//! Copies an actor's log to stdout as it comes.

use std::io::ErrorKind;

use futures::AsyncBufReadExt;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::args::Logs;
use super::client::{Actors, LogQuery};
use super::error::Error;

/// Copies until the log ends (with `--follow`: until the server ends it, or Ctrl-C ends us). A reader of ours that goes
/// away ends it too, and is no error.
pub(super) async fn copy(
    actors: &Actors,
    what: &Logs,
    mut to: impl AsyncWrite + Unpin,
) -> Result<(), Error> {
    let query = LogQuery {
        follow: what.follow,
        container: what.container.as_deref(),
        tail: what.tail,
    };
    let mut log = std::pin::pin!(actors.log(&what.name, &query).await?);
    loop {
        let chunk = log.fill_buf().await;
        let chunk = chunk.map_err(|source| Error::BrokeOff {
            name: what.name.clone(),
            source,
        })?;
        if chunk.is_empty() {
            return Ok(());
        }
        let length = chunk.len();
        let mut written = to.write_all(chunk).await;
        if written.is_ok() {
            written = to.flush().await; // a line is wanted when it was written, not when a buffer is full
        }
        match written {
            Ok(()) => log.consume_unpin(length),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Error::Output(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::AsyncReadExt;

    use super::super::stub::Stub;
    use super::*;

    const SOON: std::time::Duration = std::time::Duration::from_secs(10);

    fn logs(follow: bool) -> Logs {
        Logs {
            name: "alice".to_owned(),
            follow,
            container: Some("browser".to_owned()),
            tail: Some(2),
        }
    }

    #[tokio::test]
    async fn a_log_is_copied_byte_for_byte() {
        let stub = Stub::start(vec![]).await;
        stub.log.send(b"one\n\xff").await.unwrap();
        stub.log.send(b"two").await.unwrap();
        stub.log.end();
        let mut out = Vec::new();
        copy(&stub.actors(), &logs(false), &mut out).await.unwrap();
        assert_eq!(out, b"one\n\xfftwo");
        let path = "/apis/runtime.ate.dev/v1alpha1/namespaces/team-a/actors/alice/log";
        assert_eq!(
            stub.asked(),
            [format!("GET {path}?container=browser&tailLines=2")]
        );
    }

    #[tokio::test]
    async fn a_followed_line_is_seen_before_the_next_is_written() {
        let stub = Stub::start(vec![]).await;
        let (mut reader, writer) = tokio::io::duplex(64);
        let writer = tokio::io::BufWriter::new(writer);
        let actors = stub.actors();
        let copying = tokio::spawn(async move { copy(&actors, &logs(true), writer).await });
        for line in [b"first\n", b"later\n"] {
            stub.log.send(line).await.unwrap();
            let mut seen = [0; 6];
            let reading = tokio::time::timeout(SOON, reader.read_exact(&mut seen));
            reading.await.expect("the line is held back").unwrap();
            assert_eq!(&seen, line);
        }
        stub.log.end();
        copying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_leaves_ends_it_well() {
        let stub = Stub::start(vec![]).await;
        let (reader, writer) = tokio::io::duplex(64);
        drop(reader);
        stub.log.send(b"unread\n").await.unwrap();
        copy(&stub.actors(), &logs(true), writer).await.unwrap();
    }

    #[tokio::test]
    async fn a_log_that_breaks_off_is_an_error_and_so_is_a_refusal() {
        let stub = Stub::start(vec![]).await;
        let (mut reader, writer) = tokio::io::duplex(64);
        let actors = stub.actors();
        let copying = tokio::spawn(async move { copy(&actors, &logs(true), writer).await });
        stub.log.send(b"half").await.unwrap();
        reader.read_exact(&mut [0; 4]).await.unwrap();
        stub.log.fail().await;
        let error = copying.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::BrokeOff { .. }), "{error:?}");

        let gone = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "gone"});
        let stub = Stub::start(vec![gone]).await;
        let error = copy(&stub.actors(), &logs(false), &mut Vec::new())
            .await
            .unwrap_err();
        assert_eq!(error.explained(), "Error from server (NotFound): gone");
    }
}
