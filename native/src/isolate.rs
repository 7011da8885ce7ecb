//! A template's own world inside a VM.

use std::ffi::c_int;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use crate::program::Template;
use crate::sandbox;

/// An isolate, kept alive by the registry.
pub struct Isolate {
    pub thread: *mut lua_State,
    slot: c_int,
}

impl Isolate {
    /// Makes the isolate of a template. May raise.
    pub unsafe fn new(state: *mut lua_State, template: &Arc<Template>) -> Isolate {
        // SAFETY: by the caller, inside a protected call.
        unsafe {
            let thread = sandbox::push_isolate(state);
            let text = match template.files.get(&template.entry).map(|source| source.bytecode()) {
                Some(Ok(bytecode)) => {
                    // Loaded on this stack, with the isolate's globals.
                    ffi::lua_pushvalue(thread, ffi::LUA_GLOBALSINDEX);
                    ffi::lua_xmove(thread, state, 1);
                    if ffi::luau_load(state, c"=init".as_ptr(), bytecode.as_ptr().cast(), bytecode.len(), -1) == 0 {
                        ffi::lua_xmove(state, thread, 1);
                        ffi::lua_settop(state, -2);
                        let slot = ffi::lua_ref(state, -1);
                        return Isolate { thread, slot };
                    }
                    c"the entry does not load"
                }
                Some(Err(_)) => c"the entry does not compile",
                None => {
                    let slot = ffi::lua_ref(state, -1);
                    return Isolate { thread, slot };
                }
            };
            ffi::luaL_error(state, c"%s".as_ptr(), text.as_ptr())
        }
    }

    /// Lets go of the isolate; threads that still run in it keep it alive.
    pub unsafe fn release(self, main: *mut lua_State) {
        // SAFETY: the slot is this value's own.
        unsafe { ffi::lua_unref(main, self.slot) };
    }
}
