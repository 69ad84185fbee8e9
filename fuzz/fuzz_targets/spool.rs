//! A spool's file: as it stands, and as records with checksums that are right. What is found is found again.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use roomreel_fuzz::pieces;
use roomreel_fuzz::publisher::spool::inspect;
use roomreel_shared::id::{SfuId, TenantId};

/// In memory where there is such a place: a run makes a file.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let dir = base.join(format!("roomreel-fuzz-spool-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
});

fn read(bytes: &[u8]) {
    let (tenant, sfu) = (TenantId::new("acme").expect("valid"), SfuId::new("sfu-1").expect("valid"));
    let file = DIR.join(format!("{:020}.spool", 3));
    std::fs::write(&file, bytes).expect("written");
    if let Ok(found) = inspect(&DIR, &tenant, &sfu) {
        assert!(found.iter().map(|found| found.bytes).sum::<usize>() <= bytes.len());
        // A file of which nothing is needed is gone.
        assert_eq!(file.exists(), !found.is_empty());
        if !found.is_empty() {
            assert_eq!(inspect(&DIR, &tenant, &sfu).expect("it was read before"), found);
        }
    }
    let _ = std::fs::remove_file(file);
}

fuzz_target!(|input: &[u8]| {
    read(input);
    let mut records = b"RRSPL\x01\r\n".to_vec();
    for piece in pieces(input) {
        records.extend((piece.len() as u32).to_le_bytes());
        records.extend(crc32c::crc32c(piece).to_le_bytes());
        records.extend(piece);
    }
    read(&records);
});
