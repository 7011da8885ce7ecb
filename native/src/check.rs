//! What an entry's result says about the events of its template.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use crate::{limits, msgpack};

/// Events that one template may name by the keys of its table.
const KEYS_MAX: usize = 1_000;
const SHAPE: &str = "the entry must return a function, or a table of event name -> function";
/// Bytes of a key that an error shows.
const KEY_SHOWN: usize = 100;

/// Writes the sorted names of the functions in the table at `index`, or `["*"]` for one function. Reads raw fields
/// only, and raises nothing.
pub unsafe fn encode_keys(state: *mut lua_State, index: c_int, out: &mut Vec<u8>) -> Result<(), String> {
    // SAFETY: by the caller, a live state with a value at the positive `index` and room on its stack.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TFUNCTION => {
                msgpack::array(out, 1);
                msgpack::str(out, "*");
                return Ok(());
            }
            ffi::LUA_TTABLE => {}
            _ => return Err(SHAPE.into()),
        }
        let mut keys = BTreeSet::new();
        let mut other = None;
        let mut iter = 0;
        loop {
            iter = ffi::lua_rawiter(state, index, iter);
            if iter < 0 {
                break;
            }
            if ffi::lua_type(state, -1) == ffi::LUA_TFUNCTION {
                if ffi::lua_type(state, -2) != ffi::LUA_TSTRING {
                    return Err(format!("{SHAPE}: an event's name must be a string, not {}", key_at(state, -2)));
                }
                let name = std::str::from_utf8(crate::stack::bytes_at(state, -2)).map_err(|_| "an event's name is not UTF-8")?;
                keys.insert(name.to_string());
                if keys.len() > KEYS_MAX {
                    return Err("the entry names too many events".into());
                }
            } else if other.is_none() {
                let kind = CStr::from_ptr(ffi::luaL_typename(state, -1)).to_string_lossy();
                other = Some(format!("{} is a {kind}, not a function", key_at(state, -2)));
            }
            ffi::lua_settop(state, -3);
        }
        if keys.is_empty() {
            return Err(format!("{SHAPE}: {}", other.as_deref().unwrap_or("the table is empty")));
        }
        msgpack::array(out, keys.len());
        for key in keys {
            msgpack::str(out, &key);
        }
        Ok(())
    }
}

/// A key as an error shows it.
unsafe fn key_at(state: *mut lua_State, index: c_int) -> String {
    // SAFETY: by the caller, a value at `index`; a key is not converted, which would disturb the iteration.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TSTRING => limits::cut(String::from_utf8_lossy(crate::stack::bytes_at(state, index)).into_owned(), KEY_SHOWN),
            ffi::LUA_TNUMBER => format!("[{}]", ffi::lua_tonumber(state, index)),
            _ => format!("[{}]", CStr::from_ptr(ffi::luaL_typename(state, index)).to_string_lossy()),
        }
    }
}
