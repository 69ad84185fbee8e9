//! Real captures map completely. Runs over the folder that `ROOMREEL_CAPTURES` names, and says so if there is none.

use std::path::PathBuf;

use roomreel_sfu::capture::{Capture, CaptureOptions};
use roomreel_sfu::source::SourceItem;
use roomreel_shared::event::EventKind;
use roomreel_shared::time::RoomTime;

fn captures() -> Option<PathBuf> {
    let folder = std::env::var_os("ROOMREEL_CAPTURES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: set ROOMREEL_CAPTURES to the folder with standup.pcap, codecs.pcap and rough.pcap");
    }
    folder
}

#[test]
fn every_packet_of_the_real_captures_belongs_to_a_track() {
    let Some(folder) = captures() else { return };
    for (name, tracks, layers) in [("standup", 9, 1), ("codecs", 8, 1), ("rough", 8, 3)] {
        let (pcap, events) = (folder.join(format!("{name}.pcap")), folder.join(format!("{name}.events.jsonl")));
        let mut capture = Capture::open(&pcap, &events, CaptureOptions::default()).expect("the capture opens");
        let summary = capture.summary().clone();
        eprintln!("{name}\n{summary}");
        assert_eq!(summary.unknown, [], "{name}");
        assert_eq!(
            (summary.not_udp, summary.not_media, summary.cut_short, summary.unknown_events),
            (0, 0, 0, 0),
            "{name}"
        );
        assert_eq!(summary.tracks.len(), tracks, "{name}");

        let (mut packets, mut announced, mut most_layers) = (0, Vec::new(), 0);
        let mut newest = RoomTime::default();
        let mut last = None;
        for item in &mut capture {
            let (time, item) = item.expect("the capture is whole");
            newest = newest.max(time);
            match &item {
                SourceItem::Packet { track, .. } => {
                    assert!(announced.contains(track), "{name}: {track} has packets before it is announced");
                    packets += 1;
                }
                SourceItem::Event(EventKind::ProducerCreated(producer)) => {
                    announced.push(producer.track.clone());
                    most_layers = most_layers.max(producer.encodings.len());
                }
                SourceItem::Event(_) => {}
            }
            last = Some((time, item));
        }
        let counted: u64 = summary.tracks.iter().map(|track| track.packets + track.reports).sum();
        assert_eq!(packets, counted, "{name}");
        assert_eq!((announced.len(), most_layers), (tracks, layers), "{name}");
        assert!(
            matches!(last, Some((time, SourceItem::Event(EventKind::RoomClosed { .. }))) if time == newest),
            "{name}: the room closes last"
        );
    }
}
