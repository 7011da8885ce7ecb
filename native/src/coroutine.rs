//! `coroutine.resume`, `wrap`, `status` and `close`: as in Luau, but they break together with the thread they resume, and
//! their error texts are the reference's (luau-api 6). Errors stay strings: handlers such as `debug.traceback` want them.
//!
//! A script that resumes a thread which then waits gets `true` back at once, and the scheduler resumes the thread
//! itself when the answer is there.
//!
//! SAFETY, for the whole file: Luau calls these functions on the running thread of the current VM; what they raise
//! unwinds past them while they own nothing.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::errors;
use crate::scheduler::{raise, set, vm};
use crate::stack::{bytes_at, push_str};
use crate::thread::is_ended;

const RAISED: &str = "runtime error: ";

enum Resumed {
    Values(c_int),
    Error,
    /// The thread is running, dead or resumes others; the text is on the stack.
    Refused,
    Broken,
}

/// Resumes `co` with `nargs` values from the top of `state`; results end on `state`.
unsafe fn resume_inner(state: *mut lua_State, co: *mut lua_State, nargs: c_int) -> Resumed {
    unsafe {
        let status = if is_ended(co) { ffi::LUA_COFIN } else { ffi::lua_costatus(state, co) };
        if status != ffi::LUA_COSUS {
            ffi::lua_pushstring_(state, c"coroutine is non-resumable".as_ptr());
            return Resumed::Refused;
        }
        if ffi::lua_checkstack(co, nargs + 1) == 0 {
            raise(state, c"too many arguments to resume");
        }
        vm().forget_wait(co);
        ffi::lua_xmove(state, co, nargs);
        let fixed = ffi::lua_isyieldable(state) == 0;
        let vm = vm();
        vm.unbreakable.set(vm.unbreakable.get() + u32::from(fixed));
        let status = ffi::lua_resume_(co, state, nargs);
        vm.unbreakable.set(vm.unbreakable.get() - u32::from(fixed));
        take_results(state, co, status)
    }
}

unsafe fn take_results(state: *mut lua_State, co: *mut lua_State, status: c_int) -> Resumed {
    unsafe {
        match status {
            ffi::LUA_OK | ffi::LUA_YIELD => {
                let n = ffi::lua_gettop(co);
                if ffi::lua_checkstack(state, n + 2) == 0 {
                    raise(state, c"too many results to resume");
                }
                ffi::lua_xmove(co, state, n);
                Resumed::Values(n)
            }
            ffi::LUA_BREAK => {
                vm().breaking.borrow_mut().push(state);
                Resumed::Broken
            }
            _ => {
                // Out of memory in there is out of memory here, whoever takes the error.
                vm().note_end(co, status);
                ffi::lua_rawcheckstack(state, 4);
                ffi::lua_xmove(co, state, 1);
                Resumed::Error
            }
        }
    }
}

unsafe fn finish_resume(state: *mut lua_State, co: *mut lua_State, done: Resumed) -> c_int {
    unsafe {
        match done {
            Resumed::Values(n) => {
                ffi::lua_pushboolean(state, 1);
                ffi::lua_insert(state, -(n + 1));
                n + 1
            }
            Resumed::Error | Resumed::Refused => {
                if matches!(done, Resumed::Error) {
                    tell(state, Some(co));
                }
                ffi::lua_pushboolean(state, 0);
                ffi::lua_insert(state, -2);
                2
            }
            Resumed::Broken => ffi::lua_break(state),
        }
    }
}

unsafe fn finish_wrap(state: *mut lua_State, done: Resumed) -> c_int {
    unsafe {
        match done {
            Resumed::Values(n) => n,
            Resumed::Error => {
                tell(state, None);
                ffi::lua_error(state)
            }
            Resumed::Refused => ffi::lua_error(state),
            Resumed::Broken => ffi::lua_break(state),
        }
    }
}

/// Says of the error text on top that a script raised it, and where if a thread is given. Other values stay as they are.
unsafe fn tell(state: *mut lua_State, co: Option<*mut lua_State>) {
    unsafe {
        if ffi::lua_type(state, -1) != ffi::LUA_TSTRING {
            return;
        }
        // A text that nobody reads stays as it is.
        if ffi::lua_objlen(state, -1) > errors::TEXT_BYTES_MAX {
            return;
        }
        let given = String::from_utf8_lossy(bytes_at(state, -1));
        let mut text = if given.starts_with(RAISED) { given.into_owned() } else { format!("{RAISED}{given}") };
        if let Some(co) = co {
            errors::append_stack(co, &mut text);
        }
        ffi::lua_settop(state, -2);
        push_str(state, text.as_bytes());
    }
}

pub unsafe fn thread_arg(state: *mut lua_State, index: c_int) -> *mut lua_State {
    unsafe {
        let co = ffi::lua_tothread(state, index);
        if co.is_null() {
            ffi::luaL_typeerror(state, index, c"thread".as_ptr());
        }
        co
    }
}

unsafe extern "C-unwind" fn co_resume(state: *mut lua_State) -> c_int {
    unsafe {
        let co = thread_arg(state, 1);
        let done = resume_inner(state, co, ffi::lua_gettop(state) - 1);
        finish_resume(state, co, done)
    }
}

unsafe extern "C-unwind" fn co_resume_cont(state: *mut lua_State, _status: c_int) -> c_int {
    unsafe {
        let co = ffi::lua_tothread(state, 1);
        let done = take_results(state, co, ffi::lua_status(co));
        finish_resume(state, co, done)
    }
}

unsafe extern "C-unwind" fn co_wrap(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TFUNCTION);
        let co = ffi::lua_newthread(state);
        ffi::lua_xpush(state, co, 1);
        ffi::lua_pushcclosurek(state, co_wrapped, c"wrap".as_ptr(), 1, Some(co_wrapped_cont));
        1
    }
}

unsafe extern "C-unwind" fn co_wrapped(state: *mut lua_State) -> c_int {
    unsafe {
        let co = ffi::lua_tothread(state, ffi::lua_upvalueindex(1));
        let done = resume_inner(state, co, ffi::lua_gettop(state));
        finish_wrap(state, done)
    }
}

unsafe extern "C-unwind" fn co_wrapped_cont(state: *mut lua_State, _status: c_int) -> c_int {
    unsafe {
        let co = ffi::lua_tothread(state, ffi::lua_upvalueindex(1));
        let done = take_results(state, co, ffi::lua_status(co));
        finish_wrap(state, done)
    }
}

/// As in Luau; a thread that the scheduler has ended is dead.
unsafe extern "C-unwind" fn co_status(state: *mut lua_State) -> c_int {
    unsafe {
        let co = thread_arg(state, 1);
        let text = match ffi::lua_costatus(state, co) {
            _ if is_ended(co) => c"dead",
            ffi::LUA_CORUN => c"running",
            ffi::LUA_COSUS => c"suspended",
            ffi::LUA_CONOR => c"normal",
            _ => c"dead",
        };
        ffi::lua_pushstring_(state, text.as_ptr());
        1
    }
}

/// As in Luau, which is upvalue 1; what the thread waits for is forgotten.
unsafe extern "C-unwind" fn co_close(state: *mut lua_State) -> c_int {
    unsafe {
        let co = thread_arg(state, 1);
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(1)) {
            Some(close) => {
                if ffi::lua_costatus(state, co) == ffi::LUA_COSUS {
                    vm().forget_wait(co);
                }
                close(state)
            }
            None => raise(state, c"the function is gone"),
        }
    }
}

/// Adds them to the `coroutine` library, before it is sealed.
pub unsafe fn install(state: *mut lua_State) {
    unsafe {
        ffi::lua_getglobal(state, c"coroutine".as_ptr());
        set(state, c"resume", co_resume, Some(co_resume_cont));
        set(state, c"wrap", co_wrap, None);
        set(state, c"status", co_status, None);
        ffi::lua_rawgetfield(state, -1, c"close".as_ptr());
        ffi::lua_pushcclosurek(state, co_close, c"close".as_ptr(), 1, None);
        ffi::lua_rawsetfield(state, -2, c"close".as_ptr());
        ffi::lua_settop(state, -2);
    }
}
