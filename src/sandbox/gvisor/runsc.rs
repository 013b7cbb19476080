//! One call of `runsc`: arguments in, answer or a useful line out, always within a bound.

use super::super::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// What is read of an answer or an error; the rest is of no use (a Go stack, mostly).
const MAX_OUTPUT: u64 = 64 << 10;
/// The longest line that is passed on of an error.
const MAX_MESSAGE: usize = 300;

/// A command of `runsc` and how long it may take.
pub(super) struct Call {
    pub name: &'static str,
    pub timeout: Duration,
}

/// Answers at once unless the machine is overloaded.
const fn quick(name: &'static str) -> Call {
    Call {
        name,
        timeout: Duration::from_secs(20),
    }
}

/// Reads or writes the memory of the sandbox, gigabytes perhaps.
const fn bulky(name: &'static str) -> Call {
    Call {
        name,
        timeout: Duration::from_secs(300),
    }
}

pub(super) const CREATE: Call = quick("create");
pub(super) const START: Call = quick("start");
pub(super) const STATE: Call = quick("state");
/// Of a container that has stopped: answers at once.
pub(super) const WAIT: Call = quick("wait");
pub(super) const PAUSE: Call = quick("pause");
pub(super) const RESUME: Call = quick("resume");
pub(super) const DELETE: Call = quick("delete");
pub(super) const CHECKPOINT: Call = bulky("checkpoint");
pub(super) const RESTORE: Call = bulky("restore");

/// The runtime with the flags that all calls on one sandbox share.
#[derive(Debug, Clone)]
pub(super) struct Runsc {
    /// The executable.
    pub exe: PathBuf,
    /// Its state directory, this slot's alone: ids match by prefix within it.
    pub root: PathBuf,
    /// Where the writable layer of the root filesystem goes.
    pub overlay: PathBuf,
    /// File for the messages of one call.
    pub log: PathBuf,
}

impl Runsc {
    /// Calls `runsc CALL ARGS`; its stdout is the answer.
    pub async fn call<S: AsRef<OsStr>>(
        &self,
        call: &Call,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, Error> {
        let mut answer = tempfile::tempfile().map_err(Error::io("cannot make a temporary file"))?;
        let stdout = answer
            .try_clone()
            .map_err(Error::io("cannot share a file"))?;
        self.spawn(call, args, stdout.into(), Stdio::null()).await?;
        answer
            .seek(SeekFrom::Start(0))
            .map_err(Error::io("cannot read the answer of runsc"))?;
        read_bounded(answer).map_err(Error::io("cannot read the answer of runsc"))
    }

    /// Calls `runsc CALL ARGS` with `log` as stdout and stderr, which the container inherits.
    pub async fn call_with_output<S: AsRef<OsStr>>(
        &self,
        call: &Call,
        args: impl IntoIterator<Item = S>,
        log: File,
    ) -> Result<(), Error> {
        let second = log.try_clone().map_err(Error::io("cannot share a file"))?;
        self.spawn(call, args, log.into(), second.into()).await
    }

    /// No pipes: what the call starts inherits them and would keep them open.
    async fn spawn<S: AsRef<OsStr>>(
        &self,
        call: &Call,
        args: impl IntoIterator<Item = S>,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<(), Error> {
        File::create(&self.log)
            .map_err(Error::io(format!("cannot write {}", self.log.display())))?;
        let mut command = Command::new(&self.exe);
        command
            .args(["--platform=systrap", "--network=sandbox"])
            .args(["--ignore-cgroups", "--log-format=json"])
            .arg(flag("--root=", &self.root))
            .arg(flag("--log=", &self.log))
            .arg(flag("--overlay2=root:dir=", &self.overlay))
            .arg(call.name)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| Error::NoRuntime {
            path: self.exe.clone(),
            source,
        })?;
        match tokio::time::timeout(call.timeout, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Error::Runtime {
                call: call.name,
                message: self.complaint().unwrap_or_else(|| status.to_string()),
            }),
            Ok(Err(source)) => Err(Error::Io {
                what: format!("cannot wait for runsc {}", call.name),
                source,
            }),
            Err(_) => {
                let _ = child.kill().await;
                Err(Error::Timeout {
                    call: call.name,
                    after: call.timeout,
                })
            }
        }
    }

    /// What the last call complained about, from its log: JSON objects, one after the other.
    fn complaint(&self) -> Option<String> {
        let text = File::open(&self.log).and_then(read_bounded).ok()?;
        useful_line(&text)
    }
}

fn flag(name: &str, value: &Path) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(name);
    flag.push(value);
    flag
}

fn read_bounded(from: impl Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last error of a log, without the Go stack that may follow it.
fn useful_line(log: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Entry {
        msg: String,
        level: String,
    }
    let message = serde_json::Deserializer::from_str(log)
        .into_iter::<Entry>()
        .map_while(Result::ok)
        .filter(|entry| entry.level == "error" || entry.level == "fatal")
        .last()?
        .msg;
    let line = message.lines().find(|line| !line.trim().is_empty())?.trim();
    let line = line.split(", stack:").next().unwrap_or(line);
    match line.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => Some(format!("{}...", &line[..end])),
        None => Some(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_last_error_counts_and_is_cut() {
        let log = r#"{"msg":"harmless","level":"warning","time":"t"}{"msg":"first","level":"error","time":"t"}
            {"msg":"restore failed: EOF\ngoroutine 1 [running]:\nmain.main()","level":"error","time":"t"}"#;
        assert_eq!(useful_line(log).unwrap(), "restore failed: EOF");
        let long = format!(r#"{{"msg":"{}","level":"error"}}"#, "ä".repeat(1000));
        assert_eq!(useful_line(&long).unwrap().chars().count(), MAX_MESSAGE + 3);
        assert_eq!(useful_line("not json"), None);
    }

    fn runsc(exe: &str, dir: &Path) -> Runsc {
        Runsc {
            exe: exe.into(),
            root: dir.join("root"),
            overlay: dir.join("overlay"),
            log: dir.join("log"),
        }
    }

    #[tokio::test]
    async fn a_missing_runtime_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = runsc("/nowhere/runsc", dir.path())
            .call(&STATE, ["x"])
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NoRuntime { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_killed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("hangs");
        std::fs::write(&exe, "#!/bin/sh\necho $$ >\"$0.pid\"\nexec sleep 1000\n").unwrap();
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
        let call = Call {
            name: "state",
            timeout: Duration::from_millis(500),
        };
        let error = runsc(exe.to_str().unwrap(), dir.path())
            .call(&call, ["x"])
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        let pid = std::fs::read_to_string(dir.path().join("hangs.pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }
}
