//! The coordination store.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use roomreel_backends::etcd::{Etcd, EtcdConfig};
use roomreel_backends::memory::MemoryCoordination;
use roomreel_backends::memory::faults::{Fault, Operation, Script};
use roomreel_shared::ports::{Change, Compare, Coordination, CoordinationError, LeaseId, Outcome};
use roomreel_tests::servers::EtcdServer;
use tokio::time::Instant;

use crate::{PATIENCE, next};

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Change {
    Change::Put(key.to_owned(), value.to_owned().into(), lease)
}

async fn commit(store: &dyn Coordination, changes: Vec<Change>) -> u64 {
    match store.transact(vec![], changes).await.expect("asked") {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("there was no condition"),
    }
}

async fn contract(store: &dyn Coordination) {
    transactions_hold_all_or_nothing(store).await;
    lists_are_whole_and_in_order(store).await;
    what_is_bound_to_a_lease_goes_with_it(store).await;
    a_watch_wakes_up(store).await;
}

async fn transactions_hold_all_or_nothing(store: &dyn Coordination) {
    assert_eq!(store.get("/t/a").await.expect("asked"), None);
    let absent = || vec![Compare::Absent("/t/a".to_owned())];
    let Outcome::Committed(first) = store.transact(absent(), vec![put("/t/a", "1", None)]).await.expect("asked") else {
        panic!("it was absent");
    };
    let again = store.transact(absent(), vec![put("/t/b", "1", None)]).await.expect("asked");
    assert_eq!((again, store.get("/t/b").await.expect("asked")), (Outcome::Conflict, None));
    let created = store.get("/t/a").await.expect("asked").expect("there");
    assert_eq!((created.create_revision, created.mod_revision, &created.value[..]), (first, first, &b"1"[..]));
    // One revision for all of a transaction, and the next one is greater.
    let second = commit(store, vec![put("/t/a", "2", None), put("/t/b", "2", None)]).await;
    assert_eq!(second, first + 1);
    let (a, b) = (store.get("/t/a").await.expect("asked"), store.get("/t/b").await.expect("asked"));
    let (a, b) = (a.expect("there"), b.expect("there"));
    assert_eq!((a.create_revision, a.mod_revision, b.create_revision), (first, second, second));
    for (condition, holds) in [
        (Compare::Created("/t/a".to_owned(), first), true),
        (Compare::Unchanged("/t/a".to_owned(), second), true),
        (Compare::Created("/t/a".to_owned(), second), false),
        (Compare::Unchanged("/t/a".to_owned(), first), false),
        (Compare::Created("/t/none".to_owned(), 0), false),
        (Compare::Unchanged("/t/none".to_owned(), 0), false),
        (Compare::Absent("/t/none".to_owned()), true),
    ] {
        let outcome = store.transact(vec![condition.clone()], vec![]).await.expect("asked");
        assert_eq!(outcome != Outcome::Conflict, holds, "{condition:?}");
    }
    // A key that was removed and made again is another one: who held it before finds out.
    commit(store, vec![Change::Delete("/t/a".to_owned())]).await;
    commit(store, vec![put("/t/a", "3", None)]).await;
    let held = store.transact(vec![Compare::Created("/t/a".to_owned(), first)], vec![]).await.expect("asked");
    assert_eq!(held, Outcome::Conflict);
    let twice = store.transact(vec![], vec![put("/t/c", "1", None), put("/t/c", "2", None)]).await;
    assert!(matches!(twice, Err(CoordinationError::Refused { .. })), "{twice:?}");
}

async fn lists_are_whole_and_in_order(store: &dyn Coordination) {
    let name = |number: u32| format!("/l/{number:04}");
    for start in (0..250).step_by(50) {
        commit(store, (start..start + 50).map(|number| put(&name(number), "x", None)).collect()).await;
    }
    let revision = commit(store, vec![put("/l0", "not below /l/", None), put("/l", "nor this", None)]).await;
    let snapshot = store.list("/l/").await.expect("listed");
    assert_eq!(snapshot.revision, revision);
    assert!(snapshot.records.iter().map(|record| record.key.clone()).eq((0..250).map(name)));
    assert_eq!(store.list("/none/").await.expect("listed").records, []);
}

async fn what_is_bound_to_a_lease_goes_with_it(store: &dyn Coordination) {
    let ttl = Duration::from_secs(2);
    let lease = store.grant_lease(ttl).await.expect("granted");
    let revoked = store.grant_lease(ttl).await.expect("granted");
    let kept = store.grant_lease(ttl).await.expect("granted");
    commit(store, vec![put("/e/a", "x", Some(lease)), put("/e/b", "x", Some(revoked)), put("/e/c", "x", Some(kept))])
        .await;
    store.revoke(revoked).await.expect("revoked");
    assert_eq!(store.get("/e/b").await.expect("asked"), None);
    assert!(matches!(store.revoke(revoked).await, Err(CoordinationError::LeaseLost { lease }) if lease == revoked.0));
    // One is renewed, the other is not; a watch, with nobody calling, tells of its end.
    let mut changes = store.watch("/e/a").await.expect("watching");
    next(&mut changes).await;
    let began = Instant::now();
    let renew = async {
        loop {
            assert!(store.keep_alive(kept).await.expect("renewed") >= Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = next(&mut changes) => {}
        () = renew => {}
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "it ended early, after {:?}", began.elapsed());
    assert_eq!(store.get("/e/a").await.expect("asked"), None);
    assert!(store.get("/e/c").await.expect("asked").is_some());
    let lost = store.keep_alive(lease).await;
    assert!(matches!(lost, Err(CoordinationError::LeaseLost { lease: named }) if named == lease.0), "{lost:?}");
    let bound = store.transact(vec![], vec![put("/e/d", "x", Some(lease))]).await;
    assert!(matches!(bound, Err(CoordinationError::LeaseLost { .. })), "{bound:?}");
}

async fn a_watch_wakes_up(store: &dyn Coordination) {
    let mut changes = store.watch("/w/").await.expect("watching");
    next(&mut changes).await;
    commit(store, vec![put("/w/a", "x", None)]).await;
    next(&mut changes).await;
    commit(store, vec![put("/other", "x", None)]).await;
    commit(store, vec![Change::Delete("/w/a".to_owned())]).await;
    next(&mut changes).await;
}

#[tokio::test(start_paused = true)]
async fn memory_keeps_the_contract() {
    contract(&MemoryCoordination::new()).await;
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let server = EtcdServer::start().await.expect("etcd starts");
    contract(&Etcd::connect(EtcdConfig::new([server.url()])).await.expect("connected")).await;
}

#[tokio::test]
async fn an_etcd_that_goes_is_noticed_and_found_again() {
    let mut server = EtcdServer::start().await.expect("etcd starts");
    let config = EtcdConfig { request_timeout: Duration::from_secs(1), ..EtcdConfig::new([server.url()]) };
    let store = Etcd::connect(config.clone()).await.expect("connected");
    let lease = store.grant_lease(Duration::from_secs(60)).await.expect("granted");
    store.keep_alive(lease).await.expect("renewed");
    let mut changes = store.watch("/").await.expect("watching");
    next(&mut changes).await;
    server.pause().expect("paused");
    let began = Instant::now();
    let stalled = store.get("/a").await.expect_err("it is paused");
    assert!(matches!(&stalled, CoordinationError::Unavailable { server: at, .. } if *at == server.url()), "{stalled}");
    assert!(matches!(store.keep_alive(lease).await, Err(CoordinationError::Unavailable { .. })));
    assert!(began.elapsed() < Duration::from_secs(4), "the limits do not hold");
    server.resume().expect("resumed");
    store.keep_alive(lease).await.expect("renewed again, and not by a late answer");
    server.kill();
    let end = tokio::time::timeout(PATIENCE, changes.next()).await.expect("the break is noticed");
    assert_eq!(end, None, "a watch ends when it breaks");
    let error = Etcd::connect(config).await.err().expect("nobody is there").to_string();
    assert!(error.contains(&server.url()) && error.contains("start etcd"), "{error}");
    server.restart().await.expect("restarted");
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = store.get("/a").await {
        assert!(Instant::now() < deadline, "{error}");
    }
    store.keep_alive(lease).await.expect("a lease outlives a restart");
}

#[tokio::test(start_paused = true)]
async fn scripted_faults_do_what_they_say() {
    let script = Script::new();
    let honest = MemoryCoordination::new();
    let store = honest.clone().with_faults(Arc::new(script.clone()));
    let lease = store.grant_lease(Duration::from_secs(5)).await.expect("granted");
    script.push(Operation::Transact, Fault::LoseAnswer);
    let lost = store.transact(vec![], vec![put("/a", "x", Some(lease))]).await;
    assert!(matches!(lost, Err(CoordinationError::Unavailable { .. })));
    assert!(honest.get("/a").await.expect("asked").is_some(), "it had been done");
    let mut changes = store.watch("/").await.expect("watching");
    next(&mut changes).await;
    store.expire_leases();
    next(&mut changes).await;
    assert_eq!(store.get("/a").await.expect("asked"), None);
    store.break_watches();
    assert_eq!(changes.next().await, None);
}
