//! From text to functions: the names of chunks, the environments they run in, and `loadstring`.
//!
//! The file `/dir/x.luau` is a chunk of that very name, so that messages read `[string "/dir/x.luau"]:12: ...`.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::isolate::BOOT_NAME;
use crate::program::{self, SyntaxError};
use crate::scheduler;
use crate::stack::{bytes_at, push_str};
use crate::vfs::PATH_BYTES_MAX;

/// What Luau shows of a long name.
const SHOWN_BYTES: usize = 240;

/// Longer names are cut: whoever walks over a thread's frames looks at the name of each. So much makes no file of a text.
const NAME_BYTES_MAX: usize = PATH_BYTES_MAX + 1;

/// A chunk's name for Luau. One that begins with `=` or `@` is shown as it is, without that mark.
pub fn chunk_name(name: &[u8]) -> CString {
    let bytes: Vec<u8> = name.iter().copied().filter(|&b| b != 0).take(NAME_BYTES_MAX).collect();
    CString::new(bytes).unwrap_or_default()
}

/// Whether a chunk's name is that of a file. Longer ones are texts that a script has named so.
fn is_file(name: &CStr) -> bool {
    name.to_bytes().first() == Some(&b'/') && name.to_bytes().len() <= PATH_BYTES_MAX
}

/// A chunk's name as Luau's own messages show it.
fn shown(name: &CStr) -> Cow<'_, str> {
    let text = name.to_string_lossy();
    if let Some(plain) = text.strip_prefix(['=', '@']) {
        return plain.to_string().into();
    }
    let line = text.lines().next().unwrap_or("");
    let end = line.char_indices().map(|(i, _)| i).find(|&i| i >= SHOWN_BYTES).unwrap_or(line.len());
    let cut = if end < text.len() { "..." } else { "" };
    format!("[string \"{}{cut}\"]", &line[..end]).into()
}

/// The path of a file as Luau shows its chunk; other names as they are.
pub fn plain(shown: &str) -> &str {
    let inner = shown.strip_prefix("[string \"").and_then(|rest| rest.strip_suffix("\"]"));
    inner.filter(|name| name.starts_with('/')).unwrap_or(shown)
}

/// How the text of a syntax error names its chunk.
#[derive(Clone, Copy, PartialEq)]
pub enum Style {
    /// `[string "name"]:3: ...`, as Luau does.
    Luau,
    /// `syntax error: [string "name"]:3: ...`, as `require` does.
    Require,
    /// `/dir/x.luau:3: ...`, for the author of a template whose entry does not compile.
    Plain,
}

/// Pushes the function of a chunk that runs in the environment at `env`, or the text of what is wrong with it.
pub unsafe fn push_chunk(state: *mut lua_State, name: &CStr, compiled: &Result<Box<[u8]>, SyntaxError>, env: c_int, style: Style) -> bool {
    // SAFETY: by the caller, a running thread with a table at `env`.
    unsafe {
        match compiled {
            Ok(code) => load(state, name, code, env),
            Err(e) => {
                if let (Some(vm), true) = (scheduler::current(), e.limit.is_some()) {
                    vm.breach.set(e.limit);
                }
                let (prefix, name) = match style {
                    Style::Luau => ("", shown(name)),
                    Style::Require => ("syntax error: ", shown(name)),
                    Style::Plain => ("", name.to_string_lossy()),
                };
                push_str(state, format!("{prefix}{name}:{}: {}", e.line, e.text).as_bytes());
                false
            }
        }
    }
}

/// Loads bytecode of our compiler. Luau looks up a chunk's imports, such as `math.floor`, in the globals of the thread
/// that loads it, not in the environment it is given; and code in a safe environment never looks again. So the thread's
/// globals are the environment while it loads: else one isolate's globals would be built into code that runs in another.
pub unsafe fn load(state: *mut lua_State, name: &CStr, code: &[u8], env: c_int) -> bool {
    // SAFETY: by the caller, as above; the guard puts the thread's globals back, also when an error passes.
    unsafe {
        ffi::lua_rawcheckstack(state, 8);
        // Luau takes whatever it is given there for a table.
        if ffi::lua_type(state, env) != ffi::LUA_TTABLE {
            push_str(state, b"the environment of a chunk is a table");
            return false;
        }
        let env = ffi::lua_absindex(state, env);
        let guard = Globals::swap(state, env);
        let loaded = ffi::luau_load(state, name.as_ptr(), code.as_ptr().cast(), code.len(), env) == 0;
        drop(guard);
        // What was loaded lies above the thread's own globals.
        ffi::lua_remove(state, -2);
        // Bytecode of our compiler fails to load for want of memory only, which Luau catches and makes a text of.
        if let (Some(vm), false) = (scheduler::current(), loaded) {
            vm.dead.set(true);
            vm.accuse(state);
        }
        loaded
    }
}

/// A thread's globals, kept on its stack while it has others.
struct Globals {
    state: *mut lua_State,
    saved: c_int,
}

impl Globals {
    unsafe fn swap(state: *mut lua_State, env: c_int) -> Globals {
        // SAFETY: by the caller, with room on the stack and a table at the absolute `env`.
        unsafe {
            ffi::lua_pushvalue(state, ffi::LUA_GLOBALSINDEX);
            let saved = ffi::lua_gettop(state);
            ffi::lua_pushvalue(state, env);
            ffi::lua_replace(state, ffi::LUA_GLOBALSINDEX);
            Globals { state, saved }
        }
    }
}

impl Drop for Globals {
    fn drop(&mut self) {
        // SAFETY: the stack still holds what lay on it when this was made, and has room.
        unsafe {
            ffi::lua_pushvalue(self.state, self.saved);
            ffi::lua_replace(self.state, ffi::LUA_GLOBALSINDEX);
        }
    }
}

/// `loadstring(source, chunkname?)`: text only, in the environment of the code that calls it; nil and a message if it
/// does not compile.
unsafe extern "C-unwind" fn loadstring(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::luaL_checklstring(state, 1, ptr::null_mut());
        if ffi::lua_type(state, 2) > ffi::LUA_TNIL {
            ffi::luaL_checklstring(state, 2, ptr::null_mut());
        }
        ffi::lua_settop(state, 2);
        push_environment_of_caller(state);
        let given = bytes_at(state, 2);
        let name = if given.is_empty() { c"=loadstring".to_owned() } else { chunk_name(given) };
        let done = push_chunk(state, &name, &program::compile(bytes_at(state, 1)), 3, Style::Luau);
        drop(name);
        if done {
            return 1;
        }
        ffi::lua_pushnil(state);
        ffi::lua_insert(state, -2);
        2
    }
}

/// Pushes the environment of the nearest Luau function that is a script's; the thread's globals if there is none.
unsafe fn push_environment_of_caller(state: *mut lua_State) {
    // SAFETY: by the caller, a running thread with room on its stack.
    unsafe {
        let mut frame: ffi::lua_Debug = std::mem::zeroed();
        let mut level = 1;
        while ffi::lua_getinfo(state, level, c"sf".as_ptr(), &raw mut frame) != 0 {
            let source = CStr::from_ptr(frame.source);
            if source != c"=[C]" && source != BOOT_NAME {
                ffi::lua_getfenv(state, -1);
                ffi::lua_remove(state, -2);
                return;
            }
            ffi::lua_settop(state, -2);
            level += 1;
        }
        ffi::lua_pushvalue(state, ffi::LUA_GLOBALSINDEX);
    }
}

/// Adds `loadstring` to the base globals, before they are sealed.
pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe {
        ffi::lua_pushcclosurek(state, loadstring, c"loadstring".as_ptr(), 0, None);
        ffi::lua_setglobal(state, c"loadstring".as_ptr());
    }
}

/// The nearest Luau function on the stack that comes from a file.
pub struct Caller<'a> {
    /// The file, with its leading slash.
    pub file: &'a str,
    pub line: c_int,
    /// It runs in the environment at the index asked about.
    pub same_environment: bool,
}

/// Who called, and whether its environment is the table at `env`.
pub unsafe fn caller<'a>(state: *mut lua_State, env: c_int) -> Option<Caller<'a>> {
    // SAFETY: by the caller, a running thread with room on its stack; a frame's name lives as long as the frame.
    unsafe {
        let mut frame: ffi::lua_Debug = std::mem::zeroed();
        let mut level = 1;
        while ffi::lua_getinfo(state, level, c"sl".as_ptr(), &raw mut frame) != 0 {
            let source = CStr::from_ptr(frame.source);
            if is_file(source) {
                ffi::lua_getinfo(state, level, c"f".as_ptr(), &raw mut frame);
                ffi::lua_getfenv(state, -1);
                let same_environment = ffi::lua_rawequal(state, -1, env) != 0;
                ffi::lua_settop(state, -3);
                let file = source.to_str().ok()?;
                return Some(Caller { file, line: frame.currentline, same_environment });
            }
            level += 1;
        }
        None
    }
}
