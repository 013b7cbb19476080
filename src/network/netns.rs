//! Making and entering network namespaces. A namespace belongs to a thread, so work in another one is done by a thread of its own.

use super::Error;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::path::Path;

/// Makes a network namespace that lives as long as `path` is mounted; `path` must not exist.
pub(super) fn create(path: &Path) -> Result<(), Error> {
    let failed = |source: std::io::Error| Error::Namespace {
        path: path.to_owned(),
        source,
    };
    File::create_new(path).map_err(failed)?;
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let own = Path::new("/proc/thread-self/ns/net");
                mount(
                    Some(own),
                    path,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )
            })
            .join()
    });
    match made {
        Ok(Ok(())) => Ok(()),
        Ok(Err(errno)) => Err(failed(errno.into())),
        Err(_) => Err(failed(std::io::Error::other(
            "the thread that makes it failed",
        ))),
    }
}

/// Lets go of a namespace made by [`create`].
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let failed = |source: std::io::Error| Error::Namespace {
        path: path.to_owned(),
        source,
    };
    umount2(path, MntFlags::MNT_DETACH).map_err(|e| failed(e.into()))?;
    std::fs::remove_file(path).map_err(failed)
}

/// Runs `work` in a thread that is in the namespace of `path`.
pub(super) async fn within<F, T>(
    path: &Path,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
    T: Send + 'static,
{
    let path = path.to_owned();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("netns".into());
    let lost = |source| Error::Io {
        what: "work in a network namespace".into(),
        source,
    };
    thread
        .spawn(move || {
            let result = enter(&path).and_then(|runtime| runtime.block_on(work()));
            // Nobody to tell: the caller gave up.
            let _ = sender.send(result);
        })
        .map_err(lost)?;
    receiver
        .await
        .map_err(|_| lost(std::io::Error::other("the thread failed")))?
}

fn enter(path: &Path) -> Result<tokio::runtime::Runtime, Error> {
    let failed = |source: std::io::Error| Error::Namespace {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|e| failed(e.into()))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)
}
