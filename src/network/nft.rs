//! One call of `nft -f -`: a ruleset is applied as a whole or not at all.

use super::Error;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// It takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What is read of a complaint.
const MAX_COMPLAINT: u64 = 4096;

/// Applies `ruleset` in the network namespace of the calling thread.
pub(super) async fn apply(ruleset: &str) -> Result<(), Error> {
    let failed = |source| Error::NoNft { source };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let stderr = child.stderr.take();
    let exchange = async {
        if let Some(mut stdin) = stdin {
            // It may complain without having read all.
            let _ = stdin.write_all(ruleset.as_bytes()).await;
        }
        let mut complaint = Vec::new();
        if let Some(stderr) = stderr {
            let mut bounded = stderr.take(MAX_COMPLAINT);
            bounded.read_to_end(&mut complaint).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, complaint))
    };
    let (status, complaint) = tokio::time::timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&complaint);
    Err(Error::Nft {
        message: complaint.lines().next().unwrap_or("no reason").to_owned(),
    })
}
