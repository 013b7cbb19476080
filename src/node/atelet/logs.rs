//! The logs of an actor's containers, as a stream.

use super::files::Identity;
use super::outcome::Failure;
use crate::proto::atenode::logs_request::Start;
use crate::proto::atenode::{LogsChunk, LogsRequest};
use crate::sandbox::logs::{end, read};
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// In an actor's directory: its containers, and after a tab where the log of each was when the actor came here last.
pub(super) const CONTAINERS: &str = "containers";
/// Most bytes of one chunk.
const CHUNK: u64 = 64 << 10;
/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long a log is followed; the caller asks again.
const FOLLOW_LIMIT: Duration = Duration::from_secs(3600);

/// Where reading goes on.
struct Reader {
    dir: PathBuf,
    container: String,
    /// What is to be sent before anything is read: the end of what there was, and the position after it.
    start: VecDeque<LogsChunk>,
    position: u64,
    until: Option<Instant>,
}

/// A line for each container, when an actor comes here.
pub(super) fn containers(logs: &Path, names: &[&str]) -> io::Result<String> {
    let line = |name: &&str| Ok(format!("{name}\t{}", end(logs, name)?));
    let lines: io::Result<Vec<String>> = names.iter().map(line).collect();
    Ok(lines?.join("\n"))
}

/// The log that `request` asks for, of the actor whose directory is `dir`.
pub(super) fn stream(
    dir: &Path,
    actor: &Identity,
    request: &LogsRequest,
) -> Result<BoxStream<'static, Result<LogsChunk, Status>>, Failure> {
    let missing = |what: String| Failure::NotFound(format!("this node has no logs of {what}"));
    let name = format!("{}/{}", actor.namespace, actor.name);
    let owner = std::fs::read_to_string(dir.join("uid")).unwrap_or_default();
    if owner != actor.uid {
        return Err(missing(name));
    }
    let containers = std::fs::read_to_string(dir.join(CONTAINERS)).unwrap_or_default();
    let mut containers = containers
        .lines()
        .map(|l| l.split_once('\t').unwrap_or((l, "")));
    let wanted = match &*request.container {
        "" => containers.next(),
        wanted => containers.find(|(c, _)| *c == wanted),
    };
    let Some((container, came)) = wanted else {
        return Err(missing(format!(
            "container {} of {name}",
            request.container
        )));
    };
    let mut reader = Reader {
        dir: dir.join("logs"),
        container: container.to_owned(),
        start: VecDeque::new(),
        position: 0,
        until: request.follow.then(|| Instant::now() + FOLLOW_LIMIT),
    };
    let begun = match request.start {
        None => reader.tail(0),
        Some(Start::TailLines(lines)) => reader.tail(lines),
        Some(Start::Here(_)) => {
            reader.position = came.parse().unwrap_or(0);
            Ok(())
        }
        Some(Start::Position(position)) => {
            reader.position = position;
            Ok(())
        }
    };
    begun.map_err(|e| missing(format!("{name}: {e}")))?;
    Ok(stream::try_unfold(reader, next).boxed())
}

/// The last `lines` lines; 0 is all.
fn tail(mut content: Vec<u8>, lines: u32) -> Vec<u8> {
    let Some(nth) = lines.checked_sub(1) else {
        return content;
    };
    let body = content.strip_suffix(b"\n").unwrap_or(&content);
    let mut ends = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n');
    if let Some((at, _)) = ends.nth(nth as usize) {
        content.drain(..=at);
    }
    content
}

async fn next(mut reader: Reader) -> Result<Option<(LogsChunk, Reader)>, Status> {
    if let Some(chunk) = reader.start.pop_front() {
        return Ok(Some((chunk, reader)));
    }
    loop {
        let chunk = reader
            .read()
            .map_err(|e| Status::internal(format!("cannot read the log: {e}")))?;
        if let Some(chunk) = chunk {
            return Ok(Some((chunk, reader)));
        }
        match reader.until {
            Some(until) if Instant::now() < until && reader.dir.is_dir() => {
                tokio::time::sleep(POLL).await;
            }
            _ => return Ok(None),
        }
    }
}

impl Reader {
    /// Begins with what there is, cut to its last lines.
    fn tail(&mut self, lines: u32) -> io::Result<()> {
        let mut content = Vec::new();
        let until = end(&self.dir, &self.container)?;
        while self.position < until
            && let Some(chunk) = self.read()?
        {
            content.extend(chunk.data);
        }
        let content = tail(content, lines);
        let mut position = self.position - content.len() as u64;
        for data in content.chunks(CHUNK as usize) {
            position += data.len() as u64;
            let data = data.to_vec();
            self.start.push_back(LogsChunk { data, position });
        }
        Ok(())
    }

    /// What was written since; little at a time, so it does not keep others waiting.
    fn read(&mut self) -> io::Result<Option<LogsChunk>> {
        let (data, from) = match read(&self.dir, &self.container, self.position, CHUNK) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        self.position = from + data.len() as u64;
        let position = self.position;
        Ok(Some(LogsChunk { data, position }).filter(|chunk| !chunk.data.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::atenode::Here;
    use crate::sandbox::logs::{path, rotate};
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn tails() {
        for (lines, want) in [
            (0, "a\nb\nc\n"),
            (1, "c\n"),
            (2, "b\nc\n"),
            (9, "a\nb\nc\n"),
        ] {
            assert_eq!(
                tail(b"a\nb\nc\n".to_vec(), lines),
                want.as_bytes(),
                "{lines}"
            );
        }
        assert_eq!(tail(b"a\nb".to_vec(), 1), b"b");
        assert_eq!(tail(vec![], 1), b"");
    }

    #[tokio::test]
    async fn a_followed_log_goes_on_through_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        std::fs::write(dir.path().join("uid"), "u1").unwrap();
        std::fs::write(dir.path().join("containers"), "app\nside").unwrap();
        let file = path(&logs, "app");
        std::fs::write(&file, "-0\n").unwrap();
        rotate(&logs, "app", 2).unwrap();
        std::fs::write(&file, "1\n2\n").unwrap();
        let actor = Identity {
            uid: "u1".into(),
            ..Identity::default()
        };
        let mut request = LogsRequest {
            start: Some(Start::TailLines(3)),
            follow: true,
            ..LogsRequest::default()
        };
        let mut stream = stream(dir.path(), &actor, &request).unwrap();
        let mut read =
            async || String::from_utf8(stream.next().await.unwrap().unwrap().data).unwrap();
        assert_eq!(read().await, "0\n1\n2\n");
        let mut log = File::options().append(true).open(&file).unwrap();
        log.write_all(b"3\n").unwrap();
        assert_eq!(read().await, "3\n");
        // Nothing that was not read yet is lost with it.
        log.write_all(b"4\n").unwrap();
        rotate(&logs, "app", 4).unwrap();
        log.write_all(b"5 is longer than what was there\n").unwrap();
        assert_eq!(read().await, "4\n");
        assert_eq!(read().await, "5 is longer than what was there\n");

        let of = async |start| {
            let request = LogsRequest {
                start: Some(start),
                ..LogsRequest::default()
            };
            let chunks = super::stream(dir.path(), &actor, &request).unwrap();
            let chunks: Vec<_> = chunks.map(|chunk| chunk.unwrap().data).collect().await;
            String::from_utf8(chunks.concat()).unwrap()
        };
        assert_eq!(
            of(Start::Position(9)).await,
            "4\n5 is longer than what was there\n"
        );
        let list = containers(&logs, &["app", "side"]).unwrap();
        std::fs::write(dir.path().join(CONTAINERS), list).unwrap();
        log.write_all(b"6\n").unwrap();
        assert_eq!(of(Start::Here(Here {})).await, "6\n", "since it came here");
        assert_eq!(of(Start::TailLines(1)).await, "6\n");

        request.container = "none".into();
        assert!(super::stream(dir.path(), &actor, &request).is_err());
        let stranger = Identity {
            uid: "u2".into(),
            ..Identity::default()
        };
        request.container.clear();
        assert!(super::stream(dir.path(), &stranger, &request).is_err());
    }
}
