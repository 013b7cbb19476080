//! The logs of an actor's containers, as a stream.

use super::files::Identity;
use super::outcome::Failure;
use crate::proto::atenode::{LogsChunk, LogsRequest};
use crate::sandbox::logs::{path, rotated_path};
use futures::stream::{self, BoxStream, StreamExt};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// Most bytes of one chunk.
const CHUNK: usize = 64 << 10;
/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long a log is followed; the caller asks again.
const FOLLOW_LIMIT: Duration = Duration::from_secs(3600);

/// Where reading goes on.
struct Reader {
    dir: PathBuf,
    container: String,
    /// What is to be sent before anything is read: the end of what there was.
    start: Vec<u8>,
    offset: u64,
    until: Option<Instant>,
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
    let containers = std::fs::read_to_string(dir.join("containers")).unwrap_or_default();
    let wanted = match &*request.container {
        "" => containers.lines().next(),
        wanted => containers.lines().find(|c| *c == wanted),
    };
    let Some(container) = wanted else {
        return Err(missing(format!(
            "container {} of {name}",
            request.container
        )));
    };
    let logs = dir.join("logs");
    let (start, offset) =
        kept(&logs, container, request.tail_lines).map_err(|e| missing(format!("{name}: {e}")))?;
    let reader = Reader {
        dir: logs,
        container: container.to_owned(),
        start,
        offset,
        until: request.follow.then(|| Instant::now() + FOLLOW_LIMIT),
    };
    Ok(stream::try_unfold(reader, next).boxed())
}

/// What there is, cut to its last lines, and the offset in the present file where it ends.
fn kept(dir: &Path, container: &str, lines: u32) -> io::Result<(Vec<u8>, u64)> {
    let mut content = Vec::new();
    for file in [rotated_path(dir, container), path(dir, container)] {
        match File::open(file) {
            Ok(mut file) => {
                let before = content.len();
                file.read_to_end(&mut content)?;
                if file_is_present(&mut file, dir, container)? {
                    let offset = (content.len() - before) as u64;
                    return Ok((tail(content, lines), offset));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok((tail(content, lines), 0))
}

fn file_is_present(file: &mut File, dir: &Path, container: &str) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let present = std::fs::metadata(path(dir, container));
    let inode = file.metadata()?.ino();
    Ok(present.is_ok_and(|present| present.ino() == inode))
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
    if !reader.start.is_empty() {
        let rest = reader.start.split_off(reader.start.len().min(CHUNK));
        let data = std::mem::replace(&mut reader.start, rest);
        return Ok(Some((LogsChunk { data }, reader)));
    }
    loop {
        let data = reader
            .read()
            .map_err(|e| Status::internal(format!("cannot read the log: {e}")))?;
        if !data.is_empty() {
            return Ok(Some((LogsChunk { data }, reader)));
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
    /// What was written since; little at a time, so it does not keep others waiting.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut file = match File::open(path(&self.dir, &self.container)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        // Cut by a rotation since.
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut data = Vec::new();
        file.take(CHUNK as u64).read_to_end(&mut data)?;
        self.offset += data.len() as u64;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        std::fs::write(rotated_path(&logs, "app"), "0\n").unwrap();
        std::fs::write(&file, "1\n2\n").unwrap();
        let actor = Identity {
            uid: "u1".into(),
            ..Identity::default()
        };
        let mut request = LogsRequest {
            tail_lines: 3,
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
        crate::sandbox::logs::rotate(&logs, "app", 1).unwrap();
        log.write_all(b"4\n").unwrap();
        assert_eq!(read().await, "4\n");

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
