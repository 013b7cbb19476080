//! SeaweedFS: a real S3 server, and another one than Versity's, with a security token service.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

/// Its only account of its own.
pub const ACCESS_KEY: &str = "weed";
pub const SECRET_KEY: &str = "weed-secret-71ad";
/// Buckets lie in volumes of their own, seven each.
const VOLUMES: &str = "-volume.max=500";

/// What serves S3 at `address` from `dir`; it may need a while from listening there until it answers. `iam`: its file of roles and who may
/// take them.
pub fn command(dir: &Path, address: SocketAddr, iam: Option<&Path>) -> Command {
    let ports: Vec<_> = (0..7)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports = ports.iter().map(|p| p.local_addr().unwrap().port());
    let names = [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
    ];
    let mut command = Command::new("weed");
    command.args(["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
    command.args([VOLUMES, "-master.volumeSizeLimitMB=64"]);
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
    command.arg(format!("-dir={}", dir.display()));
    command.arg(format!("-s3.port={}", address.port()));
    match iam {
        Some(file) => command.arg(format!("-s3.iam.config={}", file.display())),
        None => command.arg("-s3.iam=false"),
    };
    for (name, port) in names.iter().zip(ports) {
        command.arg(format!("-{name}={port}"));
    }
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
