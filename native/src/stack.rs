//! Texts, buffers and numbers between Rust and a Luau stack, for the rooms that work on the stack itself; what scripts call
//! has `Call`.
//!
//! SAFETY, for the whole file: callers have a live state with room for one value, and call what may raise a memory error
//! inside protected calls only.

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

/// Integers past this, in either direction, lose digits as a Luau number.
pub const EXACT: u64 = 1 << 53;

/// The integer that a number is. -0 is none, nor is what is past `EXACT`: as an integer it would come back as another number.
pub fn whole(n: f64) -> Option<i64> {
    let is_whole = n.fract() == 0.0 && n.abs() <= EXACT as f64 && !(n == 0.0 && n.is_sign_negative());
    is_whole.then_some(n as i64)
}

/// Pushes a string; may raise.
pub unsafe fn push_str(state: *mut lua_State, text: &[u8]) {
    unsafe { ffi::lua_pushlstring_(state, text.as_ptr().cast(), text.len()) }
}

/// The bytes of the string at `index`; valid while the string stays on the stack. A number there becomes its text.
pub unsafe fn bytes_at<'a>(state: *mut lua_State, index: c_int) -> &'a [u8] {
    unsafe {
        let mut size = 0;
        let p = ffi::lua_tolstring(state, index, &mut size);
        if p.is_null() { &[] } else { std::slice::from_raw_parts(p.cast(), size) }
    }
}

/// Pushes a buffer; may raise.
pub unsafe fn push_buffer(state: *mut lua_State, bytes: &[u8]) {
    unsafe {
        let data = ffi::lua_newbuffer(state, bytes.len()) as *mut u8;
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
    }
}

/// The bytes of the buffer at `index`, valid while it stays on the stack and nothing writes to it; nothing for other values.
pub unsafe fn buffer_at<'a>(state: *mut lua_State, index: c_int) -> Option<&'a [u8]> {
    let mut size = 0;
    unsafe {
        let data = ffi::lua_tobuffer(state, index, &raw mut size);
        match (data.is_null(), size) {
            (true, _) => None,
            (_, 0) => Some(&[]),
            _ => Some(std::slice::from_raw_parts(data.cast(), size)),
        }
    }
}

/// Pushes a table with room for `items`, weak in its keys (`k`) or values (`v`); may raise.
pub unsafe fn push_weak(state: *mut lua_State, mode: &CStr, items: c_int) {
    unsafe {
        ffi::lua_createtable(state, items, 0);
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushstring_(state, mode.as_ptr());
        ffi::lua_rawsetfield(state, -2, c"__mode".as_ptr());
        ffi::lua_setmetatable(state, -2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_those_that_come_back() {
        let top = EXACT as f64;
        assert_eq!([0.0, -3.0, top, -top].map(whole), [Some(0), Some(-3), Some(1 << 53), Some(-(1 << 53))]);
        assert!([-0.0, 0.5, 2.0 * top, f64::NAN, f64::INFINITY].iter().all(|n| whole(*n).is_none()));
    }
}
