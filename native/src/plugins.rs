//! The objects behind `ctx.KV`, `ctx.Discord` and `ctx.Runtime`: what they check here, and the host call they make.
//!
//! Arguments of the wrong type are refused before anything leaves the VM; everything else (capabilities, rates, sizes)
//! is the host's to decide.

use std::ffi::{CStr, c_int};
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::api::lazy;
use crate::context::{name_type, unknown_field};
use crate::isolate::{self, slot};
use crate::scheduler;

const TAG_KV: c_int = 22;
const TAG_DISCORD: c_int = 23;
const TAG_RUNTIME: c_int = 24;

struct Method {
    name: &'static CStr,
    run: ffi::lua_CFunction,
    after: Option<ffi::lua_Continuation>,
}

struct Plugin {
    tag: c_int,
    place: c_int,
    type_name: &'static CStr,
    methods: &'static [Method],
}

const fn plain(name: &'static CStr, run: ffi::lua_CFunction) -> Method {
    Method { name, run, after: None }
}

/// A method whose result is wrapped in a `Lazy`.
const fn lazy(name: &'static CStr, run: ffi::lua_CFunction) -> Method {
    Method { name, run, after: Some(wrap_lazy) }
}

static PLUGINS: [Plugin; 3] = [
    Plugin {
        tag: TAG_KV,
        place: slot::KV,
        type_name: c"KvExecutor",
        methods: &[
            plain(c"get", kv_get),
            plain(c"getrecord", kv_getrecord),
            plain(c"set", kv_set),
            plain(c"delete", kv_delete),
            plain(c"find", kv_find),
        ],
    },
    Plugin {
        tag: TAG_DISCORD,
        place: slot::DISCORD,
        type_name: c"DiscordActionExecutor",
        methods: &[lazy(c"create_message", create_message), lazy(c"get_guild", get_guild)],
    },
    Plugin {
        tag: TAG_RUNTIME,
        place: slot::RUNTIME,
        type_name: c"RuntimeExecutor",
        methods: &[plain(c"gettenantstate", get_tenant_state), plain(c"settenantstate", set_tenant_state)],
    },
];

/// Pushes the running isolate's plugin for a place of its record, made and kept there.
pub unsafe fn make(state: *mut lua_State, place: c_int) {
    // SAFETY: called by functions that Luau called.
    unsafe {
        let Some(plugin) = PLUGINS.iter().find(|plugin| plugin.place == place) else { return };
        if ffi::lua_getmetatable(state, ffi::LUA_GLOBALSINDEX) == 0 {
            return;
        }
        ffi::lua_newuserdatataggedwithmetatable(state, 0, plugin.tag);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_rawseti_(state, -3, place);
    }
}

/// Raises unless the object at index 1 is the running isolate's own plugin.
unsafe fn own(state: *mut lua_State, tag: c_int) {
    // SAFETY: called by functions that Luau called.
    unsafe {
        let Some(plugin) = PLUGINS.iter().find(|plugin| plugin.tag == tag) else { return };
        if ffi::lua_userdatatag(state, 1) != tag {
            ffi::luaL_typeerror(state, 1, plugin.type_name.as_ptr());
        }
        isolate::push_slot(state, plugin.place);
        if ffi::lua_rawequal(state, 1, -1) == 0 {
            ffi::luaL_error(state, c"this %s belongs to another template".as_ptr(), plugin.type_name.as_ptr());
        }
        ffi::lua_settop(state, -2);
    }
}

// ---- arguments ----------------------------------------------------------------------------------------

/// The argument at `index` must be a text; numbers count as theirs.
unsafe fn text(state: *mut lua_State, index: c_int) {
    // SAFETY: called by functions that Luau called.
    unsafe { ffi::luaL_checklstring(state, index, ptr::null_mut()) };
}

/// The argument at `index` must be a list of at least one text.
unsafe fn scopes(state: *mut lua_State, index: c_int) {
    // SAFETY: called by functions that Luau called.
    unsafe {
        ffi::luaL_checktype(state, index, ffi::LUA_TTABLE);
        let n = ffi::lua_objlen_(state, index);
        if n == 0 {
            ffi::luaL_argerror(state, index, c"a list of at least one scope is expected".as_ptr());
        }
        for i in 1..=n {
            if ffi::lua_rawgeti_(state, index, i) != ffi::LUA_TSTRING {
                ffi::luaL_argerror(state, index, c"each scope must be a string".as_ptr());
            }
            ffi::lua_settop(state, -2);
        }
    }
}

/// The field of the table at `index` must have a type; a number may stand for a text where `or_number`.
unsafe fn field(state: *mut lua_State, index: c_int, name: &CStr, kind: c_int, or_number: bool) {
    // SAFETY: called by functions that Luau called.
    unsafe {
        let got = ffi::lua_rawgetfield(state, index, name.as_ptr());
        if got != kind && !(or_number && got == ffi::LUA_TNUMBER) {
            let (want, got) = (ffi::lua_typename(state, kind), ffi::lua_typename(state, got));
            ffi::luaL_error(state, c"field '%s' of argument #%d: %s expected, got %s".as_ptr(), name.as_ptr(), index - 1, want, got);
        }
        ffi::lua_settop(state, -2);
    }
}

// ---- ctx.KV -------------------------------------------------------------------------------------------

/// `(self, key, scopes)`.
unsafe fn kv_key(state: *mut lua_State) {
    // SAFETY: called by functions that Luau called.
    unsafe {
        own(state, TAG_KV);
        text(state, 2);
        scopes(state, 3);
        ffi::lua_settop(state, 3);
    }
}

unsafe extern "C-unwind" fn kv_get(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        kv_key(state);
        scheduler::host_call(state, "kv.get", 2, 2)
    }
}

unsafe extern "C-unwind" fn kv_getrecord(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        kv_key(state);
        scheduler::host_call(state, "kv.getrecord", 2, 2)
    }
}

unsafe extern "C-unwind" fn kv_delete(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        kv_key(state);
        scheduler::host_call(state, "kv.delete", 2, 2)
    }
}

unsafe extern "C-unwind" fn kv_find(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        kv_key(state);
        scheduler::host_call(state, "kv.find", 2, 2)
    }
}

unsafe extern "C-unwind" fn kv_set(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        own(state, TAG_KV);
        text(state, 2);
        ffi::luaL_checkany(state, 3);
        scopes(state, 4);
        ffi::lua_settop(state, 4);
        scheduler::host_call(state, "kv.set", 2, 3)
    }
}

// ---- ctx.Discord ----------------------------------------------------------------------------------------

unsafe extern "C-unwind" fn create_message(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        own(state, TAG_DISCORD);
        ffi::luaL_checktype(state, 2, ffi::LUA_TTABLE);
        field(state, 2, c"channel_id", ffi::LUA_TSTRING, true);
        field(state, 2, c"data", ffi::LUA_TTABLE, false);
        ffi::lua_settop(state, 2);
        scheduler::host_call(state, "discord.create_message", 2, 1)
    }
}

unsafe extern "C-unwind" fn get_guild(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        own(state, TAG_DISCORD);
        ffi::lua_settop(state, 1);
        scheduler::host_call(state, "discord.get_guild", 2, 0)
    }
}

/// The answer is there: gives it as the data of a `Lazy`, unless it is one.
unsafe extern "C-unwind" fn wrap_lazy(state: *mut lua_State, _status: c_int) -> c_int {
    // SAFETY: called by Luau with the answer on top.
    unsafe {
        if ffi::lua_gettop(state) == 0 {
            ffi::lua_pushnil(state);
        }
        if !lazy::is_lazy(state, -1) {
            lazy::push_made(state, -1);
        }
        1
    }
}

// ---- ctx.Runtime ----------------------------------------------------------------------------------------

unsafe extern "C-unwind" fn get_tenant_state(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        own(state, TAG_RUNTIME);
        ffi::lua_settop(state, 1);
        scheduler::host_call(state, "runtime.gettenantstate", 2, 0)
    }
}

unsafe extern "C-unwind" fn set_tenant_state(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        own(state, TAG_RUNTIME);
        ffi::luaL_checktype(state, 2, ffi::LUA_TTABLE);
        field(state, 2, c"events", ffi::LUA_TTABLE, false);
        ffi::lua_settop(state, 2);
        scheduler::host_call(state, "runtime.settenantstate", 2, 1)
    }
}

// ---- types ----------------------------------------------------------------------------------------------

unsafe extern "C-unwind" fn no_such_method(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe { unknown_field(state) }
}

pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe {
        for plugin in &PLUGINS {
            ffi::lua_createtable(state, 0, 6);
            name_type(state, plugin.type_name);
            ffi::lua_createtable(state, 0, plugin.methods.len() as c_int);
            for method in plugin.methods {
                ffi::lua_pushcclosurek(state, method.run, method.name.as_ptr(), 0, method.after);
                ffi::lua_rawsetfield(state, -2, method.name.as_ptr());
            }
            ffi::lua_createtable(state, 0, 1);
            ffi::lua_pushcclosurek(state, no_such_method, c"index".as_ptr(), 0, None);
            ffi::lua_rawsetfield(state, -2, c"__index".as_ptr());
            ffi::lua_setmetatable(state, -2);
            ffi::lua_setreadonly(state, -1, 1);
            ffi::lua_rawsetfield(state, -2, c"__index".as_ptr());
            ffi::lua_setuserdatametatable(state, plugin.tag);
        }
    }
}
