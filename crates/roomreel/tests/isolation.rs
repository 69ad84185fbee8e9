//! Renders in processes of their own: equal to those in one's own process, whatever happens to the processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use roomreel_backends::memory::MemoryStore;
use roomreel_backends::memory::faults::Operation;
use roomreel_compositor::documents::quality::RenderQuality;
use roomreel_compositor::encode::EncodedSlice;
use roomreel_compositor::engine::{Engine, Error, Fault, Isolation, Work};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::event::StopReason;
use roomreel_shared::id::{RecordingId, RoomId, TenantId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::policy::Policy;
use roomreel_shared::ports::ObjectStore;
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{self, Final, Hash, Header, Window};
use tracing::Span;

const PROGRAM: &str = env!("CARGO_BIN_EXE_roomreel");

fn files(below: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(below)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .flat_map(|path| if path.is_dir() { files(&path, extension) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|of| of == extension))
        .collect();
    found.sort();
    found
}

/// The windows of a made-up room of three.
fn windows() -> &'static [Bytes] {
    static WINDOWS: OnceLock<Vec<Bytes>> = OnceLock::new();
    WINDOWS.get_or_init(|| {
        let out = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(PROGRAM);
        command.args(["demo", "--participants", "3", "--seconds", "12", "--speed", "4", "--sandbox", "off"]);
        command
            .args(["--window", "500ms", "--width", "320", "--height", "180", "--fps", "10", "--out"])
            .arg(out.path());
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        files(out.path(), "win").iter().map(|file| std::fs::read(file).expect("a window").into()).collect()
    })
}

fn isolation() -> Isolation {
    Isolation::new(PROGRAM.into(), vec!["render-child".into()], true)
}

/// Renders all windows as a job does, asking again where that helps; `before` sees the engine before each request.
async fn render(isolation: Option<Isolation>, mut before: impl FnMut(&Engine)) -> (Vec<EncodedSlice>, RenderQuality) {
    let isolation = isolation.map(Arc::new);
    let windows: Vec<_> =
        windows().iter().map(|object| Arc::new(Window::parse(object.clone()).expect("a window"))).collect();
    let header = &windows[0].header;
    let fold = FoldSpec {
        tenant: header.tenant.clone(),
        room: header.room.clone(),
        recording: header.recording.clone(),
        shards: 1,
        from: None,
        session: None,
        beginning: None,
        start_sequence: 0,
        window_ms: 2000,
        policy: Policy::default(),
        epoch_base: 0,
    };
    let keys = RecordingKeys::new(&fold.tenant, &fold.room, &fold.recording);
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::default());
    for window in &windows {
        store.create(&keys.window(window.header.window), window.object().clone()).await.expect("room");
    }
    let spec = CompositeSpec { width: 320, height: 180, fps: 10, ..CompositeSpec::default() };
    let work = Work { spec, fold, first: 0, late: None };
    let mut engine = Engine::open(work, isolation.as_ref(), &store).await.expect("an engine");
    let mut slices = Vec::new();
    for window in windows {
        loop {
            before(&engine);
            match engine.push_window(window.clone()).await {
                Ok(()) => break,
                Err(error) => assert!(!error.is_permanent(), "{error}"),
            }
        }
        loop {
            before(&engine);
            match engine.next_slice(Span::none()).await {
                Ok(Some(slice)) => slices.push(slice),
                Ok(None) => break,
                Err(error) => assert!(!error.is_permanent(), "{error}"),
            }
        }
    }
    let quality = engine.quality().expect("there is something to say");
    (slices, quality)
}

#[tokio::test]
async fn a_process_of_its_own_gives_the_same_bytes() {
    let (here, said_here) = render(None, |_| {}).await;
    let (there, said_there) = render(Some(isolation()), |_| {}).await;
    assert!(here.len() >= 6, "{}", here.len());
    assert_eq!(here, there);
    assert_eq!(said_here, said_there);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing() {
    let (undisturbed, _) = render(None, |_| {}).await;
    let mut requests = 0_u64;
    let (slices, quality) = render(Some(isolation()), |engine| {
        requests += 1;
        // Never three times at one slice: then somebody is after the render.
        if let Some(process) = engine.process_id().filter(|_| requests.is_multiple_of(7)) {
            let after = Duration::from_millis(requests * 13 % 40);
            std::thread::spawn(move || {
                std::thread::sleep(after);
                // It may have ended by then.
                let _ = Command::new("kill").args(["-9", &process.to_string()]).stderr(Stdio::null()).status();
            });
        }
    })
    .await;
    assert_eq!(
        slices.iter().map(|slice| slice.number).collect::<Vec<_>>(),
        (0..slices.len() as u64).collect::<Vec<_>>()
    );
    assert_eq!(slices.len(), undisturbed.len());
    assert_eq!(quality.notes, Vec::<String>::new(), "nobody is blamed");
}

/// Windows of a second each of a room in which nobody says anything, long ago, and its end.
fn long_room(windows: u64) -> (FoldSpec, Vec<Bytes>) {
    let fold = FoldSpec {
        tenant: TenantId::new("acme").expect("valid"),
        room: RoomId::new("long").expect("valid"),
        recording: RecordingId::new("01long").expect("valid"),
        shards: 1,
        from: None,
        session: None,
        start_sequence: 1,
        window_ms: 1000,
        policy: Policy::default(),
        epoch_base: 0,
        beginning: None,
    };
    let second = |s: u64| 1_795_000_000_000_000 + s as i64 * 1_000_000;
    let object = |k: u64| {
        let header = Header {
            tenant: fold.tenant.clone(),
            room: fold.room.clone(),
            recording: fold.recording.clone(),
            window: k,
            epoch: 1,
            nonce: 1,
            previous: (k > 0).then(|| Hash::of(b"the window before")),
            log_span: (LogTime::from_micros(second(k)), LogTime::from_micros(second(k + 1))),
            room_start: RoomTime::from_micros(second(0)),
            room_seen: RoomTime::from_micros(second(k + 1)),
            window_duration_us: 1_000_000,
            gaps: Vec::new(),
            carry_over: Default::default(),
            end: (k + 1 == windows)
                .then(|| Final { reason: StopReason::RoomClosed, room_end: RoomTime::from_micros(second(k + 1)) }),
            trace_parent: None,
        };
        window::encode(&header, &[], &[])
    };
    let objects = (0..windows).map(object).collect();
    (fold, objects)
}

/// What a crash, and a node that takes over, read of a long room: the windows of the warm-up, not those of an hour.
#[tokio::test]
async fn a_crash_late_in_a_long_room_costs_some_windows() {
    const WINDOWS: u64 = 520;
    const FIRST: u64 = 498;
    let (fold, objects) = long_room(WINDOWS);
    let (whole, footers) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let count = {
        let (whole, footers) = (whole.clone(), footers.clone());
        move |operation: Operation, _: &str| {
            match operation {
                Operation::Get => whole.fetch_add(1, Ordering::Relaxed),
                Operation::GetRange => footers.fetch_add(1, Ordering::Relaxed),
                _ => 0,
            };
            None
        }
    };
    let store = MemoryStore::new().with_faults(Arc::new(count));
    let keys = RecordingKeys::new(&fold.tenant, &fold.room, &fold.recording);
    for (number, object) in (0..).zip(&objects) {
        store.create(&keys.window(number), object.clone()).await.expect("room");
    }
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let spec = CompositeSpec { width: 320, height: 180, fps: 10, ..CompositeSpec::default() };
    let work = Work { spec, fold, first: FIRST, late: None };
    let mut engine = Engine::open(work, Some(&Arc::new(isolation())), &store).await.expect("an engine");
    // A footer for each window until slice 498 begins, a few of them more than once, and the warm-up of 32 s as it is.
    assert!(footers.load(Ordering::Relaxed) < FIRST + 32, "{footers:?} footers");
    let first = engine.first_window();
    assert!((FIRST - 34..FIRST).contains(&first), "{first}");
    let mut slices = Vec::new();
    let mut crashes = 0;
    for object in &objects[first as usize..] {
        let window = Arc::new(Window::parse(object.clone()).expect("a window"));
        while engine.push_window(window.clone()).await.is_err() {}
        loop {
            // At slice 500, and once more.
            if let Some(process) = engine.process_id().filter(|_| slices.len() == 2 + crashes && crashes < 2) {
                crashes += 1;
                whole.store(0, Ordering::Relaxed);
                footers.store(0, Ordering::Relaxed);
                assert!(Command::new("kill").args(["-9", &process.to_string()]).status().expect("it runs").success());
            }
            match engine.next_slice(Span::none()).await {
                Ok(Some(slice)) => slices.push(slice.number),
                Ok(None) => break,
                Err(error) => assert!(!error.is_permanent(), "{error}"),
            }
        }
    }
    assert_eq!((crashes, slices), (2, (FIRST..WINDOWS).collect()));
    let (whole, footers) = (whole.load(Ordering::Relaxed), footers.load(Ordering::Relaxed));
    assert!(whole <= 40, "{whole} windows were read again");
    assert!(footers <= 32, "{footers} footers were read again");
}

/// The id of some camera of the room.
fn camera() -> String {
    let window = Window::parse(windows()[1].clone()).expect("a window");
    let largest = window.segments.iter().max_by_key(|segment| segment.packets).expect("somebody sends");
    largest.key.track.to_string()
}

#[tokio::test]
async fn a_track_that_brings_it_down_is_left_out() {
    let (undisturbed, _) = render(None, |_| {}).await;
    for hangs in [false, true] {
        let track = camera();
        let began = Instant::now();
        let isolation = Isolation {
            fault: Some(Fault { track: track.clone(), hangs }),
            still_limit: Duration::from_secs(2),
            ..isolation()
        };
        let (slices, quality) = render(Some(isolation), |_| {}).await;
        assert_eq!(slices.len(), undisturbed.len(), "the others go on");
        assert_ne!(slices, undisturbed, "its tile is a placeholder");
        let [note] = &quality.notes[..] else { panic!("{:?}", quality.notes) };
        assert!(note.contains(&track) && note.contains("left out from 0.0 s"), "{note}");
        assert!(note.contains(if hangs { "has not moved" } else { "signal 6" }), "{note}");
        assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn what_is_no_render_is_found_out() {
    let talks_nonsense = Isolation::new("/bin/echo".into(), vec![], false);
    let ends = Isolation::new("/bin/false".into(), vec![], false);
    for isolation in [talks_nonsense, ends] {
        assert!(matches!(isolation.probe().await, Err(Error::Lost { .. })));
    }
    assert!(matches!(Isolation::new("/nowhere".into(), vec![], false).probe().await, Err(Error::Spawn(_))));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_jail_holds() {
    assert_eq!(isolation().probe().await.expect("a process"), Vec::<String>::new(), "this kernel offers everything");
    let mut command = Command::new(PROGRAM);
    command.args(["render-child", "--memory-bytes", "1000000000", "--try"]).env_clear();
    let output = command.output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told.lines().count(), 10, "{told}");
    for line in told.lines() {
        assert!(line.ends_with("refused 1"), "{line}: not EPERM");
    }
}

/// A capture with one of a hundred bytes of each RTP payload changed.
fn damaged(capture: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(capture).expect("a capture");
    let mut random = 0x9e37_79b9_u32;
    let mut at = 24;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four")) as usize;
        let packet = &mut bytes[at + 16..at + 16 + length];
        at += 16 + length;
        // Ethernet, IPv4, UDP.
        let Some(rtp) = packet.get_mut(42..).filter(|rtp| rtp.len() > 16 && !(192..=223).contains(&rtp[1])) else {
            continue;
        };
        let extension =
            if rtp[0] & 0x10 == 0 { 0 } else { 4 + 4 * usize::from(u16::from_be_bytes([rtp[14], rtp[15]])) };
        for byte in rtp.iter_mut().skip(12 + extension) {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if random >> 16 < 655 {
                *byte ^= (random >> 8) as u8 | 1;
            }
        }
    }
    bytes
}

#[test]
fn damaged_bitstreams_of_four_codecs_are_placeholders() {
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/media");
    let out = tempfile::tempdir().expect("a folder");
    let capture = out.path().join("damaged.pcap");
    std::fs::write(&capture, damaged(&media.join("four-codecs.pcap"))).expect("room");
    let mut command = Command::new(PROGRAM);
    command
        .args(["demo", "--speed", "4", "--sandbox", "required", "--width", "640", "--height", "360", "--out"])
        .arg(out.path());
    command.arg("--capture").arg(&capture).arg("--events").arg(media.join("four-codecs.events.jsonl"));
    let output = command.output().expect("it runs");
    let logged = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !logged.contains("ERROR"), "{logged}");
    let quality =
        files(out.path(), "json").into_iter().find(|file| file.ends_with("quality.json")).expect("it is there");
    let quality = std::fs::read_to_string(quality).expect("text");
    assert!(quality.contains("stays a placeholder"), "{quality}");
}
