//! Native functions that would hold the thread for long are bounded here; tests/native/test_sandbox.py measures them.
//!
//! Luau polls for interrupts between instructions and in its pattern matcher. What loops elsewhere, for as long as its
//! arguments make it, gets a limit on them, a faster algorithm, or a callback in which Luau polls.

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::LazyLock;
use std::time::Instant;

use mlua::ffi::{self, lua_State};

use crate::isolate::BOOT_NAME;
use crate::program::{self, Frames, SyntaxError};
use crate::stack::bytes_at;
use crate::{errors, event, memory};

/// Steps that one pattern item or one search may take without a poll: about 50 ms.
const STEPS_MAX: usize = 50_000_000;
const PATTERN_BYTES_MAX: usize = 10_000;
/// Tables longer than this are sorted by a comparator in which Luau polls.
const SORT_PLAIN_MAX: c_int = 50_000;
/// Places of a table that is no list which `table.move` walks: about 40 ms.
const MOVE_SPARSE_MAX: i64 = 400_000;
const DATE_FORMAT_BYTES_MAX: usize = 256;

/// Calls the original of a wrapper, which is its upvalue 1 and needs no upvalues itself, on the wrapper's own frame.
unsafe fn original(state: *mut lua_State) -> c_int {
    // SAFETY: `wrap` has put a C function there.
    unsafe {
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(1)) {
            Some(f) => f(state),
            None => ffi::luaL_error(state, c"the function is gone".as_ptr()),
        }
    }
}

unsafe fn two_texts<'a>(state: *mut lua_State) -> (&'a [u8], &'a [u8]) {
    // SAFETY: called by functions that Luau called; the strings stay on the stack.
    unsafe {
        ffi::luaL_checklstring(state, 1, ptr::null_mut());
        ffi::luaL_checklstring(state, 2, ptr::null_mut());
        (bytes_at(state, 1), bytes_at(state, 2))
    }
}

// ---- patterns -----------------------------------------------------------------------------------------

/// The length of the longest `[set]` of a pattern: each character of the text may be compared with all of it.
fn longest_set(pattern: &[u8]) -> usize {
    let (mut longest, mut at) = (0, 0);
    while at < pattern.len() {
        match pattern[at] {
            b'%' => at += 1,
            b'[' => {
                let start = at;
                // A bracket right after the opening, or after its caret, belongs to the set.
                at += 1 + usize::from(pattern.get(at + 1) == Some(&b'^')) + 1;
                while at < pattern.len() && pattern[at] != b']' {
                    at += 1 + usize::from(pattern[at] == b'%');
                }
                longest = longest.max(at.min(pattern.len()) - start);
            }
            _ => {}
        }
        at += 1;
    }
    longest
}

unsafe fn check_pattern(state: *mut lua_State, text: &[u8], pattern: &[u8]) {
    // SAFETY: called by functions that Luau called; nothing is owned here.
    unsafe {
        if pattern.len() > PATTERN_BYTES_MAX {
            ffi::luaL_argerror(state, 2, c"the pattern is too long".as_ptr());
        }
        if text.len().saturating_mul(longest_set(pattern)) > STEPS_MAX {
            ffi::luaL_argerror(state, 1, c"the string is too long for this pattern".as_ptr());
        }
    }
}

unsafe extern "C-unwind" fn with_pattern(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let (text, pattern) = two_texts(state);
        check_pattern(state, text, pattern);
        original(state)
    }
}

/// `string.find`: a plain search in linear time, where Luau's takes the product of both lengths.
unsafe extern "C-unwind" fn find(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let (text, pattern) = two_texts(state);
        let plain = ffi::lua_toboolean(state, 4) != 0 || !pattern.iter().any(|b| b"^$*+?.([%-".contains(b));
        if !plain {
            check_pattern(state, text, pattern);
            return original(state);
        }
        if text.len().saturating_mul(pattern.len()) <= STEPS_MAX / 50 {
            return original(state);
        }
        let init = match ffi::luaL_optinteger_(state, 3, 1) {
            n @ 1.. => n as usize - 1,
            0 => 0,
            n => text.len().saturating_sub(n.unsigned_abs() as usize),
        };
        match text.get(init..).and_then(|rest| memchr::memmem::find(rest, pattern)) {
            Some(at) => {
                ffi::lua_pushnumber(state, (init + at + 1) as f64);
                ffi::lua_pushnumber(state, (init + at + pattern.len()) as f64);
                2
            }
            None => {
                ffi::lua_pushnil(state);
                1
            }
        }
    }
}

unsafe extern "C-unwind" fn split(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let text_bytes = ffi::lua_objlen(state, 1);
        let separator_bytes = if ffi::lua_type(state, 2) == ffi::LUA_TSTRING { ffi::lua_objlen(state, 2) } else { 1 };
        if ffi::lua_type(state, 1) == ffi::LUA_TSTRING && separator_bytes > 1 && text_bytes.saturating_mul(separator_bytes) > STEPS_MAX {
            ffi::luaL_argerror(state, 2, c"the separator is too long".as_ptr());
        }
        original(state)
    }
}

// ---- tables --------------------------------------------------------------------------------------------

/// `table.sort`; upvalue 2 is `<` as a Luau function, upvalue 3 wraps a native comparator in one.
unsafe extern "C-unwind" fn sort(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE && ffi::lua_objlen_(state, 1) > SORT_PLAIN_MAX {
            ffi::lua_settop(state, 2);
            if ffi::lua_type(state, 2) == ffi::LUA_TNIL {
                ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
                ffi::lua_replace(state, 2);
            } else if ffi::lua_iscfunction(state, 2) != 0 {
                ffi::lua_pushvalue(state, ffi::lua_upvalueindex(3));
                ffi::lua_insert(state, 2);
                ffi::lua_call(state, 1, 1);
            }
        }
        original(state)
    }
}

/// `table.move`: a long range of a table that is no list is walked place by place.
unsafe extern "C-unwind" fn move_items(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        let (first, last) = (i64::from(ffi::luaL_checkinteger_(state, 2)), i64::from(ffi::luaL_checkinteger_(state, 3)));
        let is_list = first >= 1 && last <= i64::from(ffi::lua_objlen_(state, 1));
        if last - first >= MOVE_SPARSE_MAX && !is_list {
            ffi::luaL_argerror(state, 3, c"too many elements to move from a table that is no list".as_ptr());
        }
        original(state)
    }
}

/// `table.clone`: a copy of an event has its data.
unsafe extern "C-unwind" fn clone(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE {
            event::complete(state, 1);
        }
        original(state)
    }
}

/// `pairs`: sees the data of an event. Upvalue 1 is `next`.
unsafe extern "C-unwind" fn pairs(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        event::complete(state, 1);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushnil(state);
        3
    }
}

// ---- the rest ------------------------------------------------------------------------------------------

unsafe extern "C-unwind" fn date(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TSTRING && ffi::lua_objlen(state, 1) > DATE_FORMAT_BYTES_MAX {
            ffi::luaL_argerror(state, 1, c"the format is too long".as_ptr());
        }
        original(state)
    }
}

/// Makes the difference of two clocks at least that of their milliseconds, whatever rounding does to the last digit.
const CLOCK_RATE: f64 = 1.000_000_001;
static CLOCK_START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// `debug.info`: of a frame it gives the function of a script only. The engine's own are made for callers that the engine
/// knows, and a handler of errors, or a look at a thread that waits, would find them on the stack.
unsafe extern "C-unwind" fn info(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let about = if ffi::lua_type(state, 1) == ffi::LUA_TTHREAD { 2 } else { 1 };
        let of_frame = ffi::lua_type(state, about) != ffi::LUA_TFUNCTION;
        let n = original(state);
        ffi::lua_rawcheckstack(state, 1);
        let top = ffi::lua_gettop(state);
        for index in (top - n + 1..=top).filter(|_| of_frame) {
            if is_engines(state, index) {
                ffi::lua_pushnil(state);
                ffi::lua_replace(state, index);
            }
        }
        n
    }
}

/// Whether there is a function at `index` that no script has written.
unsafe fn is_engines(state: *mut lua_State, index: c_int) -> bool {
    // SAFETY: by the caller, with room for a value; the frame is filled before it is read.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TFUNCTION {
            return false;
        }
        let mut frame: ffi::lua_Debug = std::mem::zeroed();
        ffi::lua_pushvalue(state, index);
        let known = ffi::lua_getinfo(state, -1, c"s".as_ptr(), &raw mut frame) != 0;
        ffi::lua_settop(state, -2);
        ffi::lua_iscfunction(state, index) != 0 || !known || CStr::from_ptr(frame.source) == BOOT_NAME
    }
}

/// `os.clock()`, which moves once per millisecond: a finer clock would show what other tenants do on the same core.
unsafe extern "C-unwind" fn clock(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::lua_pushnumber(state, CLOCK_START.elapsed().as_millis() as f64 / 1_000.0 * CLOCK_RATE);
        1
    }
}

/// `collectgarbage("count")`, and nothing else.
unsafe extern "C-unwind" fn collectgarbage(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TSTRING || bytes_at(state, 1) != b"count" {
            ffi::luaL_error(state, c"collectgarbage called with invalid option".as_ptr());
        }
        let bytes = memory::heap_bytes(state);
        ffi::lua_pushnumber(state, bytes / 1024.0);
        1
    }
}

/// Luau code whose frames poll: `<`, and a Luau face for a native comparator.
static COMPARATORS: LazyLock<Result<Box<[u8]>, SyntaxError>> = LazyLock::new(|| {
    program::compile_with(
        b"return function(a, b) return a < b end, function(f) return function(a, b) return f(a, b) end end",
        2,
        Frames::Hidden,
    )
});

/// Replaces `name` in the table on top by `f`, with the original as upvalue 1 and the `more` values above the table.
unsafe fn wrap(state: *mut lua_State, name: &CStr, f: ffi::lua_CFunction, more: c_int) {
    // SAFETY: while a VM is set up.
    unsafe {
        let library = ffi::lua_gettop(state) - more;
        ffi::lua_rawgetfield(state, library, name.as_ptr());
        ffi::lua_insert(state, library + 1);
        ffi::lua_pushcclosurek(state, f, name.as_ptr(), more + 1, None);
        ffi::lua_rawsetfield(state, library, name.as_ptr());
    }
}

pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up, inside a protected call.
    unsafe {
        let top = ffi::lua_gettop(state);
        ffi::lua_getglobal(state, c"string".as_ptr());
        wrap(state, c"find", find, 0);
        for name in [c"match", c"gmatch", c"gsub"] {
            wrap(state, name, with_pattern, 0);
        }
        wrap(state, c"split", split, 0);
        ffi::lua_settop(state, top);

        ffi::lua_getglobal(state, c"table".as_ptr());
        if let Ok(code) = &*COMPARATORS {
            ffi::luau_load(state, BOOT_NAME.as_ptr(), code.as_ptr().cast(), code.len(), 0);
            ffi::lua_call(state, 0, 2);
            wrap(state, c"sort", sort, 2);
        }
        wrap(state, c"clone", clone, 0);
        wrap(state, c"move", move_items, 0);
        ffi::lua_settop(state, top);

        ffi::lua_getglobal(state, c"os".as_ptr());
        wrap(state, c"date", date, 0);
        ffi::lua_pushcclosurek(state, clock, c"clock".as_ptr(), 0, None);
        ffi::lua_rawsetfield(state, -2, c"clock".as_ptr());
        ffi::lua_settop(state, top);

        ffi::lua_getglobal(state, c"debug".as_ptr());
        wrap(state, c"info", info, 0);
        ffi::lua_pushcclosurek(state, errors::traceback, c"traceback".as_ptr(), 0, None);
        ffi::lua_rawsetfield(state, -2, c"traceback".as_ptr());
        ffi::lua_settop(state, top);

        ffi::lua_getglobal(state, c"next".as_ptr());
        ffi::lua_pushcclosurek(state, pairs, c"pairs".as_ptr(), 1, None);
        ffi::lua_setglobal(state, c"pairs".as_ptr());
        ffi::lua_pushcclosurek(state, collectgarbage, c"collectgarbage".as_ptr(), 0, None);
        ffi::lua_setglobal(state, c"collectgarbage".as_ptr());
    }
}
