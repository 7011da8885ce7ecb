//! msgpack to Luau.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::{Budget, Crossed, Refusal, TOO_MANY, breach, kind};
use crate::api::blob;
use crate::api::datetime::{DateTime, TimeDelta, Timezone};
use crate::api::ints::{U64, push_integer};
use crate::api::lazy::{Json, Lazy, Opaque, unreadable};
use crate::json;
use crate::limits;
use crate::marks;
use crate::msgpack::{Item, Reader};
use crate::object;
use crate::stack::{push_buffer, push_str};
use crate::string_map::StringMap;
use crate::walk::DEPTH_MAX;

/// All results of one call: the largest HTTP response there is, its body a blob (`limits.HTTP_ANSWER_BYTES_MAX`). What comes
/// from the master is shorter (`limits.RECORD_BYTES_MAX`).
const ANSWER_BYTES_MAX: usize = 11 << 20;
const ANSWER_TOO_LONG: Refusal = breach(limits::SIZE, "the answer is longer than 11 MiB (limit: size)");

/// Values that one call gives.
const RESULTS_MAX: usize = 64;
/// What the host puts around values that were stored may be as deep as this: a list of records, each of them read-only.
const ENVELOPE_LEVELS: usize = 3;

/// Pushes the items of a list one by one, as results of a call; gives their number. On an error the stack is the
/// caller's to reset.
pub unsafe fn push_list(state: *mut lua_State, bytes: &[u8]) -> Crossed<c_int> {
    if bytes.len() > ANSWER_BYTES_MAX {
        return Err(ANSWER_TOO_LONG);
    }
    let mut reader = Reader::new(bytes);
    let mut budget = Budget { depth_max: DEPTH_MAX + ENVELOPE_LEVELS, ..Budget::new() };
    let n = reader.array()?;
    if n > RESULTS_MAX {
        return Err(format!("a call has more than {RESULTS_MAX} results").into());
    }
    for _ in 0..n {
        unsafe { push_one(state, &mut reader, 0, &mut budget)? };
    }
    if reader.is_empty() { Ok(n as c_int) } else { Err("bytes follow the value".into()) }
}

/// Pushes a copy of the value at `index` that shares nothing with it. On an error the stack is the caller's to reset.
pub unsafe fn copy(state: *mut lua_State, index: c_int) -> Crossed<()> {
    let mut packed = Vec::new();
    unsafe {
        super::encode(state, index, &mut packed)?;
        push_one(state, &mut Reader::new(&packed), 0, &mut Budget::new())
    }
}

unsafe fn push_one(state: *mut lua_State, reader: &mut Reader, depth: usize, budget: &mut Budget) -> Crossed<()> {
    budget.spend(depth)?;
    unsafe {
        ffi::lua_rawcheckstack(state, 4);
        match reader.item()? {
            Item::Nil => ffi::lua_pushnil(state),
            Item::Bool(v) => ffi::lua_pushboolean(state, v.into()),
            Item::Int(v) => push_integer(state, v),
            Item::UInt(v) => object::push(state, U64(v)),
            Item::Float(v) => ffi::lua_pushnumber(state, v),
            Item::Str(v) => push_str(state, v),
            Item::Bin(v) => push_buffer(state, v),
            Item::Array(n) => {
                if n > budget.nodes {
                    return Err(TOO_MANY);
                }
                ffi::lua_createtable(state, n as c_int, 0);
                let mut holes = n == 0;
                for i in 1..=n as c_int {
                    push_one(state, reader, depth + 1, budget)?;
                    holes |= ffi::lua_type(state, -1) == ffi::LUA_TNIL;
                    ffi::lua_rawseti_(state, -2, i);
                }
                // Without the mark it would go out as a map.
                if holes {
                    marks::mark_array(state);
                }
            }
            Item::Map(n) => push_map(state, reader, n, depth, budget)?,
            Item::Ext(kind::READ_ONLY, v) => push_read_only(state, v, depth, budget)?,
            Item::Ext(kind, v) => push_ext(state, kind, v)?,
        }
    }
    Ok(())
}

unsafe fn push_map(state: *mut lua_State, reader: &mut Reader, n: usize, depth: usize, budget: &mut Budget) -> Crossed<()> {
    if n > budget.nodes {
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
            // Two keys of a map may be one in a table: 1 and 1.0.
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

/// A table that nothing writes to; what it holds is as ever.
unsafe fn push_read_only(state: *mut lua_State, v: &[u8], depth: usize, budget: &mut Budget) -> Crossed<()> {
    let mut reader = Reader::new(v);
    unsafe {
        push_one(state, &mut reader, depth + 1, budget)?;
        if !reader.is_empty() || ffi::lua_type(state, -1) != ffi::LUA_TTABLE {
            return Err("what is read-only is one table".into());
        }
        ffi::lua_setreadonly(state, -1, 1);
    }
    Ok(())
}

unsafe fn push_ext(state: *mut lua_State, kind: i8, v: &[u8]) -> Crossed<()> {
    const BAD: &str = "an extension has the wrong size";
    unsafe {
        match kind {
            kind::RAW_TEXT => push_str(state, v),
            kind::BUFFER => push_buffer(state, v),
            kind::VECTOR => {
                let all: [u8; 12] = v.try_into().map_err(|_| BAD)?;
                let at = |i: usize| f32::from_be_bytes([all[i], all[i + 1], all[i + 2], all[i + 3]]);
                ffi::lua_pushvector(state, at(0), at(4), at(8));
            }
            kind::INTERVAL => object::push(state, TimeDelta::from_wire(v)?),
            kind::TIME_ZONE => object::push(state, Timezone::from_wire(v)?),
            kind::LAZY_STRING_MAP => object::push(state, Lazy::map(StringMap::read(state, v)?)),
            kind::LAZY_JSON => object::push(state, Lazy::json(Json::new(state, v)?)),
            kind::OPAQUE_JSON => object::push(state, Opaque::json(Json::new(state, v)?)),
            kind::JSON => json::push_text(state, json::PLAIN, v).map_err(unreadable)?,
            kind::BLOB => blob::push(state, v.to_vec())?,
            kind::BOXED => {
                let n = u64::from_be_bytes(v.try_into().map_err(|_| BAD)?);
                object::push(state, U64(n));
            }
            kind::TIMESTAMP => object::push(state, DateTime::from_wire(v)?),
            _ => return Err(format!("the extension {kind} is not known").into()),
        }
    }
    Ok(())
}
