//! One call of `runsc`: arguments in, answer or a useful line out, always within a bound.

use super::super::Error;
use super::super::cgroup::Group;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// What is read of an answer or an error; the rest is of no use (a Go stack, mostly).
const MAX_OUTPUT: u64 = 64 << 10;
/// What is read of what it said on stderr: the beginning, for a panic begins with its cause.
const MAX_SAID: usize = 4 << 10;
/// The longest line that is passed on of an error.
const MAX_MESSAGE: usize = 300;

/// A command of `runsc` and how long it may take.
pub(super) struct Call {
    pub name: &'static str,
    pub timeout: Duration,
}

/// What answers at once does so in less, unless the machine is overloaded.
const PATIENCE: Duration = Duration::from_secs(20);
/// However much memory a sandbox has.
const MOST_PATIENCE: Duration = Duration::from_secs(300);
/// Bytes per second that any disk reads.
const SLOWEST_READ: u64 = 16 << 20;

const fn quick(name: &'static str) -> Call {
    let timeout = PATIENCE;
    Call { name, timeout }
}

pub(super) const CREATE: Call = quick("create");
pub(super) const START: Call = quick("start");
pub(super) const STATE: Call = quick("state");
/// Of a container that has stopped: answers at once.
pub(super) const WAIT: Call = quick("wait");
pub(super) const PAUSE: Call = quick("pause");
pub(super) const RESUME: Call = quick("resume");
pub(super) const DELETE: Call = quick("delete");
/// What it writes shows that it goes on.
pub(super) const CHECKPOINT: Call = quick("checkpoint");

/// It does not show how far it is: more time for more memory.
pub(super) fn restore(image: &Path) -> Call {
    let reads = Duration::from_secs(size_of(image) / SLOWEST_READ);
    Call {
        name: "restore",
        timeout: (PATIENCE + reads).min(MOST_PATIENCE),
    }
}

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
    /// What all processes of the sandbox are to be in.
    pub group: Option<Arc<Group>>,
}

impl Runsc {
    /// Calls `runsc CALL ARGS`, which starts nothing that lasts; its stdout is the answer.
    pub async fn call<S: AsRef<OsStr>>(
        &self,
        call: &Call,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, Error> {
        self.call_writing(call, args, None).await
    }

    /// The same for a call that writes into a directory: its bound begins anew as long as what is `written` grows.
    pub async fn call_writing<S: AsRef<OsStr>>(
        &self,
        call: &Call,
        args: impl IntoIterator<Item = S>,
        written: Option<&Path>,
    ) -> Result<String, Error> {
        let file = || tempfile::tempfile().map_err(Error::io("cannot make a temporary file"));
        let (mut answer, said) = (file()?, file()?);
        let mut command = self.command(call, args)?;
        command.stdout(share(&answer)?).stderr(share(&said)?);
        let child = self.spawn(command)?;
        let ended = bounded(call, child, written).await?;
        self.judge(call, ended, &said, 0)?;
        answer
            .seek(SeekFrom::Start(0))
            .map_err(Error::io("cannot read the answer of runsc"))?;
        read_bounded(answer).map_err(Error::io("cannot read the answer of runsc"))
    }

    /// Calls `runsc CALL ARGS` with `log`, which can be read too, as stdout and stderr, which the container inherits. What it starts is in
    /// the group, for it is so itself: to move there takes the kernel some ms, which other calls are spared.
    pub async fn call_with_output<S: AsRef<OsStr>>(
        &self,
        call: &Call,
        args: impl IntoIterator<Item = S>,
        log: File,
    ) -> Result<(), Error> {
        let before = log.metadata().map(|log| log.len()).unwrap_or_default();
        let mut command = self.command(call, args)?;
        command.stdout(share(&log)?).stderr(share(&log)?);
        if let Some(group) = &self.group {
            let entrance = group.entrance();
            let entrance = entrance.map_err(Error::io("cannot open a control group"))?;
            // SAFETY: only system calls between fork and exec.
            unsafe { command.pre_exec(move || entrance.enter()) };
        }
        let child = self.spawn(command)?;
        let ended = bounded(call, child, None).await?;
        self.judge(call, ended, &log, before)
    }

    /// Without stdout and stderr. No pipes: what the call starts inherits them and would keep them open.
    fn command<S: AsRef<OsStr>>(
        &self,
        call: &Call,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Command, Error> {
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
            .kill_on_drop(true);
        Ok(command)
    }

    fn spawn(&self, mut command: Command) -> Result<Child, Error> {
        command.spawn().map_err(|source| Error::NoRuntime {
            path: self.exe.clone(),
            source,
        })
    }

    /// Whether it succeeded; if not, what it complained about in its log, else what it `said` from a place on.
    fn judge(&self, call: &Call, status: ExitStatus, said: &File, from: u64) -> Result<(), Error> {
        if status.success() {
            return Ok(());
        }
        let message = self.complaint().unwrap_or_else(|| {
            let mut text = [0; MAX_SAID];
            let read = said.read_at(&mut text, from).unwrap_or_default();
            match first_line(&String::from_utf8_lossy(&text[..read])) {
                Some(line) => format!("{status}: {line}"),
                None => status.to_string(),
            }
        });
        Err(Error::Runtime {
            call: call.name,
            message,
        })
    }

    /// What the last call complained about, from its log: JSON objects, one after the other.
    fn complaint(&self) -> Option<String> {
        let text = File::open(&self.log).and_then(read_bounded).ok()?;
        useful_line(&text)
    }
}

/// Waits for the end within the bound, or kills.
async fn bounded(
    call: &Call,
    mut child: Child,
    written: Option<&Path>,
) -> Result<ExitStatus, Error> {
    let begun = Instant::now();
    let mut size = 0;
    loop {
        if let Ok(ended) = tokio::time::timeout(call.timeout, child.wait()).await {
            return ended.map_err(Error::io(format!("cannot wait for runsc {}", call.name)));
        }
        let before = std::mem::replace(&mut size, written.map_or(0, size_of));
        if size <= before || begun.elapsed() > MOST_PATIENCE {
            let _ = child.kill().await;
            return Err(Error::Timeout {
                call: call.name,
                after: begun.elapsed(),
            });
        }
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
    let line = first_line(&message)?;
    let line = line.split(", stack:").next().unwrap_or(&line);
    Some(line.to_owned())
}

/// The first line with something in it, at most so long.
fn first_line(text: &str) -> Option<String> {
    let line = text.lines().find(|line| !line.trim().is_empty())?.trim();
    match line.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => Some(format!("{}...", &line[..end])),
        None => Some(line.to_owned()),
    }
}

fn share(file: &File) -> Result<Stdio, Error> {
    let file = file.try_clone().map_err(Error::io("cannot share a file"));
    file.map(Stdio::from)
}

/// Bytes of the files in a directory.
fn size_of(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|f| Some(f.metadata().ok()?.len())).sum()
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
            group: None,
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

    /// An executable in `dir`.
    fn script(dir: &Path, text: &str) -> Runsc {
        use std::os::unix::fs::PermissionsExt;
        let exe = dir.join("runsc");
        std::fs::write(&exe, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
        runsc(exe.to_str().unwrap(), dir)
    }

    fn within(timeout: Duration) -> Call {
        Call {
            name: "checkpoint",
            timeout,
        }
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let hangs = script(dir.path(), "echo $$ >\"$0.pid\"\nexec sleep 1000");
        let call = within(Duration::from_millis(500));
        let error = hangs.call(&call, ["x"]).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        let pid = std::fs::read_to_string(dir.path().join("runsc.pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }

    #[tokio::test]
    async fn a_call_that_goes_on_writing_is_not_killed() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::create_dir(&image).unwrap();
        let write = "for i in 1 2 3 4 5 6; do echo x >>\"${0%/*}/image/pages\"; sleep .5; done";
        let writes = script(dir.path(), write);
        let call = within(Duration::from_secs(2));
        writes
            .call_writing(&call, ["x"], Some(&image))
            .await
            .unwrap();
        let error = writes.call(&call, ["x"]).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_a_call_says_before_it_fails_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let says = "echo hello; printf '\\npanic: no luck\\n\\ngoroutine 1\\n' >&2; exit 2";
        let panics = script(dir.path(), says);
        let error = panics.call(&STATE, ["x"]).await.unwrap_err();
        let told = "runsc state failed: exit status: 2: panic: no luck";
        assert_eq!(error.to_string(), told);

        // After what the container said before.
        let path = dir.path().join("out");
        let mut log = std::fs::OpenOptions::new();
        let mut log = log
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .unwrap();
        std::io::Write::write_all(&mut log, b"from before\n").unwrap();
        let error = panics.call_with_output(&CREATE, ["x"], log).await;
        let told = "runsc create failed: exit status: 2: hello";
        assert_eq!(error.unwrap_err().to_string(), told);
    }

    #[test]
    fn a_restore_may_take_as_long_as_its_image_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(restore(dir.path()).timeout, PATIENCE);
        let pages = File::create(dir.path().join("pages.img")).unwrap();
        for (gib, timeout) in [(1, PATIENCE + Duration::from_secs(64)), (64, MOST_PATIENCE)] {
            pages.set_len(gib << 30).unwrap();
            assert_eq!(restore(dir.path()).timeout, timeout);
        }
    }
}
