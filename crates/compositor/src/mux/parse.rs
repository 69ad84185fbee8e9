//! Fragments read back: what another process rendered, or this one before it was started again.

use bytes::Bytes;
use mp4_atom::{Decode as _, DecodeAtom as _, Header, Moof};

use super::boxes::{AUDIO_TRACK, SYNC_SAMPLE, VIDEO_TRACK};
use crate::encode::{EncodedSlice, REORDER_TICKS, Sample};

/// Why an object is not a fragment as [`super::fragment`] writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a slice: {0}")]
pub struct Error(String);

fn error(why: impl ToString) -> Error {
    Error(why.to_string())
}

/// Reads a slice. Its samples share the memory of `object`.
///
/// # Errors
/// [`Error`] for anything but a whole fragment.
pub fn parse_fragment(object: &Bytes) -> Result<EncodedSlice, Error> {
    let mut moof: Option<(usize, Moof)> = None;
    let mut at = 0;
    while at < object.len() {
        let mut rest = &object[at..];
        let header = Header::decode(&mut rest).map_err(error)?;
        let body_at = object.len() - rest.len();
        let size = header.size.ok_or_else(|| error("a box without end"))?;
        let end = body_at.checked_add(size).filter(|&end| end <= object.len()).ok_or_else(|| error("it is cut off"))?;
        match &<[u8; 4]>::from(header.kind) {
            b"moof" => moof = Some((at, Moof::decode_atom(&header, &mut &object[body_at..end]).map_err(error)?)),
            b"mdat" => {
                let (moof_at, moof) = moof.as_ref().ok_or_else(|| error("media without a header"))?;
                return read(moof, *moof_at, &object.slice(..end));
            }
            _ => {}
        }
        at = end;
    }
    Err(error("it has no media"))
}

fn read(moof: &Moof, moof_at: usize, object: &Bytes) -> Result<EncodedSlice, Error> {
    let number = moof.mfhd.sequence_number.checked_sub(1).ok_or_else(|| error("its sequence number is 0"))?;
    let mut slice = EncodedSlice { number: number.into(), ..EncodedSlice::default() };
    for traf in &moof.traf {
        let (samples, delay) = match traf.tfhd.track_id {
            VIDEO_TRACK => (&mut slice.video, i64::from(REORDER_TICKS)),
            AUDIO_TRACK => (&mut slice.audio, 0),
            other => return Err(error(format!("it has a track {other}"))),
        };
        let base = traf.tfdt.as_ref().ok_or_else(|| error("a track has no decode time"))?.base_media_decode_time;
        let mut dts = i64::try_from(base).map_err(error)?;
        for trun in &traf.trun {
            let offset = trun.data_offset.and_then(|offset| usize::try_from(offset).ok());
            let mut at =
                offset.and_then(|offset| moof_at.checked_add(offset)).ok_or_else(|| error("a run has no offset"))?;
            for entry in trun.samples.iter() {
                let size = entry.size.ok_or_else(|| error("a sample has no size"))?;
                let duration =
                    entry.duration.or(traf.tfhd.default_sample_duration).ok_or_else(|| error("no durations"))?;
                let flags = entry.flags.or(traf.tfhd.default_sample_flags).unwrap_or(0);
                let end = at.checked_add(size as usize).filter(|&end| end <= object.len());
                let end = end.ok_or_else(|| error("a sample lies beyond its end"))?;
                let pts = dts.checked_add(entry.cts.unwrap_or(0) - delay).ok_or_else(|| error("a time overflows"))?;
                samples.push(Sample { data: object.slice(at..end), pts, dts, duration, key: flags == SYNC_SAMPLE });
                at = end;
                dts = dts.checked_add(duration.into()).ok_or_else(|| error("a time overflows"))?;
            }
        }
    }
    Ok(slice)
}
