//! `ctx:event()`: one read-only table per event. `data` is parsed when it is first read, or at once for an event whose
//! handler has read it before.
//!
//! Until then the table has a metatable that finds the `ctx` with the raw JSON through a weak table; afterwards it is a
//! plain table. Neither weak table keeps what it names: the way from `ctx` to the table is weak at both ends.

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use crate::context::{self, TAG_CTX};
use crate::isolate;
use crate::json::{self, Nulls, bytes_at, push_str};

/// Place of the weak table `ctx` -> event in the metatable of `ctx`.
pub const CACHE: c_int = 1;

/// In the metatable of an event without its data: what it is, and the weak table event -> `ctx`.
const MARK: c_int = 1;
const SOURCES: c_int = 2;
static MARKED: u8 = 0;

fn mark() -> *mut std::ffi::c_void {
    (&raw const MARKED).cast_mut().cast()
}

const LAZY_KEY: &CStr = c"pytw.event";

/// Method `event` of `ctx`.
pub unsafe extern "C-unwind" fn of_ctx(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau with `ctx` at index 1, which stays there.
    unsafe {
        let (ctx, core) = context::own(state);
        ffi::lua_settop(state, 1);
        ffi::lua_getuserdatametatable(state, TAG_CTX);
        ffi::lua_rawgeti_(state, 2, CACHE);
        ffi::lua_pushvalue(state, 1);
        if ffi::lua_rawget(state, 3) != ffi::LUA_TNIL {
            return 1;
        }
        ffi::lua_settop(state, 3);
        ffi::lua_createtable(state, 0, 4);
        push_str(state, ctx.name());
        ffi::lua_rawsetfield(state, 4, c"name".as_ptr());
        if let Some(author) = ctx.author() {
            push_str(state, author);
            ffi::lua_rawsetfield(state, 4, c"author".as_ptr());
        }
        if ctx.redelivered {
            ffi::lua_pushboolean(state, 1);
            ffi::lua_rawsetfield(state, 4, c"redelivered".as_ptr());
        }
        if core.reads_data(ctx.name_index) {
            push_data(state, ctx.payload());
            ffi::lua_rawsetfield(state, 4, c"data".as_ptr());
        } else {
            ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, LAZY_KEY.as_ptr());
            ffi::lua_rawgeti_(state, 5, SOURCES);
            ffi::lua_pushvalue(state, 4);
            ffi::lua_pushvalue(state, 1);
            ffi::lua_rawset(state, 6);
            ffi::lua_settop(state, 5);
            ffi::lua_setmetatable(state, 4);
        }
        ffi::lua_setreadonly(state, 4, 1);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushvalue(state, 4);
        ffi::lua_rawset(state, 3);
        1
    }
}

/// Pushes the parsed payload, or raises what the parser says.
unsafe fn push_data(state: *mut lua_State, payload: &[u8]) {
    // SAFETY: inside a function that Luau called.
    unsafe {
        let done = match json::push(state, payload, Nulls::Nil) {
            Ok(()) => true,
            Err(text) => {
                push_str(state, format!("the event's data is not readable: {text}").as_bytes());
                false
            }
        };
        if !done {
            ffi::lua_error(state);
        }
    }
}

/// Gives the event at `index` its data, if it is one that has none yet. May raise.
pub unsafe fn complete(state: *mut lua_State, index: c_int) -> bool {
    // SAFETY: inside a protected call.
    unsafe {
        ffi::lua_rawcheckstack(state, 8);
        let index = ffi::lua_absindex(state, index);
        let top = ffi::lua_gettop(state);
        if ffi::lua_getmetatable(state, index) == 0 {
            return false;
        }
        ffi::lua_rawgeti_(state, -1, MARK);
        if ffi::lua_type(state, -1) != ffi::LUA_TLIGHTUSERDATA || ffi::lua_tolightuserdata(state, -1) != mark() {
            ffi::lua_settop(state, top);
            return false;
        }
        ffi::lua_rawgeti_(state, top + 1, SOURCES);
        ffi::lua_pushvalue(state, index);
        ffi::lua_rawget(state, -2);
        if let Some(ctx) = context::at(state, -1) {
            push_data(state, ctx.payload());
            ffi::lua_setreadonly(state, index, 0);
            ffi::lua_rawsetfield(state, index, c"data".as_ptr());
            ffi::lua_pushnil(state);
            ffi::lua_setmetatable(state, index);
            ffi::lua_setreadonly(state, index, 1);
            ffi::lua_pushvalue(state, index);
            ffi::lua_pushnil(state);
            ffi::lua_rawset(state, top + 3);
        }
        ffi::lua_settop(state, top);
        true
    }
}

/// `event.x` while the data is not there.
unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::lua_settop(state, 2);
        if bytes_at(state, 2) != b"data" {
            return 0;
        }
        note_read(state);
        complete(state, 1);
        ffi::lua_rawget(state, 1);
        1
    }
}

/// `for k, v in event`.
unsafe extern "C-unwind" fn iter(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::lua_settop(state, 1);
        note_read(state);
        complete(state, 1);
        ffi::lua_getglobal(state, c"next".as_ptr());
        ffi::lua_insert(state, 1);
        2
    }
}

/// Remembers that the handler of the event at index 1 reads its data.
unsafe fn note_read(state: *mut lua_State) {
    // SAFETY: called by functions that Luau called.
    unsafe {
        let top = ffi::lua_gettop(state);
        if ffi::lua_getmetatable(state, 1) != 0 {
            ffi::lua_rawgeti_(state, -1, SOURCES);
            ffi::lua_pushvalue(state, 1);
            if ffi::lua_type(state, -2) == ffi::LUA_TTABLE {
                ffi::lua_rawget(state, -2);
            }
            if let (Some(ctx), Some(core)) = (context::at(state, -1), isolate::current(state)) {
                core.note_read(ctx.name_index);
            }
        }
        ffi::lua_settop(state, top);
    }
}

/// Makes the metatable of events without data, and pushes the weak table from `ctx` to its event.
pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe {
        ffi::lua_createtable(state, 2, 4);
        ffi::lua_pushlightuserdata(state, mark());
        ffi::lua_rawseti_(state, -2, MARK);
        push_weak(state, c"k");
        ffi::lua_rawseti_(state, -2, SOURCES);
        ffi::lua_pushcclosurek(state, index, c"index".as_ptr(), 0, None);
        ffi::lua_rawsetfield(state, -2, c"__index".as_ptr());
        ffi::lua_pushcclosurek(state, iter, c"iter".as_ptr(), 0, None);
        ffi::lua_rawsetfield(state, -2, c"__iter".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_rawsetfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, LAZY_KEY.as_ptr());
        push_weak(state, c"kv");
    }
}

/// Pushes a table with weak keys, or weak keys and values.
pub unsafe fn push_weak(state: *mut lua_State, mode: &CStr) {
    // SAFETY: while a VM is set up.
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushstring_(state, mode.as_ptr());
        ffi::lua_rawsetfield(state, -2, c"__mode".as_ptr());
        ffi::lua_setmetatable(state, -2);
    }
}
