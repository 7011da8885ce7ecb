//! `compress` and `decompress`, on a background thread: gzip, zlib and brotli.
//!
//! Both go in steps and ask their meter between them, so that neither the slowest level nor a bomb lasts long. What comes
//! out of `decompress` is at most half of what a VM may hold.

use std::io::{self, Read, Write};

use brotli::enc::BrotliEncoderParams;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::api::blob;
use crate::call::{Call, Done, Fault};
use crate::offload::{self, Meter};
use crate::{limits, scheduler};

/// Bytes between two looks at the meter.
const STEP_BYTES: usize = 64 << 10;
/// Window of brotli, as a power of two: what its own tool takes.
const BROTLI_WINDOW: i32 = 22;
/// How a brotli stream begins whose window may have a gigabyte: no browser reads such, and whoever does reserves so much.
const LARGE_WINDOW: u8 = 0x7f;
const LARGE_WINDOW_MARK: u8 = 0x11;

#[derive(Clone, Copy)]
enum Format {
    Gzip,
    Zlib,
    Brotli,
}

impl Format {
    fn at(call: &Call, index: i32) -> Result<Format, Fault> {
        match call.bytes(index)? {
            b"gzip" => Ok(Format::Gzip),
            b"zlib" => Ok(Format::Zlib),
            b"brotli" => Ok(Format::Brotli),
            _ => Err(call.bad(index, "the format must be gzip, brotli or zlib")),
        }
    }

    /// The highest level, which is the default.
    fn best(self) -> u32 {
        match self {
            Format::Gzip | Format::Zlib => 9,
            Format::Brotli => 11,
        }
    }

    fn compress(self, content: &[u8], level: u32, meter: &Meter) -> Result<Vec<u8>, Fault> {
        let out = Vec::new();
        let done = match self {
            Format::Gzip => {
                let mut encoder = GzEncoder::new(out, Compression::new(level));
                feed(&mut encoder, content, meter)?;
                encoder.finish()
            }
            Format::Zlib => {
                let mut encoder = ZlibEncoder::new(out, Compression::new(level));
                feed(&mut encoder, content, meter)?;
                encoder.finish()
            }
            Format::Brotli => {
                let params = BrotliEncoderParams { quality: level as i32, lgwin: BROTLI_WINDOW, ..Default::default() };
                let mut encoder = brotli::CompressorWriter::with_params(out, STEP_BYTES, &params);
                feed(&mut encoder, content, meter)?;
                Ok(encoder.into_inner())
            }
        };
        done.map_err(|e| failed("compress", &e))
    }

    fn decompress(self, content: &[u8], bytes_max: usize, meter: &Meter) -> Result<Vec<u8>, Fault> {
        match self {
            Format::Gzip => drain(MultiGzDecoder::new(content), bytes_max, meter),
            Format::Zlib => drain(ZlibDecoder::new(content), bytes_max, meter),
            Format::Brotli if content.first().is_some_and(|first| first & LARGE_WINDOW == LARGE_WINDOW_MARK) => {
                Err("Failed to decompress: large windows are not supported".into())
            }
            Format::Brotli => drain(brotli::Decompressor::new(content, STEP_BYTES), bytes_max, meter),
        }
    }
}

fn failed(what: &str, e: &io::Error) -> Fault {
    format!("Failed to {what}: {e}").into()
}

fn feed(to: &mut impl Write, content: &[u8], meter: &Meter) -> Result<(), Fault> {
    for step in content.chunks(STEP_BYTES) {
        to.write_all(step).map_err(|e| failed("compress", &e))?;
        meter.check()?;
    }
    Ok(())
}

fn drain(mut from: impl Read, bytes_max: usize, meter: &Meter) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        let n = from.read(&mut step).map_err(|e| failed("decompress", &e))?;
        if n == 0 {
            return Ok(out);
        }
        if out.len() + n > bytes_max {
            return Err(Fault::limit(limits::SIZE, format!("the decompressed data is larger than {bytes_max} bytes (limit: size)")));
        }
        out.extend_from_slice(&step[..n]);
        meter.check()?;
    }
}

/// `(format, data, level?)`; a blob keeps its content.
pub fn compress(call: &Call) -> Done {
    let format = Format::at(call, 1)?;
    let content = blob::view(call, 2)?.to_vec();
    let best = format.best();
    let level = if call.is_nil(3) { best } else { call.integer(3, 0, best.into())? as u32 };
    offload::wait(call, content.len(), move |meter| Ok(blob::output(format.compress(&content, level, meter)?)))
}

/// `(format, data)`; a blob keeps its content.
pub fn decompress(call: &Call) -> Done {
    let format = Format::at(call, 1)?;
    let content = blob::view(call, 2)?.to_vec();
    let bytes_max = scheduler::vm().limits.content_bytes_max();
    offload::wait(call, content.len(), move |meter| Ok(blob::output(format.decompress(&content, bytes_max, meter)?)))
}
