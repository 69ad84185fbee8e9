//! The yardstick: async-nats' own pull consumer, which reads a stream and drops what it reads; and the floor, which puts what
//! it reads into the bucket as it comes, in objects as long as windows, without looking at it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use bytes::BytesMut;
use futures::StreamExt as _;
use roomreel_shared::key::Key;
use roomreel_shared::ports::ObjectStore;
use tokio::task::JoinSet;

use crate::WINDOW_BYTES;
use crate::usage::{Sample, Stopwatch};

/// Objects on their way at a time, as many as rooms commit.
const UPLOADS: usize = 8;

/// Reads the first `messages` of `stream`, into `bucket` if there is one.
pub async fn consume(
    url: &str,
    stream: &str,
    messages: u64,
    message_bytes: usize,
    ack: bool,
    bucket: Option<Arc<dyn ObjectStore>>,
) -> Result<Sample> {
    let options = async_nats::ConnectOptions::new().client_capacity(8192).subscription_capacity(1 << 17);
    let client = options.connect(url).await?;
    let context = jetstream::ContextBuilder::new().timeout(Duration::from_secs(30)).build(client.clone());
    let stream = context.get_stream(stream).await.map_err(|e| anyhow::anyhow!("the stream: {e}"))?;
    let stopwatch = Stopwatch::start();
    let mut consumer = stream
        .create_consumer(pull::Config {
            ack_policy: if ack { AckPolicy::Explicit } else { AckPolicy::None },
            max_ack_pending: if ack { 20_000 } else { 0 },
            ..pull::Config::default()
        })
        .await?;
    let batch = (32 * 1024 * 1024 / message_bytes).clamp(64, 4096);
    let mut entries = consumer.stream().max_messages_per_batch(batch).messages().await?;
    let mut bytes = 0;
    let (mut object, mut uploads, mut puts) = (BytesMut::new(), JoinSet::new(), 0);
    for number in 0..messages {
        let message = entries.next().await.context("the consumer ended")??;
        bytes += message.payload.len() as u64;
        if ack {
            message.ack().await.map_err(|e| anyhow::anyhow!("ack: {e}"))?;
        }
        let Some(bucket) = &bucket else { continue };
        if object.is_empty() {
            object.reserve(WINDOW_BYTES as usize + message.payload.len());
        }
        object.extend_from_slice(&message.payload);
        if object.len() as u64 >= WINDOW_BYTES || number + 1 == messages {
            if uploads.len() == UPLOADS {
                uploads.join_next().await.context("there are some")???;
            }
            let (bucket, key) = (bucket.clone(), floor_key(puts));
            let body = object.split().freeze();
            uploads.spawn(async move { bucket.create(&key, body).await });
            puts += 1;
        }
    }
    while let Some(upload) = uploads.join_next().await {
        upload??;
    }
    if ack {
        client.flush().await?;
    }
    let (cpu, wall) = stopwatch.read();
    if ack {
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, acknowledged(&mut consumer, messages))
            .await
            .context("not all was acknowledged")??;
    }
    for number in 0..puts {
        bucket.as_ref().context("what was put there")?.delete(&floor_key(number)).await?;
    }
    Ok(Sample { bytes, cpu, wall, puts, ..Sample::default() })
}

fn floor_key(number: u64) -> Key {
    Key::listed(format!("floor/{number}"))
}

/// Waits until the server has every acknowledgement.
async fn acknowledged(consumer: &mut Consumer<pull::Config>, messages: u64) -> Result<()> {
    loop {
        let info = consumer.info().await?;
        if info.ack_floor.consumer_sequence >= messages && info.num_ack_pending == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
