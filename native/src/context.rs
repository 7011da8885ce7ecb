//! What a template's handler is called with.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::isolate::Isolate;
use crate::json;
use crate::program;

pub struct EventInfo {
    pub request: u64,
    pub name: Box<str>,
    pub payload: Box<[u8]>,
    pub author: Option<Box<str>>,
    pub redelivered: bool,
}

unsafe extern "C-unwind" fn dispatch(state: *mut lua_State) -> c_int {
    // SAFETY: Luau calls this with (entry, name, ctx).
    unsafe {
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushvalue(state, 3);
        ffi::lua_callyieldable(state, 1, 1)
    }
}

unsafe extern "C-unwind" fn entered(state: *mut lua_State, _status: c_int) -> c_int {
    // SAFETY: as above; the entry's result is on top, until a handler has replaced it.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TNIL {
            return 1;
        }
        if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
            ffi::lua_pushvalue(state, 2);
            ffi::lua_rawget(state, -2);
        }
        if ffi::lua_type(state, -1) != ffi::LUA_TFUNCTION {
            return 1;
        }
        ffi::lua_pushnil(state);
        ffi::lua_replace(state, 1);
        ffi::lua_pushvalue(state, 3);
        ffi::lua_callyieldable(state, 1, 1)
    }
}

unsafe fn push_ctx(state: *mut lua_State, event: &EventInfo) {
    // SAFETY: by the caller, inside a protected call.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        if !event.payload.is_empty() {
            if let Err(text) = json::push(state, &event.payload, json::Nulls::Nil) {
                json::push_str(state, text.as_bytes());
                drop(text);
                ffi::lua_error(state);
            }
            ffi::lua_setfield(state, -2, c"data".as_ptr());
        }
    }
}

unsafe fn share_globals(co: *mut lua_State, isolate: &Isolate) {
    // SAFETY: by the caller, both threads have room for a value.
    unsafe {
        ffi::lua_pushvalue(isolate.thread, ffi::LUA_GLOBALSINDEX);
        ffi::lua_xmove(isolate.thread, co, 1);
        ffi::lua_replace(co, ffi::LUA_GLOBALSINDEX);
    }
}

impl Isolate {
    /// Puts the function and the arguments of a template's run on the stack of `co`.
    pub unsafe fn push_event_call(&self, state: *mut lua_State, co: *mut lua_State, event: &EventInfo) -> c_int {
        // SAFETY: by the caller, inside a protected call; allocates on `state` only.
        unsafe {
            ffi::lua_rawcheckstack(state, 8);
            share_globals(co, self);
            ffi::lua_pushcclosurek(state, dispatch, c"dispatch".as_ptr(), 0, Some(entered));
            ffi::lua_pushvalue(self.thread, 1);
            ffi::lua_xmove(self.thread, state, 1);
            json::push_str(state, event.name.as_bytes());
            push_ctx(state, event);
            ffi::lua_xmove(state, co, 4);
            3
        }
    }

    /// Puts the evaluation of a template's entry on the stack of `co`.
    pub unsafe fn push_check_call(&self, _state: *mut lua_State, co: *mut lua_State) -> c_int {
        // SAFETY: as above.
        unsafe {
            share_globals(co, self);
            ffi::lua_pushvalue(self.thread, 1);
            ffi::lua_xmove(self.thread, co, 1);
        }
        0
    }

    /// Puts a script and its `ctx` on the stack of `co`.
    pub unsafe fn push_script_call(
        &self,
        state: *mut lua_State,
        co: *mut lua_State,
        _chunk_name: &str,
        source: &[u8],
        event: &EventInfo,
    ) -> c_int {
        // SAFETY: as above.
        unsafe {
            share_globals(co, self);
            ffi::lua_pushvalue(self.thread, ffi::LUA_GLOBALSINDEX);
            ffi::lua_xmove(self.thread, state, 1);
            match program::compile(source) {
                Ok(bytecode) => {
                    if ffi::luau_load(state, c"=script".as_ptr(), bytecode.as_ptr().cast(), bytecode.len(), -1) != 0 {
                        ffi::lua_error(state);
                    }
                }
                Err(e) => {
                    json::push_str(state, e.text.as_bytes());
                    ffi::lua_error(state);
                }
            }
            ffi::lua_remove(state, -2);
            push_ctx(state, event);
            ffi::lua_xmove(state, co, 2);
        }
        1
    }
}
