//! Ids, subjects and keys: what comes from outside and becomes a name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomreel_shared::id::{CompositeId, RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::key::{Key, RecordingKeys};
use roomreel_shared::subject::{self, Address, Entry, Shard, Writer};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(address) = Address::parse(text) {
        assert_eq!(address.subject().as_str(), text, "one spelling");
    }
    if let Ok(room) = RoomId::from_token(text) {
        assert_eq!(room.token().as_str(), text, "one spelling");
    }
    let (Ok(tenant), Ok(room), Ok(recording), Ok(track), Ok(sfu), Ok(composite)) = (
        TenantId::new(text),
        RoomId::new(text),
        RecordingId::new(text),
        TrackId::new(text),
        SfuId::new(text),
        CompositeId::new(text),
    ) else {
        return;
    };
    assert_eq!(RoomId::from_token(room.token().as_str()).as_ref(), Ok(&room));
    let shard = Shard::of(&tenant, &room, 7);
    let writer = Writer::Sfu(sfu.clone());
    let address = Address { shard, tenant: tenant.clone(), writer, room: room.clone(), entry: Entry::Media(track) };
    let spelled = address.subject();
    assert_eq!(Address::parse(spelled.as_str()).as_ref(), Ok(&address));
    assert!(subject::room_filter(shard, &tenant, &room).matches(spelled.as_str()));
    assert!(!subject::shard_events_filter(shard).matches(spelled.as_str()));
    assert!(subject::back_channel_filter(&tenant, &sfu).matches(subject::back_channel(&tenant, &sfu, &room).as_str()));
    let keys = RecordingKeys::new(&tenant, &room, &recording);
    for key in [keys.window(3), keys.slice(&composite, 3), keys.recording_json()] {
        assert!(key.as_str().starts_with(keys.prefix()));
        assert!(key.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
    }
    assert_eq!(keys.window_number(&keys.window(3)), Some(3));
    let _ = keys.window_number(&Key::listed(format!("{}{text}.win", keys.windows_prefix())));
    if let Ok(key) = keys.user_file(text) {
        assert!(key.as_str().starts_with(keys.prefix()) && !key.as_str().contains("/."));
    }
});
