//! What a room's filtered consumer costs the server, by the number of rooms that share its stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use roomreel_backends::nats::Nats;
use roomreel_shared::id::TrackId;
use roomreel_shared::ports::{NewEntry, RoomLog as _};
use roomreel_shared::subject::{Address, Entry, Shard, Writer, room_filter};
use roomreel_tests::room;

use crate::usage::{Sample, Stopwatch};

/// A 1 Mbit/s track's message of 100 ms.
const MESSAGE_BYTES: usize = 12_500;
/// Messages of all rooms together: the media of 25 participants.
const MESSAGES_PER_SECOND: u32 = 500;

fn address(shard: Shard, number: usize) -> Result<Address> {
    Ok(Address {
        shard,
        tenant: room::tenant(),
        writer: Writer::Sfu(room::sfu()),
        room: room::room(&format!("bench-{number}")),
        entry: Entry::Media(TrackId::new("camera")?),
    })
}

/// Publishes to `rooms` in turn while each is read by a consumer of its own.
pub async fn follow(nats: Nats, rooms: usize, messages: usize) -> Result<Sample> {
    let shard = Shard::all(1).next().context("a shard")?;
    let nats = Arc::new(nats);
    let begun = Instant::now();
    let mut readers = Vec::new();
    for number in 0..rooms {
        let filter = room_filter(shard, &room::tenant(), &address(shard, number)?.room);
        let mut entries = nats.read(shard, &filter, 1).await?;
        let expected = (messages + rooms - 1 - number) / rooms;
        readers.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while latencies.len() < expected {
                let entry = entries.next().await.context("the reader ended")??;
                let sent = entry.payload.first_chunk().map(|sent| u64::from_be_bytes(*sent)).context("no time")?;
                latencies.push((begun.elapsed().as_micros() as u64).saturating_sub(sent));
            }
            // The others go on reading in the meantime.
            anyhow::Ok((latencies, entries))
        }));
    }
    let stopwatch = Stopwatch::start();
    let mut appends = FuturesUnordered::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / MESSAGES_PER_SECOND);
    for number in 0..messages {
        tick.tick().await;
        let mut payload = BytesMut::zeroed(MESSAGE_BYTES);
        (&mut payload[..8]).put_u64(begun.elapsed().as_micros() as u64);
        let nats = nats.clone();
        let entry = NewEntry {
            subject: address(shard, number % rooms)?.subject(),
            message_id: number.to_string(),
            trace_parent: None,
            payload: Bytes::from(payload),
        };
        appends.push(tokio::spawn(async move { nats.append(entry).await }));
    }
    while let Some(append) = appends.next().await {
        append??;
    }
    let (mut latencies, mut kept) = (Vec::new(), Vec::new());
    for reader in readers {
        let (of_room, entries) = tokio::time::timeout(Duration::from_secs(30), reader).await???;
        latencies.extend(of_room);
        kept.push(entries);
    }
    latencies.sort_unstable();
    let (cpu, wall) = stopwatch.read();
    Ok(Sample { packets: messages as u64, cpu, wall, latencies, ..Sample::default() })
}

/// Reads one room of many from the stream's beginning, as a node does that takes it over.
pub async fn take_over(nats: Nats, rooms: usize, messages: usize) -> Result<Sample> {
    let shard = Shard::all(1).next().context("a shard")?;
    let number = rooms / 2;
    let filter = room_filter(shard, &room::tenant(), &address(shard, number)?.room);
    let expected = (messages + rooms - 1 - number) / rooms;
    let stopwatch = Stopwatch::start();
    let entries: Vec<_> = nats.read(shard, &filter, 1).await?.take(expected).try_collect().await?;
    let (cpu, wall) = stopwatch.read();
    ensure!(entries.len() == expected, "the room is not whole");
    Ok(Sample { packets: expected as u64, cpu, wall, ..Sample::default() })
}
