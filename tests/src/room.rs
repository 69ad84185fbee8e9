//! A room published to a running cluster, and its recording awaited: what the end-to-end tests have in common.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use roomreel_compositor::layout::{self, Camera, LayoutMemory, Microphone, Participant, Scene};
use roomreel_sfu::publisher::{Publisher, PublisherConfig};
use roomreel_sfu::source::{self, Played, Source};
use roomreel_sfu::synthetic::{SyntheticSpec, flash_area};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::{PeerId, RoomId, SfuId, TenantId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{ObjectStore, Ports, StoreError};
use roomreel_shared::recording::Recording;
use roomreel_shared::time::RoomTime;

use crate::watch::{self, Area};

/// The tenant of the tests.
#[must_use]
pub fn tenant() -> TenantId {
    TenantId::new("acme").expect("a literal that can be spelled")
}

/// The SFU of the tests.
#[must_use]
pub fn sfu() -> SfuId {
    SfuId::new("sfu-1").expect("a literal that can be spelled")
}

/// A room id.
///
/// # Panics
/// If it cannot be spelled.
#[must_use]
pub fn room(id: &str) -> RoomId {
    RoomId::new(id).expect("a room id of a test")
}

/// Room time now, on this machine's clock.
///
/// # Panics
/// If the clock stands before 1970.
#[must_use]
pub fn now() -> RoomTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    RoomTime::from_micros(i64::try_from(since.as_micros()).expect("a time of this era"))
}

/// Starts the publisher of an SFU.
#[must_use]
pub fn publisher(ports: &Ports, shards: u32) -> Publisher {
    Publisher::start(Arc::clone(&ports.log), Arc::clone(&ports.bus), PublisherConfig::new(tenant(), sfu(), shards))
}

/// Publishes a source to its end and waits until the log has acknowledged all of it.
///
/// # Errors
/// When the source or the publisher had a problem.
pub async fn publish(publisher: &Publisher, source: impl Source, speed: f64) -> Result<Played> {
    let room = publisher.room(source.room().clone());
    let played = source::play(source, &room, speed, |_| {}).await;
    ensure!(played.problem_count == 0, "playing had problems: {:?}", played.problems);
    publisher.flush().await?;
    Ok(played)
}

/// Waits until the one recording of `room` is in a final state, and answers its `recording.json`.
///
/// # Errors
/// When it is not within `limit`, or there are two.
pub async fn final_recording(store: &dyn ObjectStore, room: &RoomId, limit: Duration) -> Result<Recording> {
    let prefix = format!("{}/rooms/{}/recordings/", tenant().token(), room.token());
    let deadline = tokio::time::Instant::now() + limit;
    let mut seen = None;
    while tokio::time::Instant::now() < deadline {
        let found = store.list_directory(&prefix).await?;
        ensure!(found.len() <= 1, "one room has two recordings: {found:?}");
        if let Some(directory) = found.first() {
            let id = directory.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let id = roomreel_shared::id::RecordingId::from_token(id)?;
            match store.get(&RecordingKeys::new(&tenant(), room, &id).recording_json()).await {
                Ok(json) => {
                    let recording: Recording = serde_json::from_slice(&json)?;
                    if recording.state.is_final() {
                        return Ok(recording);
                    }
                    seen = Some(recording);
                }
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("no final recording of {room} within {limit:?}; last seen: {seen:?}")
}

/// The keys of a recording.
#[must_use]
pub fn keys(recording: &Recording) -> RecordingKeys {
    RecordingKeys::new(&recording.tenant, &recording.room, &recording.id)
}

/// Copies the composite to a file.
///
/// # Errors
/// When it is not there.
pub async fn download_composite(
    store: &dyn ObjectStore,
    recording: &Recording,
    composite: &CompositeSpec,
    directory: &Path,
) -> Result<PathBuf> {
    let object = store.get(&keys(recording).composite_mp4(&composite.id)).await.context("the composite")?;
    let file = directory.join("composite.mp4");
    tokio::fs::write(&file, object).await?;
    Ok(file)
}

/// Requires the container, the codecs and the canvas that were asked for, and the recording's length within 100 ms.
///
/// # Errors
/// What is not as asked.
pub fn require_format(file: &Path, composite: &CompositeSpec, recording: &Recording) -> Result<()> {
    let seconds = recording.duration_ms.context("a recording that has ended has a length")? as f64 / 1000.0;
    let probed = watch::probe(file)?;
    let streams = probed["streams"].as_array().context("streams")?;
    let stream = |kind: &str| {
        streams.iter().find(|stream| stream["codec_type"] == kind).with_context(|| format!("no {kind} stream"))
    };
    let (video, audio) = (stream("video")?, stream("audio")?);
    ensure!(video["codec_name"] == "h264" && audio["codec_name"] == "aac", "codecs: {video} {audio}");
    ensure!(
        video["width"] == composite.width && video["height"] == composite.height,
        "the canvas is {}x{}",
        video["width"],
        video["height"]
    );
    for (what, value) in
        [("file", &probed["format"]["duration"]), ("video", &video["duration"]), ("audio", &audio["duration"])]
    {
        let length: f64 = value.as_str().context("no duration")?.parse()?;
        ensure!((length - seconds).abs() <= 0.1, "the {what} lasts {length} s, the recording {seconds} s");
    }
    Ok(())
}

/// How far beeps are from flashes, in milliseconds, for each participant of a synthetic room in a grid. The first two and a half seconds
/// do not count: participants still join and their tiles move.
///
/// # Errors
/// When the file does not decode, or a participant's flashes or beeps are not found.
pub fn beep_flash_offsets(
    file: &Path,
    spec: &SyntheticSpec,
    composite: &CompositeSpec,
) -> Result<Vec<(PeerId, Vec<f64>)>> {
    let samples = watch::samples(file)?;
    let peers: Vec<(PeerId, String)> = (0..spec.participants).map(|participant| spec.name(participant)).collect();
    let scene = Scene {
        participants: peers
            .iter()
            .map(|(peer, name)| Participant {
                peer: peer.clone(),
                display_name: name.clone(),
                camera: Camera::On,
                microphone: Microphone::On,
                speaking: false,
                audio_level: 0,
                hidden: false,
            })
            .collect(),
        ..Scene::default()
    };
    let grid = layout::parse("grid")?;
    let arrangement =
        grid.arrange(&scene, composite.width, composite.height, &mut LayoutMemory::default(), Duration::ZERO);
    let flash = flash_area(spec.width, spec.height);
    let mut offsets = Vec::new();
    for (number, (peer, _)) in peers.into_iter().enumerate() {
        let tile = arrangement.tiles.iter().find(|tile| tile.source.peer == peer).context("no tile")?.rect;
        let across = |value: usize| value as u32 * tile.width / spec.width;
        let down = |value: usize| value as u32 * tile.height / spec.height;
        // The inner half of the flash: scaling blurs its border.
        let area = Area {
            x: (tile.x + across(flash.x + flash.width / 4)) & !1,
            y: (tile.y + down(flash.y + flash.height / 4)) & !1,
            width: across(flash.width / 2) & !1,
            height: down(flash.height / 2) & !1,
        };
        let mut flashes = watch::flash_onsets(&watch::luma(file, area)?);
        flashes.retain(|time| *time > 2.5);
        let beeps = watch::tone_onsets(&samples, spec.beep_hz(number));
        let off = spec.camera_off(number);
        let sent: Vec<_> = spec.beep_times(number).into_iter().filter(|time| time.as_secs() >= 3).collect();
        let seen = sent.iter().filter(|time| !off.is_some_and(|(from, to)| (from..=to).contains(*time))).count();
        ensure!(
            flashes.len() + 1 >= seen && beeps.len() >= sent.len(),
            "{peer}: {} flashes and {} beeps where {seen} and {} were sent",
            flashes.len(),
            beeps.len(),
            sent.len()
        );
        offsets.push((peer, watch::offsets_ms(&flashes, &beeps)));
    }
    Ok(offsets)
}
