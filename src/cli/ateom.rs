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
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("ateom", Format::Text);
    Ok(ateom::run(ateom::Options {
        uid: args.uid,
        dir: args.dir,
        refused: args.refused,
    })?)
}
