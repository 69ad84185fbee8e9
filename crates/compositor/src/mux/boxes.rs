//! The boxes of a track pair, and fragments written.

use bytes::{BufMut as _, Bytes, BytesMut};
use mp4_atom::Encode as _;
use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig};
use mp4_atom::{
    Audio, Avc1, Avcc, AvccExt, Codec, Colr, Dinf, Dref, DrefEntry, Edts, Elst, ElstEntry, Esds, FourCC, Ftyp, Hdlr,
    Mdhd, Mdia, Mfhd, Minf, Moof, Moov, Mp4a, Mvex, Mvhd, Smhd, Stbl, Stco, Stsd, Styp, Tfdt, Tfhd, Tkhd, Traf, Trak,
    Trex, Trun, TrunEntry, Url, Visual, Vmhd,
};

use super::parse::{Error, error};
use crate::encode::{AudioConfig, EncodedSlice, REORDER_TICKS, Sample, VideoConfig};

pub(super) const VIDEO_TRACK: u32 = 1;
pub(super) const AUDIO_TRACK: u32 = 2;
/// Units per second of the durations of a whole movie.
const MOVIE_TIMESCALE: u32 = 1000;
/// A picture that others are predicted from and that is predicted from none.
pub(super) const SYNC_SAMPLE: u32 = 0x0200_0000;
/// A picture that is predicted from others.
const DEPENDENT_SAMPLE: u32 = 0x0101_0000;

/// The CMAF header of a composite: no samples, two tracks.
#[must_use]
pub fn init_segment(video: &VideoConfig, audio: &AudioConfig) -> Bytes {
    let no_samples = || Stbl { stco: Some(Stco::default()), ..Stbl::default() };
    let trex = |track_id| Trex { track_id, default_sample_description_index: 1, ..Trex::default() };
    let moov = Moov {
        mvex: Some(Mvex { mehd: None, trex: vec![trex(VIDEO_TRACK), trex(AUDIO_TRACK)] }),
        ..movie(vec![(video_track(video), no_samples(), 0), (audio_track(audio), no_samples(), 0)])
    };
    let mut header = BytesMut::new();
    put(&mut header, &file_type(b"iso6", &[b"iso6", b"cmfc", b"mp41"]));
    put(&mut header, &moov);
    header.freeze()
}

/// The fragment of one slice: all its video, then all its audio.
///
/// # Errors
/// [`Error`] if the slice has 2 GiB or more, or times that no fragment can hold.
pub fn fragment(slice: &EncodedSlice) -> Result<Bytes, Error> {
    let tracks = [(VIDEO_TRACK, &slice.video), (AUDIO_TRACK, &slice.audio)];
    let sequence_number = u32::try_from(slice.number + 1).unwrap_or(u32::MAX);
    let build = |header_bytes: usize| {
        let mut offset = header_bytes + 8;
        let mut moof = Moof { mfhd: Mfhd { sequence_number }, traf: Vec::new() };
        for (track, samples) in tracks {
            let Some(first) = samples.first() else { continue };
            moof.traf.push(traf(track, first, samples, i32::try_from(offset).map_err(error)?)?);
            offset += samples.iter().map(|sample| sample.data.len()).sum::<usize>();
        }
        let mut bytes = BytesMut::new();
        moof.encode(&mut bytes).map_err(error)?;
        Ok::<_, Error>(bytes)
    };
    // The offsets point behind the header that holds them; its length does not depend on them.
    let moof = build(build(0)?.len())?;
    let media: usize = tracks.iter().flat_map(|(_, samples)| samples.iter()).map(|sample| sample.data.len()).sum();
    let mut bytes = BytesMut::with_capacity(moof.len() + media + 64);
    put(
        &mut bytes,
        &Styp { major_brand: FourCC::new(b"msdh"), minor_version: 0, compatible_brands: brands(&[b"msdh", b"cmfs"]) },
    );
    bytes.put_slice(&moof);
    bytes.put_u32(u32::try_from(media + 8).map_err(error)?);
    bytes.put_slice(b"mdat");
    tracks.iter().flat_map(|(_, samples)| samples.iter()).for_each(|sample| bytes.put_slice(&sample.data));
    Ok(bytes.freeze())
}

fn traf(track_id: u32, first: &Sample, samples: &[Sample], data_offset: i32) -> Result<Traf, Error> {
    let is_video = track_id == VIDEO_TRACK;
    let entry = |sample: &Sample| {
        let offset = sample.pts.checked_sub(sample.dts).and_then(|offset| offset.checked_add(REORDER_TICKS.into()));
        Ok(TrunEntry {
            size: Some(sample.data.len() as u32),
            flags: is_video.then_some(if sample.key { SYNC_SAMPLE } else { DEPENDENT_SAMPLE }),
            cts: is_video.then_some(offset.ok_or_else(|| error("a time overflows"))?),
            duration: None,
        })
    };
    Ok(Traf {
        tfhd: Tfhd {
            track_id,
            default_sample_duration: Some(first.duration),
            default_sample_flags: Some(if is_video { DEPENDENT_SAMPLE } else { SYNC_SAMPLE }),
            default_base_is_moof: true,
            ..Tfhd::default()
        },
        tfdt: Some(Tfdt { base_media_decode_time: u64::try_from(first.dts).unwrap_or(0) }),
        trun: vec![Trun {
            data_offset: Some(data_offset),
            samples: samples.iter().map(entry).collect::<Result<Vec<_>, Error>>()?.into(),
        }],
        ..Traf::default()
    })
}

/// What a track is, but for its samples.
pub(super) struct Track {
    tkhd: Tkhd,
    timescale: u32,
    /// Time of the media that is shown first.
    starts_at: Option<u32>,
    hdlr: Hdlr,
    vmhd: Option<Vmhd>,
    smhd: Option<Smhd>,
    codec: Codec,
}

pub(super) fn video_track(config: &VideoConfig) -> Track {
    let mut avcc =
        Avcc::new(&config.sps, &config.pps).expect("the encoder's parameter sets are checked when it is opened");
    // Profiles above Main say what they are made of (ISO/IEC 14496-15 §5.3.3.1.2).
    avcc.ext = (avcc.avc_profile_indication >= 100).then(AvccExt::default);
    let visual = Visual { data_reference_index: 1, width: config.width, height: config.height, ..Visual::default() };
    let colr =
        Colr::Nclx { colour_primaries: 6, transfer_characteristics: 6, matrix_coefficients: 6, full_range_flag: false };
    Track {
        tkhd: Tkhd {
            track_id: VIDEO_TRACK,
            enabled: true,
            in_movie: true,
            width: config.width.into(),
            height: config.height.into(),
            ..Tkhd::default()
        },
        timescale: config.timescale,
        starts_at: Some(REORDER_TICKS),
        hdlr: Hdlr { handler: FourCC::new(b"vide"), name: "video".to_owned() },
        vmhd: Some(Vmhd::default()),
        smhd: None,
        codec: Avc1 { visual, avcc, btrt: None, colr: Some(colr), pasp: None, taic: None, fiel: None, spatial: None }
            .into(),
    }
}

pub(super) fn audio_track(config: &AudioConfig) -> Track {
    let decoder = DecoderConfig {
        object_type_indication: 0x40,
        stream_type: 5,
        max_bitrate: config.bitrate,
        avg_bitrate: config.bitrate,
        dec_specific: Some(DecoderSpecific { raw: config.specific.to_vec(), ..DecoderSpecific::default() }),
        ..DecoderConfig::default()
    };
    let es_desc = EsDescriptor {
        es_id: AUDIO_TRACK as u16,
        dec_config: decoder,
        sl_config: SLConfig {},
        ..EsDescriptor::default()
    };
    let audio = Audio {
        data_reference_index: 1,
        channel_count: u16::from(config.channels),
        sample_size: 16,
        sample_rate: (config.sample_rate as u16).into(),
    };
    Track {
        tkhd: Tkhd {
            track_id: AUDIO_TRACK,
            alternate_group: 1,
            enabled: true,
            in_movie: true,
            volume: 1.into(),
            ..Tkhd::default()
        },
        timescale: config.sample_rate,
        starts_at: None,
        hdlr: Hdlr { handler: FourCC::new(b"soun"), name: "audio".to_owned() },
        vmhd: None,
        smhd: Some(Smhd::default()),
        codec: Mp4a { audio, esds: Esds { es_desc }, btrt: None, taic: None }.into(),
    }
}

/// A movie of these tracks, each with its samples and its length in its own timescale.
pub(super) fn movie(tracks: Vec<(Track, Stbl, u64)>) -> Moov {
    // The length of sound alone is told to the sample.
    let movie_timescale = match &tracks[..] {
        [(track, ..)] => track.timescale,
        _ => MOVIE_TIMESCALE,
    };
    let in_movie = |duration: u64, timescale: u32| duration * u64::from(movie_timescale) / u64::from(timescale);
    let duration = tracks.iter().map(|(track, _, duration)| in_movie(*duration, track.timescale)).max().unwrap_or(0);
    let edit = |segment_duration, starts_at: u32| ElstEntry {
        segment_duration,
        media_time: Some(starts_at.into()),
        media_rate: 1.into(),
    };
    let trak = tracks.into_iter().map(|(track, samples, duration)| Trak {
        edts: track.starts_at.map(|starts_at| Edts {
            elst: Some(Elst { entries: vec![edit(in_movie(duration, track.timescale), starts_at)] }),
        }),
        tkhd: Tkhd { duration: in_movie(duration, track.timescale), ..track.tkhd },
        mdia: Mdia {
            mdhd: Mdhd { timescale: track.timescale, duration, language: "und".to_owned(), ..Mdhd::default() },
            hdlr: track.hdlr,
            minf: Minf {
                vmhd: track.vmhd,
                smhd: track.smhd,
                dinf: Dinf { dref: Dref { entries: vec![DrefEntry::Url(Url::default())] } },
                stbl: Stbl { stsd: Stsd { codecs: vec![track.codec] }, ..samples },
                ..Minf::default()
            },
        },
        ..Trak::default()
    });
    Moov {
        mvhd: Mvhd {
            timescale: movie_timescale,
            duration,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: AUDIO_TRACK + 1,
            ..Mvhd::default()
        },
        trak: trak.collect(),
        ..Moov::default()
    }
}

pub(super) fn file_type(major: &[u8; 4], compatible: &[&[u8; 4]]) -> Ftyp {
    Ftyp { major_brand: FourCC::new(major), minor_version: 512, compatible_brands: brands(compatible) }
}

fn brands(brands: &[&[u8; 4]]) -> Vec<FourCC> {
    brands.iter().map(|brand| FourCC::new(brand)).collect()
}

pub(super) fn put(to: &mut BytesMut, atom: &impl mp4_atom::Encode) {
    atom.encode(to).expect("boxes of this module's making can be written");
}
