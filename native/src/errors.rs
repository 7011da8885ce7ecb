//! The text of errors: of the value that was raised, and of where, in the three forms that scripts and their authors see.

use std::ffi::{CStr, c_int};
use std::fmt::Write;
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::chunk;
use crate::isolate::BOOT_NAME;
use crate::stack::{bytes_at, push_str};

/// More of a text is never looked at; what is shown of it is shorter still (`error_bytes_max`).
pub const TEXT_BYTES_MAX: usize = 65_536;

const FRAMES_SHOWN: usize = 20;

pub unsafe fn text_of(state: *mut lua_State, index: c_int) -> String {
    // SAFETY: by the caller, a live state; nothing here allocates in Luau, as the value is converted only if it is text.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TSTRING => {
                let bytes = bytes_at(state, index);
                String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned()
            }
            other => {
                let name = CStr::from_ptr(ffi::lua_typename(state, other));
                format!("error object is a {}", name.to_string_lossy())
            }
        }
    }
}

/// Walks the Luau frames of a thread, innermost first, without the engine's own: `(depth, file, line, name)`. Runs no
/// Luau and allocates nothing in it.
unsafe fn frames(co: *mut lua_State, level: c_int, mut each: impl FnMut(usize, &str, c_int, Option<&str>)) {
    // SAFETY: by the caller, a live thread; the texts of a frame are copied or used before the next is looked at.
    unsafe {
        let mut frame: ffi::lua_Debug = std::mem::zeroed();
        let mut level = level;
        let mut depth = 0;
        while ffi::lua_getinfo(co, level, c"sln".as_ptr(), &mut frame) != 0 {
            level += 1;
            let source = CStr::from_ptr(frame.source);
            if source == BOOT_NAME || source == c"=[C]" {
                continue;
            }
            let file = CStr::from_ptr(frame.short_src).to_string_lossy();
            let name = if frame.name.is_null() { c"" } else { CStr::from_ptr(frame.name) }.to_string_lossy();
            each(depth, &file, frame.currentline, Some(&*name).filter(|name| !name.is_empty()));
            depth += 1;
        }
    }
}

/// What a thread ended with, and where, one line per frame in the template's terms.
pub unsafe fn with_traceback(co: *mut lua_State, template: &str) -> String {
    // SAFETY: by the caller, a thread that has ended with an error, which is on its stack.
    unsafe {
        let mut text = text_of(co, -1);
        frames(co, 0, |depth, file, line, name| {
            let file = chunk::plain(file);
            match depth.cmp(&FRAMES_SHOWN) {
                std::cmp::Ordering::Less => {
                    let _ = write!(text, "\n\ttemplate '{template}' {file}:{line}");
                }
                std::cmp::Ordering::Equal => text.push_str("\n\t..."),
                std::cmp::Ordering::Greater => {}
            }
            if let (Some(name), true) = (name, depth < FRAMES_SHOWN) {
                let _ = write!(text, " in function '{name}'");
            }
        });
        text
    }
}

/// Appends the stack of a thread as the error of a `coroutine.resume` tells it.
pub unsafe fn append_stack(co: *mut lua_State, text: &mut String) {
    text.push_str("\nstack traceback:");
    // SAFETY: by the caller, a live thread.
    unsafe {
        frames(co, 0, |depth, file, line, name| {
            if depth < FRAMES_SHOWN {
                let _ = write!(text, "\n{file}:{line}");
                let _ = name.map_or(Ok(()), |name| write!(text, " function {name}"));
            }
        });
    }
}

/// `debug.traceback(thread?, message?, level?)`, without the engine's own frames.
pub unsafe extern "C-unwind" fn traceback(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau; the text is owned only while it is pushed.
    unsafe {
        let other = ffi::lua_tothread(state, 1);
        let (co, first) = if other.is_null() { (state, 1) } else { (other, 2) };
        let level = ffi::luaL_optinteger_(state, first + 1, c_int::from(co == state)).max(0);
        let mut text = String::new();
        if ffi::lua_type(state, first) > ffi::LUA_TNIL {
            ffi::luaL_checklstring(state, first, ptr::null_mut());
            let message = bytes_at(state, first);
            text = String::from_utf8_lossy(&message[..message.len().min(TEXT_BYTES_MAX)]).into_owned() + "\n";
        }
        frames(co, level, |_, file, line, name| {
            let _ = write!(text, "{file}:{line}");
            if let Some(name) = name {
                let _ = write!(text, " function {name}");
            }
            text.push('\n');
        });
        push_str(state, text.as_bytes());
        1
    }
}
