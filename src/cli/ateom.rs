//! `ate ateom`.

use crate::network::Cidr;
use crate::node::ateom;
use crate::telemetry::{self, Format};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Uid of the worker
    #[arg(long)]
    uid: String,
    /// Directory of all executors of the node
    #[arg(long)]
    dir: PathBuf,
    /// Network that sandboxes must not reach; may be given several times
    #[arg(long = "refuse", value_name = "CIDR")]
    refused: Vec<Cidr>,
    /// Directory of its own in a pod, and where the node has it; may be given several times
    #[arg(long = "bind", value_name = "OWN=HOST")]
    binds: Vec<ateom::Bind>,
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("ateom", Format::Text);
    for bind in &args.binds {
        bind.mount()?;
    }
    Ok(ateom::run(ateom::Options {
        uid: args.uid,
        dir: args.dir,
        binds: args.binds,
        refused: args.refused,
    })?)
}
