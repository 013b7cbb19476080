//! Reaping what the runtime leaves behind.
//!
//! `runsc create` starts the sandbox and its gofer and ends; both become orphans and pass to pid 1 of the
//! namespace (or to a subreaper). Nobody else waits for them, and a sandbox that was not waited for shows as running
//! and cannot be deleted. Their end is also the notice that the sandbox died.
//!
//! tokio and std wait for the children that they started; taking those away would break them. The kernel keeps
//! the two apart: it hands orphans to the **first thread** of the new parent, while a child belongs to the thread that
//! started it (waitpid(2), `__WNOTHREAD`). So the first thread does nothing but reap, and everything else runs elsewhere.

use nix::sys::signal::{SigSet, Signal};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long the first thread sleeps at most between two looks, should a SIGCHLD have been merged with another.
const REAP_INTERVAL: Duration = Duration::from_millis(500);
/// Deaths that are remembered; a sandbox has two or three processes.
const REMEMBERED: usize = 256;

/// The end of an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// Its pid in our namespace.
    pub pid: i32,
    /// Its exit code; 128 + signal after a signal.
    pub code: i32,
}

/// The orphans that ended, newest last.
#[derive(Debug, Clone)]
pub struct Orphans {
    dead: Arc<Mutex<VecDeque<Death>>>,
    changed: watch::Sender<u64>,
}

impl Orphans {
    /// Runs `body` on a runtime in threads of its own while the calling thread, which must be the first of its
    /// process, reaps orphans. Returns what `body` returns.
    ///
    /// # Errors
    /// When the process is neither pid 1 nor can become a subreaper, when this is not its first thread, or when no thread can be started.
    pub fn reap_while<F, T>(body: impl FnOnce(Orphans) -> F + Send + 'static) -> std::io::Result<T>
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        if nix::unistd::gettid() != nix::unistd::getpid() {
            return Err(std::io::Error::other(
                "orphans pass to the first thread of a process, and this is another one",
            ));
        }
        nix::sys::prctl::set_child_subreaper(true)?;
        // Inherited by the threads that follow, so that SIGCHLD waits for us; std clears the mask in children.
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        chld.thread_block()?;

        let orphans = Orphans {
            dead: Arc::default(),
            changed: watch::Sender::new(0),
        };
        let theirs = orphans.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("main-task".into())
            .spawn(move || runtime.block_on(body(theirs)))?;
        while !thread.is_finished() {
            orphans.reap();
            wait_for_child(&chld);
        }
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The code with which `pid` ended, if it did.
    pub fn code_of(&self, pid: i32) -> Option<i32> {
        let dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.iter()
            .rev()
            .find(|death| death.pid == pid)
            .map(|d| d.code)
    }

    /// Returns the code with which `pid` ended, as soon as it has.
    pub async fn ended(&self, pid: i32) -> i32 {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(code) = self.code_of(pid) {
                return code;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Forgets all deaths: pids are about to be used again.
    pub fn forget(&self) {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.clear();
    }

    fn reap(&self) {
        let mut reaped = false;
        while let Some(death) = reap_one() {
            let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
            if dead.len() == REMEMBERED {
                dead.pop_front();
            }
            dead.push_back(death);
            reaped = true;
        }
        if reaped {
            self.changed.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
}

/// Threads of the runtime: an executor waits for other processes most of the time.
const WORKERS: usize = 2;

fn reap_one() -> Option<Death> {
    let mut status = 0;
    // SAFETY: waitpid writes one integer into `status`; nix does not know __WNOTHREAD.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WNOTHREAD) };
    if pid <= 0 {
        return None;
    }
    let code = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    Some(Death { pid, code })
}

fn wait_for_child(chld: &SigSet) {
    let timeout = libc::timespec {
        tv_sec: REAP_INTERVAL.as_secs() as libc::time_t,
        tv_nsec: REAP_INTERVAL.subsec_nanos().into(),
    };
    // SAFETY: both pointers live through the call and no siginfo is asked for. A timeout is as good as a signal here.
    unsafe { libc::sigtimedwait(chld.as_ref(), std::ptr::null_mut(), &raw const timeout) };
}
