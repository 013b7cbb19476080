//! An executor as the node agent sees it: started, adopted, proved dead.

use super::Error;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An executor process, in namespaces of its own. Dropping this does not end it: a restarted node agent adopts it by
/// [`Process::pid`] and [`Process::start_time`].
///
/// It is the first process of its pid namespace: when it has ended, so has everything in there (pid_namespaces(7)).
#[derive(Debug)]
pub struct Process {
    pid: u32,
    start_time: u64,
    pidfd: OwnedFd,
}

impl Process {
    /// Starts `command` as the first process of its own pid, mount, network namespace and session, with a `/proc` of its own; its
    /// output is appended to `log`. It does not end with the caller.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be started.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Process, Error> {
        let open = OpenOptions::new().create(true).append(true).open(log);
        let log = open.map_err(Error::io(format!("open the log {}", log.display())))?;
        let second = log.try_clone().map_err(Error::io("share a log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second)
            .current_dir("/");
        // SAFETY: only system calls between fork and exec.
        unsafe { command.pre_exec(isolate) };
        // The pid namespace of a thread's children; no other thread of ours is to have it.
        let start = move || {
            unshare(CloneFlags::CLONE_NEWPID)?;
            command.spawn().map(|child| child.id())
        };
        let pid = std::thread::spawn(start)
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread failed")))
            .map_err(Error::io("start the executor of a slot"))?;
        // Our child: its pid is not used again before we have waited for it.
        Process::open(pid)?.ok_or_else(|| Error::Io {
            what: "start the executor of a slot".into(),
            source: std::io::Error::other("it ended at once"),
        })
    }

    /// The executor that was started as `pid` at `start_time`, if it still runs. Pid 0 is nobody: one that was about to be started.
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel cannot be asked.
    pub fn adopt(pid: u32, start_time: u64) -> Result<Option<Process>, Error> {
        if pid == 0 {
            return Ok(None);
        }
        let process = Process::open(pid)?;
        Ok(process.filter(|process| process.start_time == start_time && process.is_alive()))
    }

    /// The process that runs as `pid` now, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel cannot be asked.
    pub fn open(pid: u32) -> Result<Option<Process>, Error> {
        // SAFETY: takes and returns integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            let error = std::io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ESRCH) => Ok(None),
                _ => Err(Error::io(format!("watch process {pid}"))(error)),
            };
        }
        // SAFETY: the kernel just gave it to us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // After the descriptor is open: what is read is of the same process, or there is nothing to read.
        Ok(start_time(pid).map(|start_time| Process {
            pid,
            start_time,
            pidfd,
        }))
    }

    /// Its pid, in the caller's pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When it was started, in clock ticks since boot: with the pid, its name.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Whether it runs. False means that nothing of its pid namespace is left.
    pub fn is_alive(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let alive = !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0);
        if !alive {
            self.reap();
        }
        alive
    }

    /// Returns when it has ended, and with it all of its pid namespace.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be watched.
    pub async fn ended(&self) -> Result<(), Error> {
        let watch = Error::io(format!("watch process {}", self.pid));
        let readable = async {
            let pidfd = self.pidfd.try_clone()?;
            // SAFETY: an owned descriptor is the same one as long as it lives, and it lives as long as the registration.
            let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
            watched.readable().await.map(drop)
        };
        readable.await.map_err(watch)?;
        self.reap();
        Ok(())
    }

    /// Sends a signal, to this process and no other. To one that has ended: nothing happens.
    ///
    /// # Errors
    /// [`Error::Io`] when it is not allowed.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let (fd, signal) = (self.pidfd.as_raw_fd(), signal as i32);
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: no siginfo is passed.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
        let error = std::io::Error::last_os_error();
        match (result, error.raw_os_error()) {
            (0, _) | (_, Some(libc::ESRCH)) => Ok(()),
            _ => Err(Error::io(format!("signal process {}", self.pid))(error)),
        }
    }

    /// Takes it off the process table if it was our child.
    fn reap(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), flags);
    }
}

/// In the new process, before exec.
fn isolate() -> std::io::Result<()> {
    let none = None::<&str>;
    nix::unistd::setsid()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)?;
    Ok(())
}

/// Field 22 of proc_pid_stat(5); the second field may hold anything but ends with the last parenthesis.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}
