//! What JSON needs and Luau's tables lack: `null` as a value, and a mark that an empty table is a list.

use std::ffi::{CStr, c_int};
use std::ptr;

use mlua::ffi::{self, lua_State};

const ARRAY_KEY: &CStr = c"pytw.array";

/// Pushes `interop.null`, a light userdata equal to itself only.
pub fn push_null(state: *mut lua_State) {
    // SAFETY: allocates nothing; callers have room on the stack.
    unsafe { ffi::lua_pushlightuserdata(state, ptr::null_mut()) }
}

/// Whether the value at `index` is `interop.null`.
pub fn is_null(state: *mut lua_State, index: c_int) -> bool {
    // SAFETY: reads a value of a live state.
    unsafe { ffi::lua_type(state, index) == ffi::LUA_TLIGHTUSERDATA && ffi::lua_tolightuserdata(state, index).is_null() }
}

/// Pushes the VM's array metatable.
pub fn push_array_metatable(state: *mut lua_State) {
    // SAFETY: reads a field that `install` has set.
    unsafe { ffi::lua_rawgetfield(state, ffi::LUA_REGISTRYINDEX, ARRAY_KEY.as_ptr()) };
}

/// Marks the table on top as a list.
pub fn mark_array(state: *mut lua_State) {
    push_array_metatable(state);
    // SAFETY: a table lies below the metatable.
    unsafe { ffi::lua_setmetatable(state, -2) };
}

/// Whether the table at `index` is marked as a list.
pub fn is_array(state: *mut lua_State, index: c_int) -> bool {
    // SAFETY: a live state; the stack is as before afterwards.
    unsafe {
        ffi::lua_rawcheckstack(state, 2);
        if ffi::lua_getmetatable(state, index) == 0 {
            return false;
        }
        push_array_metatable(state);
        let same = ffi::lua_rawequal(state, -1, -2) != 0;
        ffi::lua_settop(state, -3);
        same
    }
}

/// Makes the metatable, protected and read-only.
pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe {
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushboolean(state, 0);
        ffi::lua_rawsetfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_setreadonly(state, -1, 1);
        ffi::lua_rawsetfield(state, ffi::LUA_REGISTRYINDEX, ARRAY_KEY.as_ptr());
    }
}
