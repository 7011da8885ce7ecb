//! `require`: the native functions behind boot.luau, and the making of require functions.
//!
//! A require function knows its files (a `Vfs`, as userdata), the environment that its modules run in, and the table of
//! those that are loaded. That table belongs to the environment: the globals of an isolate, or a proxy
//! (`proxy`), keep one per id, so that functions of one id share modules there, and code with other globals gets its own.

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use crate::api;
use crate::call::{self, Call};
use crate::chunk::{self, Style, chunk_name, push_chunk};
use crate::isolate::{self, slot};
use crate::object::tag;
use crate::program::{self, Frames, SyntaxError};
use crate::require;
use crate::scheduler;
use crate::stack::{bytes_at, push_str};
use crate::thread::{ThreadRef, is_ended};
use crate::vfs::Vfs;

/// The Luau half: `(files, globals, modules, owner) -> require`, and with true as the fifth argument for an isolate's own.
const MAKE_KEY: &CStr = c"pytw.require";
static BOOT: std::sync::LazyLock<Result<Box<[u8]>, SyntaxError>> =
    std::sync::LazyLock::new(|| program::compile_with(include_bytes!("boot.luau"), 2, Frames::Hidden));

/// The id under which an isolate's own `require` keeps its modules.
const MAIN_ID: &[u8] = b"main";

const NATIVES: [(&CStr, ffi::lua_CFunction); 9] = [
    (c"library", library),
    (c"resolve", resolve),
    (c"load", load),
    (c"place", place),
    (c"entry_path", entry_path),
    (c"keep", keep),
    (c"ended", ended),
    (c"await", await_thread),
    (c"tell", tell),
];

/// Sets the VM up for require functions; before its globals are sealed.
pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe { ffi::lua_setuserdatadtor(state, tag::FILES, Some(drop_files)) };
}

/// Loads the boot code; after the globals are sealed, so that it sees them as scripts do.
pub unsafe fn prepare(state: *mut lua_State) -> Result<(), String> {
    let bytecode = BOOT.as_ref().map_err(|e| format!("boot.luau:{}: {}", e.line, e.text))?;
    // SAFETY: while a VM is set up, on its main thread, whose globals are the base's.
    unsafe {
        if ffi::luau_load(state, isolate::BOOT_NAME.as_ptr(), bytecode.as_ptr().cast(), bytecode.len(), 0) != 0 {
            ffi::lua_error(state);
        }
        for (name, function) in NATIVES {
            ffi::lua_pushcclosurek(state, function, name.as_ptr(), 0, None);
        }
        ffi::lua_call(state, NATIVES.len() as c_int, 1);
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, MAKE_KEY.as_ptr());
    }
    Ok(())
}

// ---- making require functions ----------------------------------------------------------------------------

unsafe extern "C" fn drop_files(_state: *mut lua_State, data: *mut c_void) {
    // SAFETY: the userdata holds the pointer that `Arc::into_raw` gave.
    unsafe { drop(Arc::from_raw(*(data as *const *const Vfs))) }
}

unsafe fn push_files(state: *mut lua_State, vfs: Arc<Vfs>) {
    // SAFETY: by the caller, with room on the stack. The allocation may raise; `vfs` is dropped then.
    unsafe {
        let data = ffi::lua_newuserdatatagged(state, size_of::<*const Vfs>(), tag::FILES) as *mut *const Vfs;
        *data = Arc::into_raw(vfs);
    }
}

/// Pushes a require function of `vfs` whose modules run in the table at `globals`. Functions of the same `id` and
/// globals share the modules whose files are equal. The value at `owner` lives as long as the function: the object that
/// is charged for the files, or 0 for none.
pub unsafe fn push_require(state: *mut lua_State, vfs: Arc<Vfs>, id: &[u8], globals: c_int, owner: c_int) {
    // SAFETY: by the caller, inside a function that Luau calls, with a table at `globals`.
    unsafe {
        ffi::lua_rawcheckstack(state, 16);
        let globals = ffi::lua_absindex(state, globals);
        let owner = if owner == 0 { 0 } else { ffi::lua_absindex(state, owner) };
        ffi::lua_rawgetfield(state, ffi::LUA_REGISTRYINDEX, MAKE_KEY.as_ptr());
        push_files(state, vfs);
        ffi::lua_pushvalue(state, globals);
        push_modules(state, globals, id);
        if owner == 0 {
            ffi::lua_pushnil(state);
        } else {
            ffi::lua_pushvalue(state, owner);
        }
        ffi::lua_call(state, 4, 1);
    }
}

/// Pushes an isolate's own functions: `require`, the one that finds and calls the handler of an event, and the one that
/// gives what the entry returned.
pub unsafe fn push_isolate(state: *mut lua_State, vfs: Arc<Vfs>, globals: c_int) {
    // SAFETY: by the caller, inside a protected call, with the isolate's globals at the absolute `globals`.
    unsafe {
        ffi::lua_rawgetfield(state, ffi::LUA_REGISTRYINDEX, MAKE_KEY.as_ptr());
        push_files(state, vfs);
        ffi::lua_pushvalue(state, globals);
        push_modules(state, globals, MAIN_ID);
        ffi::lua_pushnil(state);
        ffi::lua_pushboolean(state, 1);
        ffi::lua_call(state, 5, 3);
    }
}

/// Pushes the table of the modules of an id that run with the table at `globals`; a table of its own if nothing keeps
/// one for these globals.
unsafe fn push_modules(state: *mut lua_State, globals: c_int, id: &[u8]) {
    // SAFETY: by the caller, with room on the stack.
    unsafe {
        let top = ffi::lua_gettop(state);
        if !isolate::push_record(state, globals) {
            return ffi::lua_createtable(state, 0, 0);
        }
        if ffi::lua_rawgeti_(state, top + 1, slot::MODULES) != ffi::LUA_TTABLE {
            ffi::lua_settop(state, top + 1);
            ffi::lua_createtable(state, 0, 1);
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawseti_(state, top + 1, slot::MODULES);
        }
        push_str(state, id);
        if ffi::lua_rawget(state, top + 2) != ffi::LUA_TTABLE {
            ffi::lua_settop(state, top + 2);
            ffi::lua_createtable(state, 0, 0);
            push_str(state, id);
            ffi::lua_pushvalue(state, -2);
            ffi::lua_rawset(state, top + 2);
        }
        ffi::lua_replace(state, top + 1);
        ffi::lua_settop(state, top + 1);
    }
}

// ---- what boot.luau calls ----------------------------------------------------------------------------------
//
// SAFETY, for all of these: Luau calls them for boot.luau only, which passes what it was given.

/// The files at `index`, valid while they lie on the stack.
unsafe fn files_at<'a>(state: *mut lua_State, index: c_int) -> &'a Vfs {
    unsafe {
        let data = ffi::lua_touserdatatagged(state, index, tag::FILES) as *const *const Vfs;
        match data.as_ref() {
            Some(vfs) => &**vfs,
            None => ffi::luaL_error(state, c"no files".as_ptr()),
        }
    }
}

/// Pushes the path of a module and the number of its text, or raises why there is none.
unsafe fn push_found(state: *mut lua_State, found: require::Found) {
    unsafe {
        match found {
            Ok(file) => {
                push_str(state, format!("/{}", file.path).as_bytes());
                ffi::lua_pushnumber(state, file.source.id as f64);
            }
            Err(text) => {
                push_str(state, text.as_bytes());
                drop(text);
                ffi::lua_error(state);
            }
        }
    }
}

/// `library(path)`: the library of that name, or nothing.
unsafe extern "C-unwind" fn library(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 1);
        // Names of libraries are short and begin so.
        let path = if ffi::lua_type(state, 1) == ffi::LUA_TSTRING { bytes_at(state, 1) } else { b"" };
        if !path.starts_with(b"@") || path.len() > require::PATH_BYTES_MAX {
            return 0;
        }
        let path = String::from_utf8_lossy(path).to_lowercase();
        c_int::from(api::push_registered(state, &path))
    }
}

/// `resolve(files, globals, path)`: the path of the module, the number of its text, and the path of the calling file if
/// it runs with the same globals.
unsafe extern "C-unwind" fn resolve(state: *mut lua_State) -> c_int {
    unsafe {
        if ffi::lua_type(state, 3) != ffi::LUA_TSTRING {
            let name = match ffi::lua_type(state, 3) {
                ffi::LUA_TNONE => c"nil",
                _ => CStr::from_ptr(ffi::luaL_typename(state, 3)),
            };
            let text = format!("bad argument #1 to 'require' (string expected, got {})", name.to_string_lossy());
            push_str(state, text.as_bytes());
            drop(text);
            ffi::lua_error(state);
        }
        ffi::lua_settop(state, 3);
        let vfs = files_at(state, 1);
        let caller = chunk::caller(state, 2);
        let requirer = caller.as_ref().map_or("", |caller| &caller.file[1..]);
        let path = bytes_at(state, 3);
        // What is too long stays so.
        let path = &path[..path.len().min(require::PATH_BYTES_MAX + 1)];
        let found = require::resolve(vfs, requirer, &String::from_utf8_lossy(path));
        push_found(state, found);
        match caller {
            Some(caller) if caller.same_environment => push_str(state, caller.file.as_bytes()),
            _ => ffi::lua_pushnil(state),
        }
        3
    }
}

/// `load(files, globals, path, is_entry)`: the function of a file.
unsafe extern "C-unwind" fn load(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 4);
        let vfs = files_at(state, 1);
        let path = bytes_at(state, 3);
        let style = if ffi::lua_toboolean(state, 4) != 0 { Style::Plain } else { Style::Require };
        let file = path.get(1..).and_then(|path| std::str::from_utf8(path).ok()).and_then(|path| vfs.source(path));
        let done = match file {
            Some(source) => push_chunk(state, &chunk_name(path), source.bytecode(), 2, style),
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

/// `place(globals)`: the file and line of the call.
unsafe extern "C-unwind" fn place(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 1);
        ffi::lua_rawcheckstack(state, 4);
        match chunk::caller(state, 1) {
            Some(caller) => push_str(state, format!("{}:{}", caller.file, caller.line).as_bytes()),
            None => push_str(state, b"a chunk without a file"),
        }
        1
    }
}

/// `entry_path(files)`: where the isolate's template starts, and the number of that text.
unsafe extern "C-unwind" fn entry_path(state: *mut lua_State) -> c_int {
    unsafe {
        let Some(core) = isolate::current(state) else {
            ffi::luaL_error(state, c"the isolate is gone".as_ptr());
        };
        push_found(state, require::entry(files_at(state, 1), &core.template.entry));
        2
    }
}

/// `keep(exports)`: from now on the handler is found without Luau's help.
unsafe extern "C-unwind" fn keep(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 1);
        if isolate::push_record(state, ffi::LUA_GLOBALSINDEX) {
            ffi::lua_insert(state, 1);
            ffi::lua_rawseti_(state, 1, slot::EXPORTS);
        }
        0
    }
}

/// Whether the thread `co` will never go on.
unsafe fn is_gone(state: *mut lua_State, co: *mut lua_State) -> bool {
    unsafe { !co.is_null() && (is_ended(co) || matches!(ffi::lua_costatus(state, co), ffi::LUA_COFIN | ffi::LUA_COERR)) }
}

/// `ended(thread)`: whether the thread will never go on.
unsafe extern "C-unwind" fn ended(state: *mut lua_State) -> c_int {
    unsafe {
        let gone = is_gone(state, ffi::lua_tothread(state, 1));
        ffi::lua_pushboolean(state, gone.into());
        1
    }
}

/// `await(thread, module)`: waits until the thread says `tell`, or is ended from outside; not if the module is done or the
/// thread gone by now. Whoever asked before may have been preempted since.
pub unsafe extern "C-unwind" fn await_thread(state: *mut lua_State) -> c_int {
    unsafe {
        let awaited = ffi::lua_tothread(state, 1);
        ffi::luaL_checktype(state, 2, ffi::LUA_TTABLE);
        ffi::lua_rawgetfield(state, 2, c"done".as_ptr());
        if ffi::lua_toboolean(state, -1) != 0 || is_gone(state, awaited) {
            return 0;
        }
        let vm = scheduler::vm();
        if let Err(fault) = scheduler::can_wait(&Call { state }).and_then(|()| vm.may_wait(false)) {
            call::raise(state, fault);
        }
        ffi::lua_settop(state, 0);
        vm.await_thread(awaited, ThreadRef::running(state));
        ffi::lua_yield(state, 0)
    }
}

/// `tell(thread)`: wakes who awaits the thread.
unsafe extern "C-unwind" fn tell(state: *mut lua_State) -> c_int {
    unsafe {
        scheduler::vm().tell(ffi::lua_tothread(state, 1));
        0
    }
}
