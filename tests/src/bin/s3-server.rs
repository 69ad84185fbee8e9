//! The S3 API of the tests as a process, for the local cluster: `s3-server DIRECTORY ADDRESS`.
//!
//! Every directory in DIRECTORY is a bucket. Not for anything that matters: objects are plain files, the keys are known.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: s3-server DIRECTORY ADDRESS";
    let directory = PathBuf::from(arguments.next().context(usage)?);
    let address = arguments.next().and_then(|text| text.into_string().ok()).context(usage)?;
    let address: SocketAddr =
        address.parse().with_context(|| format!("{address:?} is not an address such as 127.0.0.1:9000"))?;
    roomreel_tests::servers::serve_directory(&directory, address).await
}
