//! `typesext.bitu64`: what `bit32` does, for 64 bits. Arguments are what `U64` takes; results are `U64`.

use std::ffi::c_int;

use mlua::ffi;

use super::ints::{U64, i64_argument, u64_argument};
use crate::call::{Call, Done, Fault, Named};

pub const FUNCTIONS: &[Named] = &[
    (c"band", |call| push(call, fold(call, |a, b| a & b)?)),
    (c"bor", |call| push(call, fold(call, |a, b| a | b)?)),
    (c"bxor", |call| push(call, fold(call, |a, b| a ^ b)?)),
    (c"btest", btest),
    (c"bnot", |call| push(call, !u64_argument(call, 1)?)),
    (c"lshift", |call| push(call, shift(call, Way::Left)?)),
    (c"rshift", |call| push(call, shift(call, Way::Right)?)),
    (c"lrotate", |call| push(call, u64_argument(call, 1)?.rotate_left(places(call)?))),
    (c"rrotate", |call| push(call, u64_argument(call, 1)?.rotate_right(places(call)?))),
    (c"extract", extract),
    (c"replace", replace),
    (c"countlz", |call| count(call, u64::leading_zeros)),
    (c"countrz", |call| count(call, u64::trailing_zeros)),
    (c"byteswap", |call| push(call, u64_argument(call, 1)?.swap_bytes())),
];

fn push(call: &Call, n: u64) -> Done {
    call.push_object(U64(n));
    Ok(1)
}

/// Of no arguments 0.
fn fold(call: &Call, operation: fn(u64, u64) -> u64) -> Result<u64, Fault> {
    if call.count() == 0 {
        return Ok(0);
    }
    let mut n = u64_argument(call, 1)?;
    for index in 2..=call.count() {
        n = operation(n, u64_argument(call, index)?);
    }
    Ok(n)
}

fn btest(call: &Call) -> Done {
    call.push_bool(call.count() == 0 || fold(call, |a, b| a & b)? != 0);
    Ok(1)
}

enum Way {
    Left,
    Right,
}

/// Less than no places goes the other way; the number of places is taken modulo 64.
fn shift(call: &Call, way: Way) -> Result<u64, Fault> {
    let (n, by) = (u64_argument(call, 1)?, i64_argument(call, 2)?);
    let places = (by.unsigned_abs() % 64) as u32;
    Ok(match (way, by >= 0) {
        (Way::Left, true) | (Way::Right, false) => n << places,
        (Way::Right, true) | (Way::Left, false) => n >> places,
    })
}

/// By how many places to rotate.
fn places(call: &Call) -> Result<u32, Fault> {
    Ok(i64_argument(call, 2)?.rem_euclid(64) as u32)
}

fn count(call: &Call, zeros: fn(u64) -> u32) -> Done {
    call.push_number(zeros(u64_argument(call, 1)?).into());
    Ok(1)
}

/// The first bit and the mask of a field; the width at `index` is 1 if it is absent.
fn field(call: &Call, first: c_int, index: c_int) -> Result<(u32, u64), Fault> {
    let at = u64_argument(call, first)?;
    let width = if call.kind(index) <= ffi::LUA_TNIL { 1 } else { u64_argument(call, index)? };
    if at > 63 || width > 64 || at + width > 64 {
        return Err("trying to access non-existent bits".into());
    }
    if width == 0 && at == 0 {
        return Err(call.bad(index, "width must be positive"));
    }
    let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
    Ok((at as u32, mask))
}

/// `extract(n, f, w?)`.
fn extract(call: &Call) -> Done {
    let n = u64_argument(call, 1)?;
    let (at, mask) = field(call, 2, 3)?;
    push(call, n >> at & mask)
}

/// `replace(n, r, f, w?)`.
fn replace(call: &Call) -> Done {
    let (n, r) = (u64_argument(call, 1)?, u64_argument(call, 2)?);
    if r > 1 {
        return Err(call.bad(2, "0 or 1 is expected"));
    }
    let (at, mask) = field(call, 3, 4)?;
    push(call, n & !(mask << at) | (r & mask) << at)
}
