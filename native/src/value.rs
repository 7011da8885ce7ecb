//! The one budgeted walker between Luau values and KhronosValues in msgpack (docs/values.md).
//!
//! Nothing changes silently: what has no counterpart is refused. Metamethods are never invoked, so no script code
//! runs here. Both directions may raise a Luau memory error and therefore run only inside protected calls; they own
//! no memory while they call Luau.

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::time::{Duration, Instant};

use mlua::ffi::{self, lua_State};

use crate::api::blob;
use crate::call::Fault;
use crate::event;
use crate::json::{bytes_at, push_str};
use crate::limits;
use crate::msgpack::{self, Item, Reader};

pub const DEPTH_MAX: u32 = 64;
pub const NODES_MAX: u32 = 100_000;
pub const BYTES_MAX: usize = 4 << 20;
/// Integers past this lose digits as a Luau number.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The msgpack extensions of KhronosValue.
mod kind {
    pub const RAW_TEXT: i8 = 1;
    pub const BUFFER: i8 = 2;
    pub const VECTOR: i8 = 3;
    pub const INTERVAL: i8 = 4;
    pub const TIME_ZONE: i8 = 5;
    pub const LAZY_STRING_MAP: i8 = 6;
    pub const BOXED: i8 = 7;
    /// Into scripts only; a blob leaves as a buffer.
    pub const BLOB: i8 = 9;
    pub const TIMESTAMP: i8 = -1;
}

/// Why a value does not cross.
pub struct Refusal {
    /// The limit that it breaches, if that is why.
    pub limit: Option<&'static str>,
    pub text: Cow<'static, str>,
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Refusal { limit: None, text: text.into() }
    }
}

impl From<&'static str> for Refusal {
    fn from(text: &'static str) -> Self {
        Refusal { limit: None, text: text.into() }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Refusal { limit: fault.limit, text: fault.text }
    }
}

type Crossed<T> = Result<T, Refusal>;

const fn breach(limit: &'static str, text: &'static str) -> Refusal {
    Refusal { limit: Some(limit), text: Cow::Borrowed(text) }
}

const TOO_DEEP: Refusal = breach(limits::DEPTH, "the value is nested deeper than 64 levels, or contains itself (limit: depth)");
const TOO_MANY: Refusal = breach(limits::SIZE, "the value has more than 100,000 parts (limit: size)");
const TOO_LONG: Refusal = breach(limits::SIZE, "the value is longer than 4 MiB (limit: size)");

/// How long a walk may last. Only tables with many empty places can make it longer than the other bounds allow: walking
/// over them costs, and one table may stand in many places.
const WALK_MAX: Duration = Duration::from_millis(50);
const TOO_SLOW: Refusal =
    breach(limits::UNBREAKABLE, "the value takes longer than 50 ms to walk: it has huge tables that are almost empty (limit: unbreakable)");

struct Budget {
    nodes: u32,
    tables: u32,
    end: Option<Instant>,
}

impl Budget {
    fn new() -> Self {
        Budget { nodes: NODES_MAX, tables: 0, end: None }
    }

    /// Before each table's places are walked. The clock is read now and then: one table of a full VM takes about a millisecond.
    fn spend_table(&mut self) -> Crossed<()> {
        self.tables += 1;
        if self.tables.is_multiple_of(8) {
            let now = Instant::now();
            if now > *self.end.get_or_insert(now + WALK_MAX) {
                return Err(TOO_SLOW);
            }
        }
        Ok(())
    }

    fn spend(&mut self, depth: u32) -> Crossed<()> {
        if depth > DEPTH_MAX {
            return Err(TOO_DEEP);
        }
        self.nodes = self.nodes.checked_sub(1).ok_or(TOO_MANY)?;
        Ok(())
    }
}

// ---- Luau to msgpack ----------------------------------------------------------------------------------

/// Appends the value at `index` to `out`.
pub unsafe fn encode(state: *mut lua_State, index: c_int, out: &mut Vec<u8>) -> Crossed<()> {
    let limit = out.len() + BYTES_MAX;
    unsafe { encode_at(state, ffi::lua_absindex(state, index), out, limit, 0, &mut Budget::new()) }
}

unsafe fn encode_at(state: *mut lua_State, index: c_int, out: &mut Vec<u8>, limit: usize, depth: u32, budget: &mut Budget) -> Crossed<()> {
    budget.spend(depth)?;
    let room = |more: usize, out: &Vec<u8>| if out.len() + more > limit { Err(TOO_LONG) } else { Ok(()) };
    room(16, out)?;
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNIL | ffi::LUA_TNONE => msgpack::nil(out),
            ffi::LUA_TBOOLEAN => msgpack::bool(out, ffi::lua_toboolean(state, index) != 0),
            ffi::LUA_TNUMBER => {
                let n = ffi::lua_tonumber(state, index);
                // -0 and what is past 2^53 stay floats: as integers they would come back as something else.
                if n.fract() == 0.0 && n.abs() <= EXACT && !(n == 0.0 && n.is_sign_negative()) {
                    msgpack::int(out, n as i64);
                } else {
                    msgpack::float(out, n);
                }
            }
            ffi::LUA_TINTEGER => msgpack::int(out, ffi::lua_tointeger64(state, index, std::ptr::null_mut())),
            ffi::LUA_TSTRING => {
                let text = bytes_at(state, index);
                room(text.len(), out)?;
                match std::str::from_utf8(text) {
                    Ok(text) => msgpack::str(out, text),
                    Err(_) => msgpack::ext(out, kind::RAW_TEXT, text),
                }
            }
            ffi::LUA_TBUFFER => {
                let mut size = 0;
                let p = ffi::lua_tobuffer(state, index, &mut size);
                room(size, out)?;
                let bytes = if size == 0 { &[] } else { std::slice::from_raw_parts(p as *const u8, size) };
                msgpack::ext(out, kind::BUFFER, bytes);
            }
            ffi::LUA_TVECTOR => {
                let v = ffi::lua_tovector(state, index);
                let mut bytes = [0; 12];
                for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                    chunk.copy_from_slice(&(*v.add(i)).to_be_bytes());
                }
                msgpack::ext(out, kind::VECTOR, &bytes);
            }
            ffi::LUA_TTABLE => encode_table(state, index, out, limit, depth, budget)?,
            other => {
                if let Some(bytes) = blob::take_at(state, index) {
                    let bytes = bytes?;
                    room(bytes.len(), out)?;
                    msgpack::ext(out, kind::BUFFER, &bytes);
                    return Ok(());
                }
                let name = CStr::from_ptr(ffi::lua_typename(state, other));
                return Err(format!("a {} cannot leave the script", name.to_string_lossy()).into());
            }
        }
    }
    Ok(())
}

/// What the keys of a table say about it.
struct Shape {
    entries: usize,
    list: bool,
}

unsafe fn shape(state: *mut lua_State, index: c_int) -> Crossed<Shape> {
    unsafe {
        let length = ffi::lua_objlen_(state, index);
        let (mut entries, mut items, mut named) = (0usize, 0usize, false);
        let mut iter = 0;
        loop {
            iter = ffi::lua_rawiter(state, index, iter);
            if iter < 0 {
                break;
            }
            entries += 1;
            if ffi::lua_type(state, -2) == ffi::LUA_TNUMBER {
                let key = ffi::lua_tonumber(state, -2);
                items += usize::from(key.fract() == 0.0 && key >= 1.0 && key <= f64::from(length));
            } else {
                named = true;
            }
            ffi::lua_settop(state, -3);
            if entries > NODES_MAX as usize {
                return Err(TOO_MANY);
            }
        }
        if items > 0 && named {
            return Err("a table mixes list items and named fields".into());
        }
        Ok(Shape { entries, list: entries > 0 && items == entries && items == length as usize })
    }
}

unsafe fn encode_table(
    state: *mut lua_State,
    index: c_int,
    out: &mut Vec<u8>,
    limit: usize,
    depth: u32,
    budget: &mut Budget,
) -> Crossed<()> {
    unsafe {
        budget.spend_table()?;
        ffi::lua_rawcheckstack(state, 4);
        event::complete(state, index);
        let shape = shape(state, index)?;
        if shape.list {
            msgpack::array(out, shape.entries);
            for i in 1..=shape.entries as c_int {
                ffi::lua_rawgeti_(state, index, i);
                encode_at(state, ffi::lua_gettop(state), out, limit, depth + 1, budget)?;
                ffi::lua_settop(state, -2);
            }
            return Ok(());
        }
        msgpack::map(out, shape.entries);
        let mut iter = 0;
        loop {
            iter = ffi::lua_rawiter(state, index, iter);
            if iter < 0 {
                return Ok(());
            }
            let value = ffi::lua_gettop(state);
            encode_at(state, value - 1, out, limit, depth + 1, budget)?;
            encode_at(state, value, out, limit, depth + 1, budget)?;
            ffi::lua_settop(state, value - 2);
        }
    }
}

// ---- msgpack to Luau ----------------------------------------------------------------------------------

/// Pushes the items of a list one by one, as results of a call; gives their number. On an error the stack is the
/// caller's to reset.
pub unsafe fn push_list(state: *mut lua_State, bytes: &[u8]) -> Crossed<c_int> {
    let mut reader = Reader::new(bytes);
    let mut budget = Budget::new();
    let n = reader.array()?;
    if n > 64 {
        return Err("a call has more than 64 results".into());
    }
    for _ in 0..n {
        unsafe { push_one(state, &mut reader, 0, &mut budget)? };
    }
    if reader.is_empty() { Ok(n as c_int) } else { Err("bytes follow the value".into()) }
}

unsafe fn push_one(state: *mut lua_State, reader: &mut Reader, depth: u32, budget: &mut Budget) -> Crossed<()> {
    budget.spend(depth)?;
    unsafe {
        ffi::lua_rawcheckstack(state, 4);
        match reader.item()? {
            Item::Nil => ffi::lua_pushnil(state),
            Item::Bool(v) => ffi::lua_pushboolean(state, v.into()),
            Item::Int(v) => {
                if v.unsigned_abs() <= EXACT as u64 {
                    ffi::lua_pushnumber(state, v as f64);
                } else {
                    push_decimal(state, v < 0, v.unsigned_abs());
                }
            }
            Item::UInt(v) => push_decimal(state, false, v),
            Item::Float(v) => ffi::lua_pushnumber(state, v),
            Item::Str(v) => push_str(state, v),
            Item::Bin(v) => push_buffer(state, v),
            Item::Array(n) => {
                if n > budget.nodes as usize {
                    return Err(TOO_MANY);
                }
                ffi::lua_createtable(state, n as c_int, 0);
                for i in 1..=n as c_int {
                    push_one(state, reader, depth + 1, budget)?;
                    ffi::lua_rawseti_(state, -2, i);
                }
            }
            Item::Map(n) => push_map(state, reader, n, depth, budget)?,
            Item::Ext(kind, v) => push_ext(state, kind, v, depth, budget)?,
        }
    }
    Ok(())
}

unsafe fn push_map(state: *mut lua_State, reader: &mut Reader, n: usize, depth: u32, budget: &mut Budget) -> Crossed<()> {
    if n > budget.nodes as usize {
        return Err(TOO_MANY);
    }
    unsafe {
        ffi::lua_createtable(state, 0, n as c_int);
        for _ in 0..n {
            push_one(state, reader, depth + 1, budget)?;
            let key = ffi::lua_type(state, -1);
            if key == ffi::LUA_TNIL || (key == ffi::LUA_TNUMBER && ffi::lua_tonumber(state, -1).is_nan()) {
                return Err("a map has a key that no table can have".into());
            }
            // Two keys of a map may be one in a table: 1 and 1.0, or a large integer and its decimal text.
            ffi::lua_pushvalue(state, -1);
            if ffi::lua_rawget(state, -3) != ffi::LUA_TNIL {
                return Err("two keys of a map are the same in a table".into());
            }
            ffi::lua_settop(state, -2);
            push_one(state, reader, depth + 1, budget)?;
            ffi::lua_rawset(state, -3);
        }
    }
    Ok(())
}

unsafe fn push_ext(state: *mut lua_State, kind: i8, v: &[u8], depth: u32, budget: &mut Budget) -> Crossed<()> {
    const BAD: &str = "an extension has the wrong size";
    unsafe {
        match kind {
            kind::RAW_TEXT | kind::TIME_ZONE => push_str(state, v),
            kind::BUFFER => push_buffer(state, v),
            kind::BLOB => blob::push(state, v.to_vec())?,
            kind::VECTOR => {
                let all: [u8; 12] = v.try_into().map_err(|_| BAD)?;
                let at = |i: usize| f32::from_be_bytes([all[i], all[i + 1], all[i + 2], all[i + 3]]);
                ffi::lua_pushvector(state, at(0), at(4), at(8));
            }
            kind::INTERVAL => {
                let all: [u8; 12] = v.try_into().map_err(|_| BAD)?;
                let seconds = i64::from_be_bytes(all[..8].try_into().map_err(|_| BAD)?);
                let nanos = u32::from_be_bytes(all[8..].try_into().map_err(|_| BAD)?);
                ffi::lua_pushnumber(state, seconds as f64 + f64::from(nanos) / 1e9);
            }
            kind::LAZY_STRING_MAP => {
                let mut inner = Reader::new(v);
                let n = inner.map()?;
                push_map(state, &mut inner, n, depth, budget)?;
            }
            kind::BOXED => {
                let n = u64::from_be_bytes(v.try_into().map_err(|_| BAD)?);
                push_decimal(state, false, n);
            }
            kind::TIMESTAMP => {
                let (seconds, nanos) = timestamp(v).ok_or(BAD)?;
                let mut text = [0; 48];
                let n = rfc3339(seconds, nanos, &mut text).ok_or("a time is outside the years 0 to 9999")?;
                push_str(state, &text[..n]);
            }
            _ => return Err(format!("the extension {kind} is not known").into()),
        }
    }
    Ok(())
}

unsafe fn push_buffer(state: *mut lua_State, bytes: &[u8]) {
    unsafe {
        let p = ffi::lua_newbuffer(state, bytes.len()) as *mut u8;
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), p, bytes.len());
    }
}

/// Pushes an integer as its decimal text, without owning memory.
unsafe fn push_decimal(state: *mut lua_State, negative: bool, mut n: u64) {
    let mut text = [0; 21];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    if negative {
        at -= 1;
        text[at] = b'-';
    }
    unsafe { push_str(state, &text[at..]) }
}

/// Seconds and nanoseconds of msgpack's timestamp, in any of its three sizes.
fn timestamp(v: &[u8]) -> Option<(i64, u32)> {
    Some(match v.len() {
        4 => (u32::from_be_bytes(v.try_into().ok()?).into(), 0),
        8 => {
            let n = u64::from_be_bytes(v.try_into().ok()?);
            ((n & 0x3_ffff_ffff) as i64, (n >> 34) as u32)
        }
        12 => (i64::from_be_bytes(v[4..].try_into().ok()?), u32::from_be_bytes(v[..4].try_into().ok()?)),
        _ => return None,
    })
}

/// Writes a UTC time as RFC 3339 with 0, 3, 6 or 9 digits after the point; gives the length.
fn rfc3339(seconds: i64, nanos: u32, out: &mut [u8; 48]) -> Option<usize> {
    use std::io::Write;
    // Days to a civil date, counting years from March (Howard Hinnant's method).
    let days = seconds.div_euclid(86_400).checked_add(719_468)?;
    let of_day = seconds.rem_euclid(86_400);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(0..=9_999).contains(&year) || nanos >= 1_000_000_000 {
        return None;
    }
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let mut rest = &mut out[..];
    write!(rest, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}").ok()?;
    match nanos {
        0 => write!(rest, "Z"),
        n if n % 1_000_000 == 0 => write!(rest, ".{:03}Z", n / 1_000_000),
        n if n % 1_000 == 0 => write!(rest, ".{:06}Z", n / 1_000),
        n => write!(rest, ".{n:09}Z"),
    }
    .ok()?;
    let left = rest.len();
    Some(48 - left)
}
