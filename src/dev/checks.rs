//! What must hold before anything is started: one clear line for each that does not.

use super::layout::{Layout, fail};
use super::{Error, Options};
use crate::network::host::HostNetwork;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// Root, and the programs that are started.
pub(super) fn preflight(_options: &Options) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    valkey()?;
    find(
        "runsc",
        "install gVisor's runsc: https://gvisor.dev/docs/user_guide/install",
    )?;
    find("nft", "apt-get install nftables")?;
    Ok(())
}

/// Valkey, or Redis where that is what there is.
pub(super) fn valkey() -> Result<PathBuf, Error> {
    let fix = "install Valkey 8 (Debian 12: apt-get install -t bookworm-backports valkey-server)";
    find("valkey-server", fix)
}

fn find(program: &'static str, fix: &'static str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/bin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .ok_or(Error::Missing { program, fix })
}

/// Bytes of memory that the machine has.
pub(super) fn memory() -> Result<u64, Error> {
    let said = nix::sys::sysinfo::sysinfo().map(|said| said.ram_total());
    said.map_err(|e| fail("ask for the memory of", Path::new("this machine"), e.into()))
}

/// Processors that the machine has.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One `ate dev` per directory, for as long as the lock is held.
pub(super) fn lock(layout: &Layout) -> Result<Flock<File>, Error> {
    let path = layout.dir.join("lock");
    let file = File::create(&path).map_err(|source| fail("create", &path, source))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::InUse(layout.dir.clone()))
}

/// Nobody else listens where we will.
pub(super) fn addresses(options: &Options) -> Result<(), Error> {
    let all = [
        ("router", options.router, "--router"),
        ("API", options.api, "--api"),
        ("gRPC", options.grpc(), "--api"),
        ("node agent", options.node(), "--api"),
    ];
    all.into_iter()
        .try_for_each(|(what, address, flag)| free(what, address, flag))
}

fn free(what: &'static str, address: SocketAddr, flag: &'static str) -> Result<(), Error> {
    TcpListener::bind(address)
        .map(drop)
        .map_err(|source| Error::Address {
            what,
            address,
            flag,
            source,
        })
}

/// Nobody else has addresses of the slots'. Links of an `ate dev` that was killed are ours.
pub(super) async fn subnet(options: &Options) -> Result<(), Error> {
    let network = HostNetwork::new(&options.network_name(), options.subnet);
    let free = async { network?.check_free().await };
    free.await.map_err(Error::Subnet)
}
