//! The modules that scripts require by name, `@antiraid/...`: one room each, made in a VM when it is first required.
//!
//! A library is a read-only table that all isolates of a VM share; it holds functions and immutable objects only. It is
//! native (`functions`), or a Luau source that gets natives as `...` and returns the table: such code is preempted and
//! charged like a template's, and its frames are not shown.
//!
//! SAFETY, for the whole file: called inside functions that Luau calls.

use std::ffi::CStr;
use std::sync::OnceLock;

use mlua::ffi::{self, lua_State};

use crate::call::{self, Call, Done, Named};
use crate::chunk;
use crate::isolate::BOOT_NAME;
use crate::object::tag;
use crate::program::{self, SyntaxError};
use crate::stack::push_str;

mod bitu64;
pub mod blob;
pub mod captcha;
mod channel;
mod compress;
mod crypto;
mod datamgmt;
pub mod datetime;
pub mod http;
mod interop;
pub mod ints;
mod json;
pub mod lazy;
pub mod luau;
mod tar;
mod typesext;
pub mod vfs;

pub struct Library {
    /// As it is required, in lower case.
    pub name: &'static CStr,
    pub functions: &'static [Named],
    /// Adds what is not a function to the table on top.
    pub values: fn(&Call),
    pub luau: Option<&'static Luau>,
}

/// A library's part that is written in Luau; compiled once per process.
pub struct Luau {
    source: &'static [u8],
    bytecode: OnceLock<Result<Box<[u8]>, SyntaxError>>,
}

impl Luau {
    pub const fn new(source: &'static [u8]) -> Self {
        Luau { source, bytecode: OnceLock::new() }
    }
}

static LIBRARIES: &[&Library] =
    &[&channel::LIBRARY, &datamgmt::LIBRARY, &datetime::LIBRARY, &interop::LIBRARY, &json::LIBRARY, &luau::LIBRARY, &typesext::LIBRARY];

/// The names of all libraries.
pub fn registered() -> impl Iterator<Item = &'static str> {
    LIBRARIES.iter().filter_map(|library| library.name.to_str().ok())
}

/// Whether there is a library of a name.
pub fn is_registered(name: &str) -> bool {
    LIBRARIES.iter().any(|library| library.name.to_bytes() == name.as_bytes())
}

/// Pushes the library of a name; pushes nothing and gives false if there is none.
pub unsafe fn push_registered(state: *mut lua_State, name: &str) -> bool {
    let Some(library) = LIBRARIES.iter().find(|library| library.name.to_bytes() == name.as_bytes()) else {
        return false;
    };
    unsafe {
        ffi::lua_rawcheckstack(state, 8);
        if ffi::lua_rawgetfield(state, ffi::LUA_REGISTRYINDEX, library.name.as_ptr()) != ffi::LUA_TNIL {
            return true;
        }
        ffi::lua_settop(state, -2);
        make(state, library);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_rawsetfield(state, ffi::LUA_REGISTRYINDEX, library.name.as_ptr());
        true
    }
}

unsafe fn make(state: *mut lua_State, library: &Library) {
    unsafe {
        call::push_functions(state, library.functions, 4);
        (library.values)(&Call { state });
        if let Some(luau) = library.luau {
            run_luau(state, luau);
        }
        ffi::lua_setreadonly(state, -1, 1);
    }
}

/// Pushes the read-only table of functions that the VM keeps under a key, made at its first use.
pub unsafe fn push_kept(state: *mut lua_State, key: &CStr, functions: &[Named]) {
    unsafe {
        ffi::lua_rawcheckstack(state, 4);
        if ffi::lua_rawgetfield(state, ffi::LUA_REGISTRYINDEX, key.as_ptr()) == ffi::LUA_TNIL {
            ffi::lua_settop(state, -2);
            call::push_functions(state, functions, 0);
            ffi::lua_setreadonly(state, -1, 1);
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawsetfield(state, ffi::LUA_REGISTRYINDEX, key.as_ptr());
        }
    }
}

/// Replaces the table of natives on top by what the library's Luau source makes of it.
pub unsafe fn run_luau(state: *mut lua_State, luau: &Luau) {
    let compiled = luau.bytecode.get_or_init(|| program::compile(luau.source));
    unsafe {
        // Its globals are the VM's own, which nothing can write to.
        let main = ffi::lua_mainthread(state);
        ffi::lua_xpush(main, state, ffi::LUA_GLOBALSINDEX);
        let globals = ffi::lua_gettop(state);
        let loaded = match compiled {
            Ok(code) => chunk::load(state, BOOT_NAME, code, globals),
            Err(e) => {
                push_str(state, format!("a library of the engine does not compile: {}: {}", e.line, e.text).as_bytes());
                false
            }
        };
        if !loaded {
            ffi::lua_error(state);
        }
        ffi::lua_remove(state, globals);
        ffi::lua_insert(state, -2);
        ffi::lua_call(state, 1, 1);
    }
}

/// `object(metatable)`: a userdata with that metatable, for libraries that are written in Luau. What belongs to it they
/// keep in a table with weak keys.
pub fn object(call: &Call) -> Done {
    call.table(1)?;
    call.set_top(1);
    // SAFETY: Luau called this function.
    unsafe {
        ffi::lua_newuserdatatagged(call.state, 1, tag::LUAU);
        ffi::lua_insert(call.state, 1);
        ffi::lua_setmetatable(call.state, 1);
    }
    Ok(1)
}
