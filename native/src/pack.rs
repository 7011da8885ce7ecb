//! The answers that leave the engine: msgpack frames around values that are encoded already.

use crate::msgpack::{array, map, nil, str, uint};
use crate::request::{End, Part};

fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => str(out, text),
        None => nil(out),
    }
}

/// `[code, detail, hint]`, the body of a FAILED.
pub fn failure(code: &str, detail: &str, hint: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(detail.len() + 32);
    array(&mut out, 3);
    str(&mut out, code);
    str(&mut out, detail);
    optional(&mut out, hint);
    out
}

/// The cost of a dispatch.
#[derive(Default)]
pub struct Meter {
    pub cpu_us: u64,
    pub wall_us: u64,
    /// Host calls by name; a script makes few different ones.
    pub calls: Vec<(Box<str>, u64)>,
}

/// A DispatchResult; see `pytw.types`.
pub fn dispatch(outcome: u8, limit: Option<&str>, parts: &[Part], meter: &Meter) -> Vec<u8> {
    let bytes = parts.iter().map(Part::result_bytes).sum::<usize>();
    let mut out = Vec::with_capacity(bytes + 48 + 32 * parts.len());
    array(&mut out, 4);
    uint(&mut out, outcome.into());
    optional(&mut out, limit);
    array(&mut out, parts.len());
    for part in parts {
        array(&mut out, 5);
        str(&mut out, &part.template.name);
        let end = part.end.as_ref().unwrap_or(&End::Timeout);
        uint(&mut out, end.outcome().into());
        optional(&mut out, end.limit());
        match end {
            End::Ok(value, _) if !value.is_empty() => out.extend_from_slice(value),
            _ => nil(&mut out),
        }
        optional(&mut out, end.error());
    }
    array(&mut out, 4);
    uint(&mut out, meter.cpu_us);
    uint(&mut out, meter.wall_us);
    map(&mut out, meter.calls.len());
    for (name, n) in &meter.calls {
        str(&mut out, name);
        uint(&mut out, *n);
    }
    uint(&mut out, bytes as u64);
    out
}
