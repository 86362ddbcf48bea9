//! Fragmented MP4 (ISO/IEC 14496-12 §8.8): what a file begins with, and a fragment. Tracks are counted from 1.

use mp4_atom::{
    Audio, Av01, Av1c, Avc1, Avcc, AvccExt, Codec, Dinf, Dops, Dref, DrefEntry, Encode, Esds, FixedPoint, Ftyp, Hdlr,
    Mdhd, Mdia, Mfhd, Minf, Moof, Moov, Mp4a, Mvex, Mvhd, Opus, Smhd, Stbl, Stco, Stsd, Tfdt, Tfhd, Tkhd, Traf, Trak,
    Trex, Trun, TrunEntry, TrunSamples, Url, Visual, Vmhd, Vp08, Vp09, VpcC,
};

use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig};

use crate::depacketize::Config;

/// Why something cannot be written.
pub use mp4_atom::Error;

/// From 1904, from where MP4 counts, to 1970, seconds.
const EPOCH_SECONDS: u64 = 2_082_844_800;
/// A sample that depends on none (§8.8.3.1).
const KEY_FLAGS: u32 = 0x0200_0000;
/// One that depends on others.
const DEPENDENT_FLAGS: u32 = 0x0101_0000;

/// A frame in a fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Ticks since the recording began.
    pub start: u64,
    /// Ticks.
    pub duration: u32,
    /// Whether it can be decoded without others.
    pub is_key: bool,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// Ticks a second of a file of this kind.
pub fn timescale(config: &Config) -> u32 {
    if config.is_audio() { 48_000 } else { 90_000 }
}

/// What a file of these tracks begins with. `created`: seconds since 1970.
pub fn header(configs: &[&Config], created: u64) -> Result<Vec<u8>, mp4_atom::Error> {
    let creation_time = created + EPOCH_SECONDS;
    let mvhd = Mvhd {
        creation_time,
        modification_time: creation_time,
        rate: FixedPoint::new(1, 0),
        volume: FixedPoint::new(1, 0),
        next_track_id: configs.len() as u32 + 1,
        ..Mvhd::default()
    };
    let trex = |(track_id, _)| Trex { track_id, default_sample_description_index: 1, ..Trex::default() };
    let trak = |(track_id, config): (u32, &&Config)| trak(track_id, config, creation_time);
    let moov = Moov {
        mvhd,
        mvex: Some(Mvex { mehd: None, trex: (1..).zip(configs).map(trex).collect() }),
        trak: (1..).zip(configs).map(trak).collect::<Result<_, _>>()?,
        ..Moov::default()
    };
    let brands = [b"iso6", b"mp41"].map(|brand| brand.into()).to_vec();
    let ftyp = Ftyp { major_brand: b"iso6".into(), minor_version: 0, compatible_brands: brands };
    let mut bytes = Vec::new();
    ftyp.encode(&mut bytes)?;
    moov.encode(&mut bytes)?;
    Ok(bytes)
}

fn trak(track_id: u32, config: &Config, creation_time: u64) -> Result<Trak, mp4_atom::Error> {
    let is_audio = config.is_audio();
    let (width, height) = config.size().unwrap_or_default();
    let tkhd = Tkhd {
        creation_time,
        modification_time: creation_time,
        track_id,
        enabled: true,
        in_movie: true,
        volume: FixedPoint::new(u8::from(is_audio), 0),
        width: FixedPoint::new(width, 0),
        height: FixedPoint::new(height, 0),
        ..Tkhd::default()
    };
    let mdhd = Mdhd {
        creation_time,
        modification_time: creation_time,
        timescale: timescale(config),
        language: "und".to_owned(),
        ..Mdhd::default()
    };
    let (handler, name) = if is_audio { (b"soun", "sound") } else { (b"vide", "picture") };
    let minf = Minf {
        vmhd: (!is_audio).then(Vmhd::default),
        smhd: is_audio.then(Smhd::default),
        dinf: Dinf { dref: Dref { entries: vec![DrefEntry::Url(Url::default())] } },
        stbl: Stbl { stsd: Stsd { codecs: vec![entry(config)?] }, stco: Some(Stco::default()), ..Stbl::default() },
        ..Minf::default()
    };
    let mdia = Mdia { mdhd, hdlr: Hdlr { handler: handler.into(), name: name.to_owned() }, minf };
    Ok(Trak { tkhd, mdia, ..Trak::default() })
}

fn entry(config: &Config) -> Result<Codec, mp4_atom::Error> {
    let visual = |(width, height)| Visual { data_reference_index: 1, width, height, ..Visual::default() };
    Ok(match config {
        Config::Aac => Codec::from(Mp4a {
            audio: stereo(),
            esds: Esds {
                es_desc: EsDescriptor {
                    es_id: 0,
                    depends_on_es_id: None,
                    url: None,
                    ocr_es_id: None,
                    stream_priority: 0,
                    dec_config: DecoderConfig {
                        object_type_indication: 0x40, // ISO/IEC 14496-3
                        stream_type: 5,               // Audio.
                        up_stream: 0,
                        buffer_size_db: Default::default(),
                        max_bitrate: 0,
                        avg_bitrate: 0,
                        dec_specific: Some(DecoderSpecific {
                            profile: 2,
                            freq_index: 3,
                            chan_conf: 2,
                            raw: Vec::new(),
                        }),
                    },
                    sl_config: SLConfig {},
                },
            },
            btrt: None,
            taic: None,
        }),
        Config::Opus => Codec::from(Opus {
            audio: stereo(),
            // A decoder makes of each packet what it is, one channel or two. It begins amidst a stream: nothing is to be skipped.
            dops: Dops {
                output_channel_count: 2,
                pre_skip: 0,
                input_sample_rate: 48_000,
                output_gain: 0,
                channel_mapping: None,
            },
            btrt: None,
        }),
        Config::H264 { sps, pps, size } => {
            let first = sps.first().filter(|sps| sps.len() >= 4).ok_or(mp4_atom::Error::OutOfBounds)?;
            let has_ext = matches!(first[1], 100 | 110 | 122 | 144);
            Codec::from(Avc1 {
                visual: visual(*size),
                avcc: Avcc {
                    configuration_version: 1,
                    avc_profile_indication: first[1],
                    profile_compatibility: first[2],
                    avc_level_indication: first[3],
                    length_size: 4,
                    sequence_parameter_sets: sps.clone(),
                    picture_parameter_sets: pps.clone(),
                    ext: has_ext.then(AvccExt::default),
                },
                ..Avc1::default()
            })
        }
        Config::Vp8 { size } => {
            Codec::from(Vp08 { visual: visual(*size), vpcc: vpcc(), btrt: None, colr: None, pasp: None, spatial: None })
        }
        Config::Av1 { sequence, size, level, tier, is_high_depth, is_monochrome } => Codec::from(Av01 {
            visual: visual(*size),
            av1c: Av1c {
                seq_profile: 0,
                seq_level_idx_0: *level,
                seq_tier_0: *tier,
                high_bitdepth: *is_high_depth,
                twelve_bit: false,
                monochrome: *is_monochrome,
                chroma_subsampling_x: true,
                chroma_subsampling_y: true,
                chroma_sample_position: 0, // Unknown.
                initial_presentation_delay: None,
                config_obus: sequence.clone(),
            },
            ..Av01::default()
        }),
        Config::Vp9 { size } => {
            Codec::from(Vp09 { visual: visual(*size), vpcc: vpcc(), btrt: None, colr: None, pasp: None, spatial: None })
        }
    })
}

fn stereo() -> Audio {
    Audio { data_reference_index: 1, channel_count: 2, sample_size: 16, sample_rate: FixedPoint::new(48_000, 0) }
}

fn vpcc() -> VpcC {
    VpcC { chroma_subsampling: 1, ..VpcC::default() }
}

/// A fragment of each track's samples, which follow each other without a gap. `number` counts from 1.
pub fn fragment(number: u32, tracks: &[&[Sample]]) -> Result<Vec<u8>, mp4_atom::Error> {
    let entry = |sample: &Sample| TrunEntry {
        duration: Some(sample.duration),
        size: Some(sample.data.len() as u32),
        flags: Some(if sample.is_key { KEY_FLAGS } else { DEPENDENT_FLAGS }),
        cts: None,
    };
    let traf = |track_id: u32, samples: &[Sample]| Traf {
        tfhd: Tfhd { track_id, default_base_is_moof: true, ..Tfhd::default() },
        tfdt: Some(Tfdt { base_media_decode_time: samples.first().map_or(0, |sample| sample.start) }),
        trun: vec![Trun { data_offset: Some(0), samples: TrunSamples::Explicit(samples.iter().map(entry).collect()) }],
        ..Traf::default()
    };
    let there = (1..).zip(tracks).filter(|(_, samples)| !samples.is_empty());
    let traf = there.map(|(track_id, samples)| traf(track_id, samples)).collect();
    let mut moof = Moof { mfhd: Mfhd { sequence_number: number }, traf };
    let mut bytes = Vec::new();
    moof.encode(&mut bytes)?;
    // The data begins behind the header of `mdat`; the offsets do not change how long `moof` is.
    let mut len = 0;
    let of = |samples: &[Sample]| samples.iter().map(|sample| sample.data.len()).sum::<usize>();
    for (traf, samples) in moof.traf.iter_mut().zip(tracks.iter().filter(|samples| !samples.is_empty())) {
        traf.trun[0].data_offset = Some((bytes.len() + 8 + len) as i32);
        len += of(samples);
    }
    bytes.clear();
    moof.encode(&mut bytes)?;
    bytes.extend(((len + 8) as u32).to_be_bytes());
    bytes.extend(b"mdat");
    tracks.iter().copied().flatten().for_each(|sample| bytes.extend_from_slice(&sample.data));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Any, Decode};

    use super::*;

    #[test]
    fn a_fragment_is_read_back() {
        let sample = |start, data: &[u8]| Sample { start, duration: 960, is_key: true, data: data.to_vec() };
        let (one, other) = ([sample(1 << 33, b"one"), sample((1 << 33) + 960, b"four")], [sample(5, b"fives")]);
        let bytes = fragment(7, &[&one, &[], &other]).unwrap();
        let mut rest = &bytes[..];
        let Any::Moof(moof) = Any::decode(&mut rest).unwrap() else { panic!() };
        let traf = &moof.traf[0];
        assert_eq!((moof.mfhd.sequence_number, traf.tfdt.as_ref().unwrap().base_media_decode_time), (7, 1 << 33));
        let offset = traf.trun[0].data_offset.unwrap() as usize;
        assert_eq!(&bytes[offset..], b"onefourfives");
        assert_eq!((traf.trun[0].samples.len(), moof.traf[1].tfhd.track_id), (2, 3));
        assert_eq!(&bytes[moof.traf[1].trun[0].data_offset.unwrap() as usize..], b"fives");
        let Any::Mdat(_) = Any::decode(&mut rest).unwrap() else { panic!() };
        assert!(rest.is_empty());
    }
}
