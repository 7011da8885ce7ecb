//! The text of an error value.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::isolate;
use crate::json::bytes_at;

/// More of a text is never looked at; what is shown of it is shorter still (`error_bytes_max`).
const TEXT_BYTES_MAX: usize = 65_536;

pub unsafe fn text_of(state: *mut lua_State, index: c_int) -> String {
    // SAFETY: by the caller, a live state; nothing here allocates in Luau, as the value is converted only if it is text.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TSTRING => {
                let bytes = bytes_at(state, index);
                String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned()
            }
            other => {
                let name = std::ffi::CStr::from_ptr(ffi::lua_typename(state, other));
                format!("error object is a {}", name.to_string_lossy())
            }
        }
    }
}

/// What a thread ended with, and where.
pub unsafe fn with_traceback(co: *mut lua_State, template: &str) -> String {
    // SAFETY: by the caller, a thread that has ended with an error, which is on its stack.
    unsafe {
        let mut text = text_of(co, -1);
        isolate::traceback(co, template, &mut text);
        text
    }
}
