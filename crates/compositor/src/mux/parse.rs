//! Fragments read back: what another process rendered, or this one before it was started again.

use bytes::Bytes;
use mp4_atom::{Decode as _, DecodeAtom as _, Header, Moof};

use super::boxes::{AUDIO_TRACK, SYNC_SAMPLE, VIDEO_TRACK};
use crate::encode::{EncodedSlice, REORDER_TICKS, Sample, SampleInfo, SliceTable};

/// Why an object is not a fragment as [`super::fragment`] writes it, or a slice cannot be written as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a slice: {0}")]
pub struct Error(String);

pub(super) fn error(why: impl ToString) -> Error {
    Error(why.to_string())
}

/// Reads a slice. Its samples share the memory of `object`.
///
/// # Errors
/// [`Error`] for anything but a whole fragment.
pub fn parse_fragment(object: &Bytes) -> Result<EncodedSlice, Error> {
    let (moof, media_end) = find(object, object.len())?;
    let object = object.slice(..media_end);
    let mut slice = EncodedSlice { number: number(&moof.1)?, ..EncodedSlice::default() };
    for_each(&moof, |track, Entry { at, info, dts }| {
        let end = at.checked_add(info.bytes as usize).filter(|&end| end <= object.len());
        let end = end.ok_or_else(|| error("a sample lies beyond its end"))?;
        let pts = dts.checked_add(info.offset).ok_or_else(|| error("a time overflows"))?;
        let samples = if track == VIDEO_TRACK { &mut slice.video } else { &mut slice.audio };
        let SampleInfo { duration, key, .. } = info;
        samples.push(Sample { data: object.slice(at..end), pts, dts, duration, key });
        Ok(())
    })?;
    Ok(slice)
}

/// Reads what tables say of a slice from its object's beginning: everything before the media.
///
/// # Errors
/// [`Error`] for anything but a fragment's beginning.
pub fn parse_table(beginning: &Bytes) -> Result<SliceTable, Error> {
    let (moof, media_end) = find(beginning, usize::MAX)?;
    let mut table = SliceTable { number: number(&moof.1)?, ..SliceTable::default() };
    for_each(&moof, |track, Entry { at, info, .. }| {
        let end = at.checked_add(info.bytes as usize);
        end.filter(|&end| end <= media_end).ok_or_else(|| error("a sample lies beyond its end"))?;
        if track == VIDEO_TRACK { &mut table.video } else { &mut table.audio }.push(info);
        Ok(())
    })?;
    Ok(table)
}

/// The header with its place, and where the media ends; of an object that is so long, as far as it has been read.
fn find(object: &Bytes, length: usize) -> Result<((usize, Moof), usize), Error> {
    let mut moof: Option<(usize, Moof)> = None;
    let mut at = 0;
    while at < object.len() {
        let mut rest = &object[at..];
        let header = Header::decode(&mut rest).map_err(error)?;
        let body_at = object.len() - rest.len();
        let size = header.size.ok_or_else(|| error("a box without end"))?;
        let end = body_at.checked_add(size).filter(|&end| end <= length).ok_or_else(|| error("it is cut off"))?;
        match &<[u8; 4]>::from(header.kind) {
            b"moof" => {
                let body = object.get(body_at..end).ok_or_else(|| error("its header is cut off"))?;
                moof = Some((at, Moof::decode_atom(&header, &mut &*body).map_err(error)?));
            }
            b"mdat" => return Ok((moof.ok_or_else(|| error("media without a header"))?, end)),
            _ => {}
        }
        at = end;
    }
    Err(error("it has no media"))
}

fn number(moof: &Moof) -> Result<u64, Error> {
    Ok(moof.mfhd.sequence_number.checked_sub(1).ok_or_else(|| error("its sequence number is 0"))?.into())
}

/// A sample, and where it is.
struct Entry {
    at: usize,
    info: SampleInfo,
    dts: i64,
}

fn for_each(
    (moof_at, moof): &(usize, Moof),
    mut take: impl FnMut(u32, Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    for traf in &moof.traf {
        let track = traf.tfhd.track_id;
        let delay = match track {
            VIDEO_TRACK => i64::from(REORDER_TICKS),
            AUDIO_TRACK => 0,
            other => return Err(error(format!("it has a track {other}"))),
        };
        let base = traf.tfdt.as_ref().ok_or_else(|| error("a track has no decode time"))?.base_media_decode_time;
        let mut dts = i64::try_from(base).map_err(error)?;
        for trun in &traf.trun {
            let offset = trun.data_offset.and_then(|offset| usize::try_from(offset).ok());
            let mut at =
                offset.and_then(|offset| moof_at.checked_add(offset)).ok_or_else(|| error("a run has no offset"))?;
            for entry in trun.samples.iter() {
                let bytes = entry.size.ok_or_else(|| error("a sample has no size"))?;
                let duration =
                    entry.duration.or(traf.tfhd.default_sample_duration).ok_or_else(|| error("no durations"))?;
                let flags = entry.flags.or(traf.tfhd.default_sample_flags).unwrap_or(0);
                let offset = entry.cts.unwrap_or(0) - delay;
                take(
                    track,
                    Entry { at, info: SampleInfo { bytes, offset, duration, key: flags == SYNC_SAMPLE }, dts },
                )?;
                at = at.checked_add(bytes as usize).ok_or_else(|| error("a sample lies beyond its end"))?;
                dts = dts.checked_add(duration.into()).ok_or_else(|| error("a time overflows"))?;
            }
        }
    }
    Ok(())
}
