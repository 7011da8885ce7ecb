//! `@antiraid/interop`: null, the mark of arrays, and the VM's memory.

use mlua::ffi;

use crate::api::Library;
use crate::call::{Call, Done};
use crate::marks;
use crate::scheduler;

pub static LIBRARY: Library = Library {
    name: c"@antiraid/interop",
    functions: &[(c"memusage", memusage), (c"memory_limit", memory_limit)],
    values: add_marks,
    luau: None,
};

fn add_marks(call: &Call) {
    marks::push_null(call.state);
    call.set_field(-2, c"null");
    marks::push_array_metatable(call.state);
    call.set_field(-2, c"array_metatable");
}

fn memusage(call: &Call) -> Done {
    // SAFETY: asks the collector of the running VM for two numbers.
    let bytes = unsafe {
        f64::from(ffi::lua_gc(call.state, ffi::LUA_GCCOUNT, 0)) * 1024.0 + f64::from(ffi::lua_gc(call.state, ffi::LUA_GCCOUNTB, 0))
    };
    call.push_number(bytes);
    Ok(1)
}

fn memory_limit(call: &Call) -> Done {
    call.push_number(scheduler::vm().limits.vm_memory_bytes as f64);
    Ok(1)
}
