//! The object store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomreel_backends::memory::faults::{Fault, Operation, Script};
use roomreel_backends::memory::{MemoryStore, MutationKind};
use roomreel_backends::objects::DirectoryStore;
use roomreel_backends::probe;
use roomreel_backends::s3::{S3Config, S3Credentials, S3Store};
use roomreel_shared::id::{CompositeId, MAX_TOKEN_CHARS, RecordingId, RoomId, TenantId};
use roomreel_shared::key::{Key, RecordingKeys};
use roomreel_shared::pieces::Pieces;
use roomreel_shared::ports::{MIN_PART_BYTES, ObjectStore, StoreError, Upload, UploadedPart};
use roomreel_tests::servers::S3Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn keys(recording: &str) -> RecordingKeys {
    let room = RoomId::new("all hands/../1").expect("valid");
    RecordingKeys::new(&TenantId::new("acme").expect("valid"), &room, &RecordingId::new(recording).expect("valid"))
}

async fn contract(store: &dyn ObjectStore) {
    objects_are_written_read_and_removed(store).await;
    one_of_many_creates_succeeds(store).await;
    pieces_are_one_object(store).await;
    uploads_become_objects_once(store).await;
    listings_are_in_order(store).await;
    assert!(probe::conditional_create(store, 77).await.expect("asked"), "the store has conditional creates");
    assert_eq!(store.list("probe/").await.expect("listed"), []);
}

async fn objects_are_written_read_and_removed(store: &dyn ObjectStore) {
    let key = keys("objects").recording_json();
    assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { key: named }) if named == key.as_str()));
    assert!(matches!(store.size(&key).await, Err(StoreError::NotFound { .. })));
    store.create(&key, "0123456789".into()).await.expect("created");
    let again = store.create(&key, "other".into()).await;
    assert!(matches!(&again, Err(StoreError::AlreadyExists { key: named }) if named == key.as_str()), "{again:?}");
    assert_eq!(store.get(&key).await.expect("read"), "0123456789");
    for (range, expected) in [(2..5, "234"), (8..99, "89"), (10..12, ""), (50..60, ""), (3..3, "")] {
        assert_eq!(store.get_range(&key, range.clone()).await.expect("read"), expected, "{range:?}");
    }
    store.put(&key, "replaced".into()).await.expect("written");
    assert_eq!(store.size(&key).await.expect("asked"), 8);
    store.delete(&key).await.expect("removed");
    store.delete(&key).await.expect("removing none is no error");
    assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { .. })));
    store.create(&key, Bytes::new()).await.expect("an empty object is one");
    assert_eq!(store.get(&key).await.expect("read"), "");
}

/// A room whose id is as long as can be loses nothing.
async fn takes_the_longest_keys(store: &dyn ObjectStore) {
    let longest = "é".repeat(MAX_TOKEN_CHARS / 6);
    let room = RoomId::new(&longest).expect("valid");
    let keys = RecordingKeys::new(&TenantId::new(&longest).expect("valid"), &room, &RecordingId::generate(1, 1));
    let composite = CompositeId::new(&longest).expect("valid");
    for key in [keys.window(0), keys.slice(&composite, 0), keys.composite_mp4(&composite), keys.unfinished_json()] {
        store.create(&key, "taken".into()).await.expect("created");
        assert_eq!(store.get(&key).await.expect("read"), "taken");
        assert!(matches!(store.create(&key, "again".into()).await, Err(StoreError::AlreadyExists { .. })));
    }
    let key = keys.composite_file(&composite, "joined.mp4");
    let upload = store.begin_upload(&key).await.expect("begun");
    let part = store.upload_part(&upload, 1, "part".into()).await.expect("stored");
    store.complete_upload(&upload, vec![part]).await.expect("completed");
    assert_eq!(store.list(&keys.windows_prefix()).await.expect("listed").len(), 1);
}

async fn one_of_many_creates_succeeds(store: &dyn ObjectStore) {
    let key = keys("race").window(0);
    let create = async |number: usize| match store.create(&key, format!("writer {number}").into()).await {
        Ok(()) => Some(number),
        Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    let winners: Vec<_> = futures::future::join_all((0..16).map(create)).await.into_iter().flatten().collect();
    let [winner] = winners[..] else { panic!("{winners:?} all created it") };
    assert_eq!(store.get(&key).await.expect("read"), format!("writer {winner}"));
}

async fn pieces_are_one_object(store: &dyn ObjectStore) {
    let key = keys("pieces").window(0);
    let mut pieces = Pieces::default();
    for number in 0..40_u8 {
        pieces.push(vec![number; 1 + 500 * usize::from(number)].into());
    }
    store.create_of(&key, pieces.clone()).await.expect("created");
    assert_eq!(store.get(&key).await.expect("read"), pieces.joined());
    let again = store.create_of(&key, pieces.slice(0..9)).await;
    assert!(matches!(&again, Err(StoreError::AlreadyExists { .. })), "{again:?}");
    store.create_of(&keys("pieces").window(1), Pieces::default()).await.expect("none of them make an empty object");
    assert_eq!(store.size(&keys("pieces").window(1)).await.expect("asked"), 0);
}

async fn uploads_become_objects_once(store: &dyn ObjectStore) {
    let keys = keys("uploads");
    let key = keys.window(1);
    let (first, second) = (Bytes::from(vec![1; MIN_PART_BYTES]), Bytes::from_static(b"the rest"));
    let whole = Bytes::from([&first[..], &second[..]].concat());
    let upload = store.begin_upload(&key).await.expect("begun");
    let late = store.begin_upload(&key).await.expect("two may be under way");
    // The first part last: the header of a file is known when its end is.
    let part_2 = store.upload_part(&upload, 2, second.clone()).await.expect("uploaded");
    let part_1 = store.upload_part(&upload, 1, first).await.expect("uploaded");
    assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { .. })), "not there before its completion");
    assert_eq!(store.list(keys.prefix()).await.expect("listed"), []);
    store.complete_upload(&upload, vec![part_2, part_1]).await.expect("completed");
    assert_eq!(store.get(&key).await.expect("read"), whole);
    let part = store.upload_part(&late, 1, second.clone()).await.expect("uploaded");
    let refused = store.complete_upload(&late, vec![part]).await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists { .. })), "{refused:?}");
    assert_eq!(store.size(&key).await.expect("asked"), whole.len() as u64);
    store.abort_upload(&late).await.expect("dropped");
    assert_eq!(store.list_uploads().await.expect("listed"), Some(Vec::new()));
    // What a process that was killed left is found, and dropped, by another one.
    for number in 2..5 {
        let left = store.begin_upload(&keys.window(number)).await.expect("begun");
        store.upload_part(&left, 1, second.clone()).await.expect("uploaded");
    }
    let open = store.list_uploads().await.expect("listed").expect("this store can tell");
    let of: BTreeSet<_> = open.iter().filter_map(|open| keys.window_number(&open.upload.key)).collect();
    assert_eq!(of, [2, 3, 4].into(), "{open:?}");
    assert!(open.iter().all(|open| open.age < Duration::from_secs(60)), "{open:?}");
    for open in open {
        store.abort_upload(&open.upload).await.expect("dropped");
        store.abort_upload(&open.upload).await.ok();
    }
    assert_eq!(store.list_uploads().await.expect("listed"), Some(Vec::new()));
    let listed: Vec<_> = store.list(keys.prefix()).await.expect("listed").into_iter().map(|l| l.key).collect();
    assert_eq!(listed, [key]);
}

async fn listings_are_in_order(store: &dyn ObjectStore) {
    let keys = keys("list");
    for number in [3, 0, 10, 1] {
        store.create(&keys.window(number), vec![0; number as usize].into()).await.expect("created");
    }
    store.put(&keys.recording_json(), "{}".into()).await.expect("written");
    let listed = store.list(&keys.windows_prefix()).await.expect("listed");
    let found: Vec<_> = listed.iter().map(|l| (keys.window_number(&l.key).expect("a window"), l.size)).collect();
    assert_eq!(found, [(0, 0), (1, 1), (3, 3), (10, 10)]);
    let tens = store.list(&format!("{}0000001", keys.windows_prefix())).await.expect("listed");
    assert_eq!(tens.len(), 1, "a prefix need not end at a slash");
    let prefix = keys.prefix();
    let names = store.list_directory(prefix).await.expect("listed");
    assert_eq!(names, [keys.recording_json().as_str().to_owned(), keys.windows_prefix()]);
    assert_eq!(store.list("nothing/here/").await.expect("listed"), []);
    assert_eq!(store.list_directory("nothing/here/").await.expect("listed"), Vec::<String>::new());
}

/// What a listing of more than one page must find.
async fn assert_lists_all(store: &dyn ObjectStore, keys: &RecordingKeys, windows: u64) {
    let listed = store.list(&keys.windows_prefix()).await.expect("listed");
    let numbers: Vec<_> = listed.iter().filter_map(|l| keys.window_number(&l.key)).collect();
    assert!(numbers.iter().copied().eq(0..windows), "{} of {windows}", numbers.len());
    assert_eq!(store.list_directory(&keys.windows_prefix()).await.expect("listed").len() as u64, windows);
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let store = MemoryStore::new().with_history();
    contract(&store).await;
    assert_eq!(store.open_uploads(), 0);
    let keys = keys("many");
    for number in 0..1100 {
        store.create(&keys.window(number), Bytes::new()).await.expect("created");
    }
    assert_lists_all(&store, &keys, 1100).await;
    let history = store.history();
    let created = |key: &Key| history.iter().filter(|m| m.key == *key && m.kind == MutationKind::Created).count();
    assert_eq!(created(&self::keys("race").window(0)), 1);
}

/// Objects as files, written beside the store: what is listed is what lies there.
fn write_windows(directory: &std::path::Path, keys: &RecordingKeys, windows: u64) {
    std::fs::create_dir_all(directory.join(keys.windows_prefix())).expect("created");
    for number in 0..windows {
        std::fs::write(directory.join(keys.window(number).as_str()), b"x").expect("written");
    }
}

#[tokio::test]
async fn a_directory_keeps_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = DirectoryStore::open(directory.path().join("new")).expect("opened");
    contract(&store).await;
    assert_eq!(
        store.presign_get(&keys("objects").recording_json(), Duration::from_secs(60)).await.expect("asked"),
        None
    );
    let keys = keys("many");
    write_windows(&directory.path().join("new"), &keys, 1100);
    assert_lists_all(&store, &keys, 1100).await;
    takes_the_longest_keys(&store).await;
    let file = directory.path().join("file");
    std::fs::write(&file, b"").expect("written");
    let error = DirectoryStore::open(&file).err().expect("it is no directory").to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
}

#[tokio::test]
async fn s3_keeps_the_contract() {
    // What is sent is hashed for the signature, or it is not.
    for sign_payload in [true, false] {
        let server = S3Server::start().await.expect("an S3 starts");
        let config = S3Config { sign_payload: Some(sign_payload), ..server.config() };
        contract(&S3Store::connect(config).await.expect("connected")).await;
    }
    let server = S3Server::start().await.expect("an S3 starts");
    if server.is_local() {
        // A key that it does not take is refused for good, with the reason, and not as if it did not answer.
        let store = S3Store::connect(server.config()).await.expect("connected");
        let room = RoomId::new("x".repeat(MAX_TOKEN_CHARS)).expect("valid");
        let tenant = TenantId::new("acme").expect("valid");
        let key = RecordingKeys::new(&tenant, &room, &RecordingId::generate(1, 1)).window(0);
        let error = store.create(&key, "window".into()).await.expect_err("it is too long");
        assert!(error.is_permanent() && error.to_string().contains("KeyTooLongError"), "{error}");
    }
    let store = S3Store::connect(server.config()).await.expect("connected");
    let keys = keys("many");
    if let Some(directory) = server.directory() {
        write_windows(&directory, &keys, 1100);
        assert_lists_all(&store, &keys, 1100).await;
    }
}

/// The whole answer to a plain GET of `url`, as a stranger sends it.
async fn get(url: &str) -> String {
    let (host, path) = url["http://".len()..].split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host).await.expect("connected");
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn a_presigned_url_gives_the_object_to_whoever_has_it() {
    let server = S3Server::start().await.expect("an S3 starts");
    let store = S3Store::connect(server.config()).await.expect("connected");
    let key = keys("presigned").recording_json();
    store.create(&key, "for you".into()).await.expect("created");
    let url = store.presign_get(&key, Duration::from_secs(60)).await.expect("signed").expect("S3 has such URLs");
    if !url.starts_with("http://") {
        return;
    }
    assert!(get(&url).await.ends_with("for you"));
    let forged = url.replace("recording.json", "policy.json");
    assert!(get(&forged).await.contains("SignatureDoesNotMatch"), "another key is not signed for");
    assert!(matches!(
        store.presign_get(&key, Duration::from_secs(8 * 24 * 3600)).await,
        Err(StoreError::Refused { .. })
    ));
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let server = S3Server::start().await.expect("an S3 starts");
    let missing = S3Config { bucket: "no-such-bucket".to_owned(), ..server.config() };
    let error = S3Store::connect(missing).await.err().expect("refused");
    assert!(error.is_permanent() && error.to_string().contains("no-such-bucket"), "{error}");
    assert!(error.to_string().contains("create it"), "{error}");
    let mut stranger = server.config();
    stranger.credentials.as_mut().expect("the test has keys").secret_access_key = "wrong".to_owned().into();
    let error = S3Store::connect(stranger).await.err().expect("refused");
    assert!(error.is_permanent() && error.to_string().contains("credentials"), "{error}");
    if !server.is_local() {
        return;
    }
    let store = S3Store::connect(server.config()).await.expect("connected");
    server.pause();
    let key = keys("down").window(0);
    let down = store.create(&key, "x".into()).await.expect_err("the store is down");
    assert!(matches!(down, StoreError::Unavailable { .. }), "{down}");
    server.resume();
    store.create(&key, "x".into()).await.expect("nothing was left of the first");
    let config = server.config();
    drop(server);
    let gone = S3Store::connect(config.clone()).await.err().expect("nobody listens");
    let endpoint = config.endpoint.expect("the test has one");
    assert!(matches!(&gone, StoreError::Unavailable { .. }) && gone.to_string().contains(&endpoint), "{gone}");
}

/// A server that gives each request the same answer, whatever it was.
async fn answering(status: &str, code: &str) -> S3Config {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 64 * 1024];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    let credentials = S3Credentials {
        access_key_id: "key".to_owned(),
        secret_access_key: "secret".to_owned().into(),
        session_token: None,
    };
    let (endpoint, credentials) = (Some(endpoint), Some(credentials));
    S3Config { endpoint, credentials, path_style: true, ..S3Config::new("bucket", "us-east-1") }
}

#[tokio::test]
async fn answers_that_leave_it_open_are_told_apart() {
    let key = keys("answers").window(0);
    let upload = Upload { key: key.clone(), id: "upload".to_owned() };
    let parts = || vec![UploadedPart { number: 1, tag: "tag".to_owned() }];
    // A completion can begin with 200 and end as an error.
    let failing = S3Store::connect(answering("200 OK", "InternalError").await).await.expect("200 to the bucket");
    let completed = failing.complete_upload(&upload, parts()).await;
    assert!(matches!(completed, Err(StoreError::Unavailable { .. })), "{completed:?}");
    // To a HEAD, 409 and 503 say nothing of a bucket's being there.
    for (status, code) in [("409 Conflict", "ConditionalRequestConflict"), ("503 Slow Down", "SlowDown")] {
        let error = S3Store::connect(answering(status, code).await).await.err().expect("refused");
        assert!(!error.is_permanent(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn scripted_faults_do_what_they_say() {
    let script = Script::new();
    let honest = MemoryStore::new();
    let store = honest.clone().with_faults(Arc::new(script.clone()));
    let keys = keys("faults");
    for fault in [Fault::FailBefore, Fault::LoseAnswer, Fault::Conflict, Fault::Hang] {
        script.push(Operation::Create, fault);
    }
    let unavailable = |answer: Result<(), StoreError>| matches!(answer, Err(StoreError::Unavailable { .. }));
    assert!(unavailable(store.create(&keys.window(0), "x".into()).await));
    assert!(matches!(honest.get(&keys.window(0)).await, Err(StoreError::NotFound { .. })));
    assert!(unavailable(store.create(&keys.window(0), "x".into()).await));
    assert_eq!(honest.get(&keys.window(0)).await.expect("it had been created"), "x");
    assert!(matches!(store.create(&keys.window(1), "x".into()).await, Err(StoreError::Conflict { .. })));
    assert!(unavailable(store.create(&keys.window(1), "x".into()).await));
    store.create(&keys.window(1), "x".into()).await.expect("no fault is left");
    assert_eq!(script.remaining(), 0);
}
