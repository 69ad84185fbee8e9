//! Files as a process leaves them, whole, torn and hostile.

use super::*;
use proptest::prelude::*;
use roomreel_shared::batch::{Incarnation, Packet, PacketData, RtpBatch};
use roomreel_shared::id::{RoomId, TrackId};
use roomreel_shared::time::RoomTime;

fn tenant() -> TenantId {
    TenantId::new("acme").expect("valid")
}

fn sfu() -> SfuId {
    SfuId::new("sfu-1").expect("valid")
}

fn batch(number: u64) -> Bytes {
    let data = PacketData::Rtp(vec![number as u8; 1000].into());
    RtpBatch {
        room: RoomId::new("standup").expect("valid"),
        track: TrackId::new("cam").expect("valid"),
        incarnation: Incarnation::new(7).expect("not 0"),
        batch_no: number,
        first_packet_no: number * 2,
        packets: vec![Packet { time: RoomTime::default(), data }; 2],
    }
    .encode()
}

fn config(dir: &Path, max_bytes: u64) -> SpoolConfig {
    SpoolConfig { dir: dir.to_owned(), max_bytes }
}

fn open(dir: &Path) -> (Files, Vec<u64>) {
    let (files, recovered) = Files::open(&config(dir, 1 << 20), &tenant(), &sfu()).expect("opens");
    (files, recovered.into_iter().map(|found| found.id.number).collect())
}

fn spool_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("there").map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "spool")).collect();
    files.sort();
    files
}

#[test]
fn what_is_not_forgotten_is_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut files, found) = open(dir.path());
    assert!(found.is_empty());
    let places: Vec<Place> = (0..10).map(|number| files.append(true, &batch(number)).expect("fits")).collect();
    assert_eq!(files.read(places[4]).expect("there"), batch(4));
    files.forget(7, (0, 3), &places[0..4]);
    files.forget(7, (8, 8), &places[8..9]);
    drop(files);
    let (mut files, recovered) = Files::open(&config(dir.path(), 1 << 20), &tenant(), &sfu()).expect("opens");
    let numbers: Vec<u64> = recovered.iter().map(|found| found.id.number).collect();
    assert_eq!(numbers, [4, 5, 6, 7, 9]);
    assert_eq!(recovered[0].id.packets, (8, 9));
    for found in &recovered {
        let payload = files.read(found.place).expect("there");
        assert_eq!((payload.len(), payload), (found.bytes, batch(found.id.number)));
    }
    let places: Vec<Place> = recovered.iter().map(|found| found.place).collect();
    files.forget(7, (0, 9), &places);
    files.close();
    assert_eq!(spool_files(dir.path()), Vec::<PathBuf>::new(), "what holds nothing leaves nothing");
}

#[test]
fn files_go_when_what_is_in_them_is_durable_and_bytes_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut files, _) = open(dir.path());
    let mut places = VecDeque::new();
    let mut written = 0;
    loop {
        match files.append(true, &batch(written)) {
            Ok(place) => places.push_back((written, place)),
            Err(refusal) => break assert!(matches!(refusal, Refusal::Full)),
        }
        written += 1;
    }
    let on_disk = || spool_files(dir.path()).iter().map(|path| path.metadata().expect("there").len()).sum::<u64>();
    assert!(written > 400 && (900_000..=1 << 20).contains(&on_disk()), "{written} in {} bytes", on_disk());
    let full = spool_files(dir.path()).len();
    // A rolling window of them for a long time.
    for number in written..written + 3000 {
        let (oldest, place) = places.pop_front().expect("there are many");
        files.forget(7, (oldest, oldest), &[place]);
        if places.len() < 300 {
            places.push_back((number, files.append(true, &batch(number)).expect("there is room again")));
        }
        assert!(on_disk() <= (1 << 20) + (64 << 10));
    }
    assert!(spool_files(dir.path()).len() < full);
    drop(files);
    assert_eq!(open(dir.path()).1.len(), places.len());
}

#[test]
fn a_torn_end_costs_what_was_being_written_and_damage_costs_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut files, _) = open(dir.path());
    let places: Vec<Place> = (0..4).map(|number| files.append(true, &batch(number)).expect("fits")).collect();
    drop(files);
    let path = spool_files(dir.path()).remove(0);
    let whole = std::fs::read(&path).expect("there");
    for cut in (0..whole.len()).step_by(37) {
        std::fs::write(&path, &whole[..cut]).expect("written");
        let ends = places.iter().filter(|place| place.offset + u64::from(place.length) <= cut as u64).count() as u64;
        assert_eq!(open(dir.path()).1, (0..ends).collect::<Vec<_>>(), "cut at {cut}");
        spool_files(dir.path()).into_iter().skip(1).for_each(|path| std::fs::remove_file(path).expect("removed"));
    }
    let mut flipped = whole.clone();
    flipped[places[1].offset as usize + 500] ^= 1;
    std::fs::write(&path, &flipped).expect("written");
    let (mut files, found) = open(dir.path());
    assert_eq!(found, [0, 2, 3]);
    assert!(files.read(places[1]).is_err());
    // What is written now goes to another file.
    files.append(true, &batch(9)).expect("fits");
    drop(files);
    assert_eq!(open(dir.path()).1, [0, 2, 3, 9]);
}

#[test]
fn nobody_else_may_read_a_spool() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("spool");
    let (mut files, _) = open(&dir);
    files.append(true, &batch(0)).expect("fits");
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("lock")), mode(&spool_files(&dir)[0])), (0o700, 0o600, 0o600));
}

#[test]
fn a_spool_is_of_one_sfu_and_of_one_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut files, _) = open(dir.path());
    files.append(true, &batch(0)).expect("fits");
    let again = Files::open(&config(dir.path(), 1 << 20), &tenant(), &sfu());
    assert!(matches!(again, Err(Error::InUse { .. })));
    drop(files);
    let other = SfuId::new("sfu-2").expect("valid");
    let foreign = Files::open(&config(dir.path(), 1 << 20), &tenant(), &other).map(|_| ());
    assert!(matches!(&foreign, Err(Error::Foreign { sfu, .. }) if sfu == "sfu-1"), "{foreign:?}");
    assert_eq!(open(dir.path()).1, [0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..400),
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..8),
        fixes in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut bytes = [&record::MAGIC[..], &record::owner(&tenant(), &sfu())].concat();
        bytes.extend(record::message(true, &batch(3)));
        bytes.extend(record::forgotten(7, (5, 2)));
        // With a checksum that is right, or without.
        bytes.extend(if fixes { record::message(false, &noise) } else { noise });
        bytes.extend(record::message(true, &batch(4)));
        let length = bytes.len();
        edits.iter().for_each(|(at, byte)| bytes[at % length] ^= byte);
        std::fs::write(dir.path().join(format!("{:020}.spool", 3)), bytes).expect("written");
        std::fs::write(dir.path().join("noise.spool"), b"noise").expect("written");
        if let Ok((mut files, recovered)) = Files::open(&config(dir.path(), 1 << 20), &tenant(), &sfu()) {
            for found in recovered {
                prop_assert_eq!(files.read(found.place).expect("it was read before").len(), found.bytes);
                files.forget(found.id.incarnation.get(), (found.id.number, found.id.number), &[found.place]);
            }
            files.append(true, &batch(5)).expect("fits");
        }
    }
}
