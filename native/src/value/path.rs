//! Where in a value something stands, as a script would write it: `data.items[3].x`.

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use super::Refusal;
use crate::limits::cut;
use crate::stack::bytes_at;

const KEY_BYTES_MAX: usize = 40;
const PATH_BYTES_MAX: usize = 200;

impl Refusal {
    /// Notes that what is refused stands under the key at `key`; raises nothing.
    pub(super) unsafe fn under(mut self, state: *mut lua_State, key: c_int) -> Refusal {
        if self.limit.is_none() {
            // SAFETY: by the caller, a live state with a value there.
            self.path.push(unsafe { step(state, key) });
        }
        self
    }

    /// The same for an item of a list.
    pub(super) fn under_item(mut self, place: usize) -> Refusal {
        if self.limit.is_none() {
            self.path.push(format!("[{place}]"));
        }
        self
    }

    /// The refusal as a script reads it.
    pub(super) fn with_path(mut self) -> Refusal {
        let steps = std::mem::take(&mut self.path);
        if !steps.is_empty() {
            let path: String = steps.into_iter().rev().collect();
            let path = cut(path.strip_prefix('.').unwrap_or(&path).to_string(), PATH_BYTES_MAX);
            self.text = format!("at {path}: {}", self.text).into();
        }
        self
    }
}

unsafe fn step(state: *mut lua_State, key: c_int) -> String {
    // SAFETY: by the caller. Only a string is asked for its text, so none is converted.
    unsafe {
        match ffi::lua_type(state, key) {
            ffi::LUA_TSTRING => {
                let text = String::from_utf8_lossy(bytes_at(state, key));
                let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !text.starts_with(|c: char| c.is_ascii_digit());
                if plain && !text.is_empty() && text.len() <= KEY_BYTES_MAX {
                    return format!(".{text}");
                }
                format!("[{:?}]", cut(text.into_owned(), KEY_BYTES_MAX))
            }
            ffi::LUA_TNUMBER => format!("[{}]", ffi::lua_tonumber(state, key)),
            ffi::LUA_TBOOLEAN => format!("[{}]", ffi::lua_toboolean(state, key) != 0),
            other => format!("[a {}]", CStr::from_ptr(ffi::lua_typename(state, other)).to_string_lossy()),
        }
    }
}
