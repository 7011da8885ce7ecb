//! `createglobalproxy()`: writable globals whose reads fall through to the base's, for code in an environment of its own.
//!
//! Like the globals of an isolate, and of one: the record behind a proxy is that of the isolate that made it, but keeps the
//! modules that run in the proxy; scripts cannot reach it. Threads keep the globals of the thread that made them, so that
//! what runs in a proxy still has its isolate's `ctx`, host calls and bounds.

use mlua::ffi::{self, lua_State};

use crate::isolate::{self, slot};

/// Pushes a fresh proxy. `_G` is its only key.
pub unsafe fn push_globals(state: *mut lua_State) {
    // SAFETY: by the caller, inside a function that Luau calls.
    unsafe {
        ffi::lua_rawcheckstack(state, 8);
        ffi::lua_createtable(state, 0, 2);
        let globals = ffi::lua_gettop(state);
        ffi::lua_pushvalue(state, globals);
        ffi::lua_rawsetfield(state, globals, c"_G".as_ptr());
        ffi::lua_createtable(state, slot::LAST, 2);
        let record = globals + 1;
        if isolate::push_record(state, ffi::LUA_GLOBALSINDEX) {
            // All of it: a thread made while a chunk loads (`chunk::load`) has the proxy as its globals.
            for place in (1..=slot::LAST).filter(|place| !matches!(*place, slot::MODULES | slot::EXPORTS)) {
                ffi::lua_rawgeti_(state, -1, place);
                ffi::lua_rawseti_(state, record, place);
            }
            ffi::lua_rawgetfield(state, -1, c"__index".as_ptr());
            ffi::lua_remove(state, -2);
        } else {
            ffi::lua_pushvalue(state, ffi::LUA_GLOBALSINDEX);
        }
        ffi::lua_rawsetfield(state, record, c"__index".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_rawsetfield(state, record, c"__metatable".as_ptr());
        ffi::lua_setmetatable(state, globals);
        // Its reads give the base's functions unless the code itself puts others there first, as in an isolate.
        ffi::lua_setsafeenv(state, globals, 1);
    }
}
