//! SeaweedFS: one for all tests, gone with their process.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::sync::OnceLock;
use std::thread;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tempfile::TempDir;

#[path = "../../e2e/parts/weed.rs"]
mod part;

pub use part::{ACCESS_KEY, SECRET_KEY};

/// Where it listens; it may need a while after that until it answers.
pub fn address() -> SocketAddr {
    static STARTED: OnceLock<SocketAddr> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let (told, address) = std::sync::mpsc::channel();
        // The kernel ends a child with the thread that made it: this one lasts as long as the process.
        thread::spawn(move || {
            let (mut server, _dir, address) = start();
            told.send(address).unwrap();
            server.wait().unwrap();
        });
        address.recv().unwrap()
    })
}

fn start() -> (Child, TempDir, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let mut command = part::command(dir.path(), address, None);
    drop(port);
    // SAFETY: prctl alone runs between fork and exec.
    unsafe { command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
    let child = command.spawn().expect("weed is on PATH");
    (child, dir, address)
}
