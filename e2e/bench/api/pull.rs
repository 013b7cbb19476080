//! One cold pull of an image.

use std::path::PathBuf;
use substrate::image::{Credentials, ImageStore};

#[derive(clap::Args)]
pub struct Args {
    /// The image, by digest
    image: String,
    /// Where it is unpacked
    dir: PathBuf,
}

pub async fn pull(args: Args) -> anyhow::Result<()> {
    let store = ImageStore::open(&args.dir).await?;
    store
        .ensure(&args.image.parse()?, &Credentials::default())
        .await?;
    Ok(())
}
