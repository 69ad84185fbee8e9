//! What every implementation of a port promises, asked of each: in memory, in a directory, over real servers.

mod coordination;
mod log;
mod store;

use std::time::Duration;

use futures::{Stream, StreamExt as _};

/// How long anything that is to come may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The next item; the test fails if it does not come.
async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    let item = tokio::time::timeout(PATIENCE, stream.next()).await.expect("an item comes in time");
    item.expect("the stream goes on")
}
