use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use roomreel_backends::memory::faults::{Fault, Operation};
use roomreel_backends::memory::{MemoryStore, MutationKind};
use roomreel_shared::cluster::{leader_key, recording_key};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::ports::{Change, Listed, ObjectStore as _, OpenUpload, Upload};
use roomreel_shared::recording::State;

use super::*;
use crate::testing::{auto, id};
use crate::tests::{World, until};

const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn name() -> RecordingName {
    RecordingName { tenant: id("acme"), room: id("standup"), recording: id("01r") }
}

fn recording(state: State, files: &[&str]) -> Recording {
    let document = serde_json::json!({
        "id": "01r", "tenant": "acme", "room": "standup", "state": state, "reason": "over",
        "created_at": "2026-01-31T10:00:00Z", "composites": [CompositeSpec::default()], "files": files,
        "policy": auto(),
    });
    serde_json::from_value(document).expect("a recording")
}

fn object(key: String, version: &str) -> Listed {
    Listed { key: Key::listed(key), size: 3, version: version.to_owned() }
}

fn objects(names: &[&str]) -> Vec<Listed> {
    names.iter().map(|below| object(format!("{}{below}", name().keys().prefix()), "v")).collect()
}

/// What is found of these names, below the recording, and how many names are foreign.
fn found(names: &[&str], recording: Option<&Recording>, is_indexed: bool) -> (Vec<(String, Left)>, u64) {
    let (name, objects) = (name(), objects(names));
    let found = of_recording(&Contents { name: &name, objects: &objects, recording, is_indexed, slices: Some(2) });
    let below = |key: &Key| key.as_str().strip_prefix(name.keys().prefix()).unwrap_or("elsewhere").to_owned();
    (found.candidates.iter().map(|c| (below(&c.key), c.left)).collect(), found.foreign)
}

/// A whole recording: nothing of it is of nothing.
const WHOLE: [&str; 14] = [
    "composites/grid/00000000.m4s",
    "composites/grid/00000000.webm.m4s",
    "composites/grid/00000001.m4s",
    "composites/grid/composite.mp4",
    "composites/grid/init.mp4",
    "composites/grid/live.m3u8",
    "composites/late/00000007.m4s",
    "composites/late/render.json",
    "metadata.json",
    "policy.json",
    "processed/sound.mp3",
    "recording.json",
    "windows/00000000.win",
    "windows/00000001.win",
];
const FILES: [&str; 3] = ["composites/grid/composite.mp4", "composites/grid/live.m3u8", "processed/sound.mp3"];

#[test]
fn what_is_part_of_a_recording_stays_and_what_is_not_is_named() {
    let whole = recording(State::Complete, &FILES);
    assert_eq!(found(&WHOLE, Some(&whole), true), (vec![], 0));
    for (left, expected) in [
        ("composites/grid/00000002.m4s", Some(Left::Slice)),
        ("composites/grid/00000009.webm.m4s", Some(Left::Slice)),
        ("composites/grid/composite.webm", Some(Left::File)),
        ("composites/other/00000000.m4s", Some(Left::File)),
        ("composites/other/live.m3u8", Some(Left::File)),
        ("unfinished.json", Some(Left::Unfinished)),
        // Windows never, whatever the chain says of them.
        ("windows/00000009.win", None),
        ("windows/9.win", None),
        ("windows/a b", None),
        // What we do not name is not ours.
        ("composites/grid/2.m4s", None),
        ("composites/gr id/x", None),
        ("composites/=2e/x", None),
        ("composites/00000009.m4s", None),
        ("composites/..", None),
        ("notes.txt", None),
        ("recording.json.bak", None),
    ] {
        let names = [&WHOLE[..], &[left]].concat();
        let one: Vec<_> = expected.map(|expected| (left.to_owned(), expected)).into_iter().collect();
        assert_eq!(found(&names, Some(&whole), true).0, one, "{left}");
        assert_eq!(found(&names, Some(&recording(State::LimitReached, &FILES)), true).0, one, "{left}");
        // Of a recording that did not end as it was to, everything may be what is left to look at.
        let one: Vec<_> = one.into_iter().filter(|(_, left)| *left == Left::Unfinished).collect();
        assert_eq!(found(&names, Some(&recording(State::Failed, &[])), true).0, one, "{left}");
        // One that has windows and no end is for `rebuild`.
        assert_eq!(found(&names, None, false).0, [], "{left}");
    }
    // A track's export that is named nowhere, unless a late render may be making it.
    let track = "tracks/bo-video.webm";
    assert_eq!(found(&[track], Some(&whole), true).0, [(track.to_owned(), Left::File)]);
    assert_eq!(found(&[track, "composites/late/rendered.json"], Some(&whole), true).0, []);
    let (candidates, foreign) = found(&["a b", "notes.txt", "processed/sound.mp3", "x/y"], Some(&whole), true);
    assert_eq!((candidates, foreign), (vec![], 3));
}

#[test]
fn a_recording_without_windows_that_nobody_knows_is_of_nothing() {
    let names = ["policy.json", "unfinished.json", "composites/grid/init.mp4"];
    let all: Vec<_> = names.iter().map(|name| ((*name).to_owned(), Left::Unknown)).collect();
    assert_eq!(found(&names, None, false), (all, 0));
    assert_eq!(found(&names, None, true).0, [], "the index has its final state, and recording.json is to follow");
    for more in ["windows/00000000.win", "windows/torn", "recording.json"] {
        assert_eq!(found(&[&names[..], &[more]].concat(), None, false).0, [], "{more}");
    }
}

#[test]
fn probes_and_uploads() {
    let listed = [key::probe(7).to_string(), "probe/x".to_owned()].map(|key| object(key, "v"));
    let found = of_probes(&listed);
    assert_eq!((found.candidates.len(), found.candidates[0].left, found.foreign), (1, Left::Probe, 1));
    let open = |key: &str, age| OpenUpload { upload: Upload { key: Key::listed(key.to_owned()), id: "u".into() }, age };
    let of = name().keys().window(0).to_string();
    for (key, age, alive, expected) in [
        (of.as_str(), DAY, &[][..], (1, 0)),
        (&of, DAY - Duration::from_secs(1), &[], (0, 0)),
        (&of, WEEK, &["01r"], (0, 0)),
        (&of, WEEK, &["01x"], (1, 0)),
        ("backup.tar", WEEK, &[], (0, 1)),
    ] {
        let alive = alive.iter().map(|alive| id(alive)).collect();
        let found = of_uploads(&[open(key, age)], &alive);
        assert_eq!((found.candidates.len(), found.foreign), expected, "{key} {age:?}");
    }
}

fn candidate(key: &str, version: &str) -> Candidate {
    let key = Key::listed(key.to_owned());
    let (left, version) = (Left::Probe, version.to_owned());
    Candidate { place: Place::Probes, left, key, upload: None, size: 3, version }
}

#[test]
fn a_mark_counts_from_when_this_content_was_first_seen() {
    let begin = OffsetDateTime::UNIX_EPOCH;
    let settle = |version: &str, before: &[Mark], at| {
        mark::settle(vec![candidate("a", version)], before, begin + at, WEEK).remove(0)
    };
    let first = settle("v", &[], Duration::ZERO);
    assert!(!first.is_due && first.first_seen == begin);
    let marks = [first.mark()];
    assert!(!settle("v", &marks, WEEK - Duration::from_secs(1)).is_due);
    assert!(settle("v", &marks, WEEK).is_due);
    let replaced = settle("w", &marks, WEEK);
    assert!(!replaced.is_due && replaced.first_seen == begin + WEEK);
    // Of two runs at once, the earlier one counts; one whose clock is ahead does not.
    let later = Mark { first_seen: begin + DAY, ..marks[0].clone() };
    let ahead = Mark { first_seen: begin + 9 * DAY, ..marks[0].clone() };
    assert_eq!(settle("v", &[later.clone(), marks[0].clone()], WEEK).first_seen, begin);
    assert_eq!(settle("v", &[ahead], WEEK).first_seen, begin + WEEK);
    assert!(!settle("v", &[later], WEEK).is_due);
    let soonest = mark::settle(vec![candidate("a", "v")], &[], begin, Duration::ZERO);
    assert!(!soonest[0].is_due, "not by the run that found it");
}

/// Names of a recording, ours and others.
fn names() -> impl Strategy<Value = Vec<String>> {
    let part = select(vec!["windows", "composites", "tracks", "grid", "late", "x", "..", "a b", "=2E", ""]);
    let last = select(vec![
        "00000000.win",
        "7.win",
        "00000000.m4s",
        "00000005.m4s",
        "00000005.webm.m4s",
        "init.mp4",
        "live.m3u8",
        "composite.mp4",
        "render.json",
        "unfinished.json",
        "policy.json",
        "notes.txt",
    ]);
    let one = (proptest::collection::vec(part, 0..3), last).prop_map(|(mut parts, last)| {
        parts.push(last);
        parts.join("/")
    });
    proptest::collection::vec(one, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever lies there: no window, nothing that is listed, nothing of a late render and nothing foreign is ever judged to be of nothing.
    #[test]
    fn what_speaks_for_an_object_is_heeded(
        names in names(),
        listed in any::<Index>(),
        state in select(vec![State::Complete, State::LimitReached, State::Failed, State::Aborted]),
        final_one in any::<bool>(),
        is_indexed in any::<bool>(),
    ) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let files: Vec<_> = if names.is_empty() { vec![] } else { vec![names[listed.index(names.len())]] };
        let recording = final_one.then(|| recording(state, &files));
        let has_late = final_one && names.contains(&"composites/late/render.json");
        let has_windows = names.iter().any(|name| name.starts_with("windows/"));
        for (name, left) in found(&names, recording.as_ref(), is_indexed).0 {
            prop_assert!(!name.starts_with("windows/"), "{name}");
            prop_assert!(name.split('/').all(|part| !["..", "a b", ""].contains(&part)), "{name}");
            prop_assert!(!(has_late && name.starts_with("composites/late/")), "{name}");
            prop_assert!(left == Left::Unfinished || left == Left::Unknown || !files.contains(&name.as_str()), "{name}");
            prop_assert_eq!(left == Left::Unknown, recording.is_none());
            prop_assert!(recording.is_some() || !has_windows && !is_indexed, "{name}");
        }
    }

    /// Whatever comes and goes between runs: what goes was seen a grace ago, in this content, and in every run since.
    #[test]
    fn nothing_goes_before_its_grace(
        runs in proptest::collection::vec((subsequence(vec!["a", "b", "c"], 0..=3), 0..3_u64, 0..5_u64), 1..12),
    ) {
        let mut now = OffsetDateTime::UNIX_EPOCH;
        let mut marks: Vec<Mark> = Vec::new();
        let mut since: BTreeMap<(String, String), OffsetDateTime> = BTreeMap::new();
        for (keys, version, days) in runs {
            now += DAY * u32::try_from(days).expect("few");
            let version = format!("v{version}");
            let there: BTreeSet<_> = keys.iter().map(|key| ((*key).to_owned(), version.clone())).collect();
            since.retain(|what, _| there.contains(what));
            let marked = mark::settle(keys.iter().map(|key| candidate(key, &version)).collect(), &marks, now, WEEK);
            for marked in &marked {
                let what = (marked.candidate.key.to_string(), version.clone());
                let first = *since.entry(what).or_insert(now);
                prop_assert_eq!(marked.first_seen, first);
                prop_assert_eq!(marked.is_due, first != now && now - first >= WEEK);
            }
            marks = marked.iter().map(Marked::mark).collect();
        }
    }
}

struct Clean<'a> {
    world: &'a World,
    now: OffsetDateTime,
    grace: Duration,
    runs: u64,
}

impl<'a> Clean<'a> {
    fn new(world: &'a World, grace: Duration) -> Self {
        Self { world, now: OffsetDateTime::UNIX_EPOCH + 365 * DAY, grace, runs: 0 }
    }

    async fn run(&mut self, delete: bool) -> Result<Report, Error> {
        self.runs += 1;
        let (store, coordination) = (&self.world.store, &self.world.coordination);
        Cleaner { store, coordination, grace: self.grace }.run(self.now, self.runs, delete).await
    }
}

async fn keys_of(store: &MemoryStore) -> BTreeSet<String> {
    let listed = store.list("").await.expect("the store is up").into_iter().map(|object| object.key.to_string());
    listed.filter(|key| !key.starts_with(key::CLEAN_PREFIX)).collect()
}

async fn put(store: &MemoryStore, key: &str) {
    store.put(&Key::listed(key.to_owned()), Bytes::from_static(b"abc")).await.expect("the store is up");
}

#[tokio::test(start_paused = true)]
async fn what_is_of_nothing_goes_after_its_grace() {
    let mut world = World::new().await;
    world.open("standup", auto()).await;
    let coordinator = world.coordinator("a").await;
    let recording = world.the_recording().await;
    let prefix = recording.name().keys().prefix().to_owned();
    world.last_window(&recording, 8_000_000).await;
    world.complete(&recording.id).await;
    for name in
        ["composites/grid/00000000.m4s", "composites/grid/00000001.m4s", "composites/grid/composite.mp4", "mine.txt"]
    {
        put(&world.store, &format!("{prefix}{name}")).await;
    }
    let whole = keys_of(&world.store).await;
    let left = ["composites/grid/00000002.m4s", "composites/x/init.mp4", "unfinished.json"]
        .map(|name| format!("{prefix}{name}"));
    for key in
        left.iter().map(String::as_str).chain(["probe/00000000000000ab", "acme/rooms/b/recordings/01n/policy.json"])
    {
        put(&world.store, key).await;
    }
    let upload = world.store.begin_upload(&Key::listed(format!("{prefix}composites/grid/composite.webm"))).await;
    let everything = keys_of(&world.store).await;
    tokio::time::advance(2 * DAY).await;
    until("it leads again", async || world.coordination.get(&leader_key()).await.expect("up")).await;

    let mut clean = Clean::new(&world, WEEK);
    let report = clean.run(true).await.expect("the stores are up");
    assert_eq!(
        (report.recordings, report.marked.len(), report.deleted.len(), report.foreign),
        (2, 6, 0, 1),
        "{report:?}"
    );
    assert_eq!(report.troubles, [""; 0]);
    clean.now += WEEK / 2;
    // One of them is somebody's after all, another is written anew.
    world.store.delete(&Key::listed(format!("{prefix}composites/x/init.mp4"))).await.expect("the store is up");
    put(&world.store, "probe/00000000000000ab").await;
    assert_eq!(clean.run(true).await.expect("up").deleted.len(), 0);
    clean.now += WEEK / 2;
    let report = clean.run(false).await.expect("up");
    let due: Vec<_> = report.marked.iter().filter(|marked| marked.is_due).map(|marked| marked.candidate.left).collect();
    assert_eq!((due.len(), report.deleted.len()), (4, 0), "{report:?}");
    assert_eq!(keys_of(&world.store).await.len(), everything.len() - 1, "nothing goes unasked");
    assert_eq!(world.store.list(key::CLEAN_PREFIX).await.expect("up").len(), 1, "one object holds the marks");
    let report = clean.run(true).await.expect("up");
    assert_eq!(report.deleted.len(), 4, "{report:?}");
    assert_eq!(world.store.open_uploads(), 0, "{upload:?}");
    let expected = whole.into_iter().chain(["probe/00000000000000ab".to_owned()]).collect::<BTreeSet<_>>();
    assert_eq!(keys_of(&world.store).await, expected);
    clean.now += WEEK;
    assert_eq!(clean.run(true).await.expect("up").deleted.len(), 1);
    assert_eq!(clean.run(true).await.expect("up").marked.len(), 0);
    assert_eq!(world.store.list(key::CLEAN_PREFIX).await.expect("up").len(), 0, "and none when there is nothing");
    coordinator.drain().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_or_an_answer_nothing_is_touched() {
    let mut world = World::new().await;
    put(&world.store, "probe/00000000000000ab").await;
    let mut clean = Clean::new(&world, Duration::ZERO);
    assert!(matches!(clean.run(true).await, Err(Error::NoLeader)));
    let away = Arc::new(AtomicBool::new(false));
    let is_away = away.clone();
    let lead = |world: &World| {
        let put = Change::Put(leader_key(), Bytes::from_static(b"a"), None);
        let coordination = world.coordination.clone();
        async move { coordination.transact(Vec::new(), vec![put]).await.expect("up") }
    };
    lead(&world).await;
    let faults = move |_: Operation, _: &str| is_away.load(Ordering::SeqCst).then_some(Fault::FailBefore);
    world.coordination = world.coordination.with_faults(Arc::new(faults));
    let mut clean = Clean::new(&world, Duration::ZERO);
    assert_eq!(clean.run(true).await.expect("up").marked.len(), 1);
    clean.now += DAY;
    away.store(true, Ordering::SeqCst);
    assert!(matches!(clean.run(true).await, Err(Error::Coordination(_))));
    assert_eq!(keys_of(&world.store).await.len(), 1);
    away.store(false, Ordering::SeqCst);
    assert_eq!(clean.run(true).await.expect("up").deleted.len(), 1);
}

/// Between the first look and the deletion of what was found, it becomes part of something.
#[tokio::test(start_paused = true)]
async fn what_is_spoken_for_at_the_last_moment_stays() {
    let mut world = World::new().await;
    let prefix = name().keys().prefix().to_owned();
    for name in ["policy.json", "unfinished.json"] {
        put(&world.store, &format!("{prefix}{name}")).await;
    }
    let lead = Change::Put(leader_key(), Bytes::from_static(b"a"), None);
    world.coordination.transact(Vec::new(), vec![lead]).await.expect("up");
    let mut clean = Clean::new(&world, Duration::ZERO);
    assert_eq!(clean.run(true).await.expect("up").marked.len(), 2);
    // The leader takes the recording up when the first look has just ended.
    let taken = world.coordination.clone();
    let faults = move |operation: Operation, _: &str| {
        if operation == Operation::ListUploads {
            let put = Change::Put(recording_key(&id("01r")), Bytes::from_static(b"{}"), None);
            let written = taken.transact(Vec::new(), vec![put]).now_or_never();
            assert!(matches!(written, Some(Ok(_))));
        }
        None
    };
    let now = clean.now + DAY;
    world.store = world.store.with_faults(Arc::new(faults));
    let mut clean = Clean { now, runs: 9, ..Clean::new(&world, Duration::ZERO) };
    let report = clean.run(true).await.expect("up");
    assert_eq!(report.marked.iter().filter(|marked| marked.is_due).count(), 2, "{report:?}");
    assert_eq!(report.deleted.len(), 0, "{report:?}");
    assert_eq!(keys_of(&world.store).await.len(), 2);
}

/// A recording begins, goes on and ends while a cleaner without any grace runs all the time.
#[tokio::test(start_paused = true)]
async fn a_recording_that_ends_during_a_clean_up_loses_nothing() {
    let mut world = World::new().await;
    world.store = MemoryStore::new().with_history();
    put(&world.store, "probe/00000000000000ab").await;
    let (store, coordination) = (world.store.clone(), world.coordination.clone());
    let cleaning = tokio::spawn(async move {
        let mut deleted = BTreeSet::new();
        for run in 0_u64.. {
            let cleaner = Cleaner { store: &store, coordination: &coordination, grace: Duration::ZERO };
            let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(run);
            if let Ok(report) = cleaner.run(now, run, true).await {
                deleted.extend(report.deleted.into_iter().map(|candidate| candidate.key.to_string()));
            }
            if deleted.contains("probe/00000000000000ac") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        deleted
    });
    world.open("standup", auto()).await;
    let coordinator = world.coordinator("a").await;
    let recording = world.the_recording().await;
    let prefix = recording.name().keys().prefix().to_owned();
    for name in ["composites/grid/init.mp4", "composites/grid/00000000.m4s", "composites/grid/composite.mp4"] {
        put(&world.store, &format!("{prefix}{name}")).await;
    }
    world.last_window(&recording, 4_000_000).await;
    let finished = world.complete(&recording.id).await;
    assert_eq!(finished.state, State::Complete);
    put(&world.store, "probe/00000000000000ac").await;
    let deleted = cleaning.await.expect("it ends");
    assert_eq!(deleted, ["probe/00000000000000ab", "probe/00000000000000ac"].map(str::to_owned).into());
    let gone = world.store.history().into_iter().filter(|mutation| mutation.kind == MutationKind::Deleted);
    let gone: BTreeSet<_> =
        gone.map(|mutation| mutation.key.to_string()).filter(|key| key.starts_with(&prefix)).collect();
    assert_eq!(gone, [format!("{prefix}unfinished.json")].into(), "which the leader deletes");
    coordinator.drain().await;
}
