//! Globals for tests of the engine itself (`test_hooks`): environments and require functions without their library.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::json::{bytes_at, push_str};
use crate::program::Source;
use crate::vfs::{Layer, Vfs};
use crate::{call, modules, proxy};

/// `requirefunction({[path]: source}, id, globals)`.
unsafe extern "C-unwind" fn requirefunction(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau, by tests with fitting arguments.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::luaL_checktype(state, 2, ffi::LUA_TSTRING);
        ffi::luaL_checktype(state, 3, ffi::LUA_TTABLE);
        ffi::lua_settop(state, 3);
        let mut files = Vec::new();
        let mut iter = 0;
        loop {
            iter = ffi::lua_rawiter(state, 1, iter);
            if iter < 0 {
                break;
            }
            files.push((String::from_utf8_lossy(bytes_at(state, -2)).into_owned(), Source::shared(bytes_at(state, -1))));
            ffi::lua_settop(state, 3);
        }
        let layer = Layer::new(files.iter().map(|(path, source)| (path.as_str(), source.clone())));
        drop(files);
        match layer.and_then(|layer| Vfs::new([layer])) {
            Ok(vfs) => modules::push_require(state, vfs, bytes_at(state, 2), 3, 1),
            Err(text) => push_str(state, text.as_bytes()),
        }
        1
    }
}

pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe {
        ffi::lua_pushcclosurek(state, requirefunction, c"requirefunction".as_ptr(), 0, None);
        ffi::lua_setglobal(state, c"requirefunction".as_ptr());
        call::push_function(state, (c"createglobalproxy", proxy::createglobalproxy));
        ffi::lua_setglobal(state, c"createglobalproxy".as_ptr());
    }
}
