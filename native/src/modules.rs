//! The native functions of an isolate that turn texts and files into Luau functions; boot.luau is their caller.
//!
//! Each has the isolate's core as upvalue 1 and its globals as upvalue 2.

use std::ffi::{CStr, CString, c_int};
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::api;
use crate::isolate::{Core, core_at, slot};
use crate::json::{bytes_at, push_str};
use crate::program::{self, SyntaxError};
use crate::require;
use crate::scheduler;
use crate::thread::{ThreadRef, is_ended};

/// A chunk's name as Luau wants it, with the mark that says how to show it.
pub fn chunk_name(mark: u8, name: &[u8]) -> CString {
    let bytes: Vec<u8> = std::iter::once(mark).chain(name.iter().copied().filter(|&b| b != 0)).collect();
    CString::new(bytes).unwrap_or_default()
}

pub unsafe fn push_native(state: *mut lua_State, record: c_int, globals: c_int, f: ffi::lua_CFunction, name: &'static CStr) {
    unsafe {
        ffi::lua_rawgeti_(state, record, slot::ISOLATE);
        ffi::lua_pushvalue(state, globals);
        ffi::lua_pushcclosurek(state, f, name.as_ptr(), 2, None);
    }
}

unsafe fn upvalue_core<'a>(state: *mut lua_State) -> &'a Core {
    unsafe {
        match core_at(state, ffi::lua_upvalueindex(1)) {
            Some(core) => core,
            None => ffi::luaL_error(state, c"the isolate is gone".as_ptr()),
        }
    }
}

/// Pushes the function of a chunk, or the text of what is wrong with it.
pub unsafe fn push_chunk(state: *mut lua_State, name: &CStr, compiled: &Result<Box<[u8]>, SyntaxError>, env: c_int) -> bool {
    unsafe {
        match compiled {
            Ok(code) => ffi::luau_load(state, name.as_ptr(), code.as_ptr().cast(), code.len(), env) == 0,
            Err(e) => {
                if let (Some(vm), true) = (scheduler::current(), e.limit.is_some()) {
                    vm.breach.set(e.limit);
                }
                let name = name.to_string_lossy();
                let shown = name.strip_prefix(['=', '@']).unwrap_or("[string]");
                push_str(state, format!("{shown}:{}: {}", e.line, e.text).as_bytes());
                false
            }
        }
    }
}

/// `loadstring(source, chunkname?)`: text only, in the isolate's environment; nil and a message if it does not compile.
pub unsafe extern "C-unwind" fn loadstring(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::luaL_checklstring(state, 1, ptr::null_mut());
        if ffi::lua_type(state, 2) > ffi::LUA_TNIL {
            ffi::luaL_checklstring(state, 2, ptr::null_mut());
        }
        ffi::lua_settop(state, 2);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        let given = bytes_at(state, 2);
        let name = if given.is_empty() { c"=loadstring".to_owned() } else { chunk_name(given[0], &given[1..]) };
        let done = push_chunk(state, &name, &program::compile(bytes_at(state, 1)), 3);
        drop(name);
        if done {
            return 1;
        }
        ffi::lua_pushnil(state);
        ffi::lua_insert(state, -2);
        2
    }
}

/// `load(path)`: the function of one of the template's files.
pub unsafe extern "C-unwind" fn load(state: *mut lua_State) -> c_int {
    unsafe {
        let core = upvalue_core(state);
        ffi::lua_settop(state, 1);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        let path = bytes_at(state, 1);
        let file = std::str::from_utf8(path).ok().and_then(|path| core.template.files.get(path.trim_start_matches('/')));
        let done = match file {
            Some(source) => push_chunk(state, &chunk_name(b'@', path), source.bytecode(), 2),
            None => {
                push_str(state, b"no module present at resolved path");
                false
            }
        };
        if !done {
            ffi::lua_error(state);
        }
        1
    }
}

/// `entry_path()`: where the template starts.
pub unsafe extern "C-unwind" fn entry_path(state: *mut lua_State) -> c_int {
    unsafe {
        let found = require::entry(&upvalue_core(state).template);
        push_found(state, found)
    }
}

unsafe fn push_found(state: *mut lua_State, found: require::Found) -> c_int {
    unsafe {
        let done = match found {
            Ok(path) => {
                push_str(state, format!("/{path}").as_bytes());
                true
            }
            Err(text) => {
                push_str(state, text.as_bytes());
                false
            }
        };
        if !done {
            ffi::lua_error(state);
        }
        1
    }
}

/// `ended(thread)`: whether the thread will never go on.
pub unsafe extern "C-unwind" fn ended(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let co = ffi::lua_tothread(state, 1);
        let gone = !co.is_null() && (is_ended(co) || matches!(ffi::lua_costatus(state, co), ffi::LUA_COFIN | ffi::LUA_COERR));
        ffi::lua_pushboolean(state, gone.into());
        1
    }
}

/// `await(thread)`: waits until the thread says `tell`, or is ended from outside.
pub unsafe extern "C-unwind" fn await_thread(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau, for boot.luau, which asks first whether it can yield.
    unsafe {
        let awaited = ffi::lua_tothread(state, 1);
        let vm = scheduler::vm();
        if let Some(text) = vm.cannot_wait(false) {
            scheduler::raise(state, text);
        }
        ffi::lua_settop(state, 0);
        vm.await_thread(awaited, ThreadRef::running(state));
        ffi::lua_yield(state, 0)
    }
}

/// `tell(thread)`: wakes who awaits the thread.
pub unsafe extern "C-unwind" fn tell(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        scheduler::vm().tell(ffi::lua_tothread(state, 1));
        0
    }
}

/// `keep(exports)`: from now on the handler is found without Luau's help.
pub unsafe extern "C-unwind" fn keep(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 1);
        if ffi::lua_getmetatable(state, ffi::lua_upvalueindex(2)) != 0 {
            ffi::lua_insert(state, 1);
            ffi::lua_rawseti_(state, 1, slot::EXPORTS);
        }
        0
    }
}

/// `library(path)`: the library of that name, or nothing.
pub unsafe extern "C-unwind" fn library(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 1);
        if ffi::lua_type(state, 1) != ffi::LUA_TSTRING {
            return 0;
        }
        let path = String::from_utf8_lossy(bytes_at(state, 1)).to_lowercase();
        c_int::from(api::push_registered(state, &path))
    }
}

/// `resolve(path)`: the absolute path of the module, that of the calling file if there is one, and the place of the call.
pub unsafe extern "C-unwind" fn resolve(state: *mut lua_State) -> c_int {
    unsafe {
        let core = upvalue_core(state);
        if ffi::lua_type(state, 1) != ffi::LUA_TSTRING {
            let name = CStr::from_ptr(ffi::luaL_typename(state, 1));
            let text = format!("bad argument #1 to 'require' (string expected, got {})", name.to_string_lossy());
            push_str(state, text.as_bytes());
            drop(text);
            ffi::lua_error(state);
        }
        ffi::lua_settop(state, 1);
        let mut frame: ffi::lua_Debug = std::mem::zeroed();
        let caller = caller_file(state, &mut frame);
        let requirer = caller.map(|source| &source[1..]).unwrap_or_default();
        let found = {
            let path = String::from_utf8_lossy(bytes_at(state, 1));
            require::resolve(&core.template, requirer, &path)
        };
        push_found(state, found);
        match caller {
            Some(source) => {
                push_str(state, source.as_bytes());
                push_str(state, format!("{source}:{}", frame.currentline).as_bytes());
            }
            None => {
                ffi::lua_pushnil(state);
                push_str(state, b"a chunk without a file");
            }
        }
        3
    }
}

/// The file, with its leading slash, of the nearest Luau function that is one of the template's.
unsafe fn caller_file<'a>(state: *mut lua_State, frame: &mut ffi::lua_Debug) -> Option<&'a str> {
    unsafe {
        let mut level = 1;
        while ffi::lua_getinfo(state, level, c"sl".as_ptr(), frame) != 0 {
            let source = CStr::from_ptr(frame.source).to_bytes();
            if source.starts_with(b"@/") {
                return std::str::from_utf8(&source[1..]).ok();
            }
            level += 1;
        }
        None
    }
}
