//! What an entry's result says about the events of its template.

use std::collections::BTreeSet;
use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::msgpack;

/// Events that one template may name by the keys of its table.
const KEYS_MAX: usize = 1_000;
const SHAPE: &str = "the entry must return a function, or a table of event name -> function";

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
        let mut iter = 0;
        loop {
            iter = ffi::lua_rawiter(state, index, iter);
            if iter < 0 {
                break;
            }
            if ffi::lua_type(state, -1) == ffi::LUA_TFUNCTION {
                if ffi::lua_type(state, -2) != ffi::LUA_TSTRING {
                    return Err("an event's name must be a string".into());
                }
                let name = std::str::from_utf8(crate::stack::bytes_at(state, -2)).map_err(|_| "an event's name is not UTF-8")?;
                keys.insert(name.to_string());
                if keys.len() > KEYS_MAX {
                    return Err("the entry names too many events".into());
                }
            }
            ffi::lua_settop(state, -3);
        }
        if keys.is_empty() {
            return Err(SHAPE.into());
        }
        msgpack::array(out, keys.len());
        for key in keys {
            msgpack::str(out, &key);
        }
        Ok(())
    }
}
