//! `ate image`.

use crate::image::{ImageConfig, layout};
use anyhow::Context;
use std::path::PathBuf;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Pack a directory as an OCI image and print the reference for an ActorTemplate
    ///
    /// The directory is the image's root filesystem; everything in it belongs to root. Equal content yields an
    /// equal digest.
    ///
    /// Example:
    ///   ate image pack rootfs images/hello --env PORT=8080 -- /usr/bin/python3 /app/server.py
    #[command(verbatim_doc_comment)]
    Pack(Pack),
}

#[derive(clap::Args)]
pub(super) struct Pack {
    /// Root filesystem
    rootfs: PathBuf,
    /// OCI layout directory to write to; made if missing
    layout: PathBuf,
    /// Environment variable; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Directory that the command starts in
    #[arg(long, value_name = "DIR", default_value = "/")]
    workdir: String,
    /// User that the command runs as: name or number, with :group if wanted
    #[arg(long, default_value = "")]
    user: String,
    /// Command and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn main(command: Command) -> anyhow::Result<()> {
    let Command::Pack(pack) = command;
    let config = ImageConfig {
        entrypoint: pack.command,
        cmd: vec![],
        env: pack.env,
        workdir: pack.workdir,
        user: pack.user,
    };
    let digest = layout::write(&pack.layout, &pack.rootfs, &config)?;
    let layout = pack
        .layout
        .canonicalize()
        .with_context(|| format!("cannot find {}", pack.layout.display()))?;
    println!("oci-layout:{}@{digest}", layout.display());
    Ok(())
}
