//! The `task` library.
//!
//! SAFETY, for the whole file: Luau calls these functions on the running thread of the current VM; what they raise
//! unwinds past them while they own nothing.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use mlua::ffi::{self, lua_State};

use crate::call::{self, Call};
use crate::coroutine::thread_arg;
use crate::limits;
use crate::request::End;
use crate::scheduler::{can_wait, raise, set, vm};
use crate::thread::{Run, ThreadRef, Value, is_ended, set_cancelled, set_scheduled};

const MIN_WAIT: f64 = 0.05;
const MAX_WAIT: f64 = 366.0 * 86_400.0;

/// Raises an error if no further thread may wait.
unsafe fn may_wait(state: *mut lua_State, timer: bool) {
    if let Err(fault) = vm().may_wait(timer) {
        unsafe { call::raise(state, fault) }
    }
}

/// Raises an error if as many threads as may wait were already stopped in their midst: each of them may spawn more.
unsafe fn may_spawn(state: *mut lua_State) {
    let vm = vm();
    if vm.ready.borrow().len() >= vm.limits.threads_max {
        vm.breach.set(Some(limits::CALLS));
        let max = vm.limits.threads_max as c_int;
        unsafe { ffi::luaL_error(state, c"too many threads are running: %d may (limit: calls)".as_ptr(), max) }
    }
}

unsafe fn seconds(state: *mut lua_State, index: c_int) -> f64 {
    unsafe {
        let n = ffi::luaL_optnumber(state, index, MIN_WAIT);
        if n > MAX_WAIT {
            raise(state, c"the time to wait is too long");
        }
        if n.is_nan() { MIN_WAIT } else { n.max(MIN_WAIT) }
    }
}

unsafe extern "C-unwind" fn task_wait(state: *mut lua_State) -> c_int {
    unsafe {
        let n = seconds(state, 1);
        if let Err(fault) = can_wait(&Call { state }) {
            call::raise(state, fault);
        }
        may_wait(state, true);
        ffi::lua_settop(state, 0);
        let thread = ThreadRef::running(state);
        vm().start_timer(thread, Duration::from_secs_f64(n), Value::Since(Instant::now()));
        ffi::lua_yield(state, 0)
    }
}

/// The thread at `index`, or a new one that will run the function there; it is also pushed.
unsafe fn to_thread(state: *mut lua_State, index: c_int) -> *mut lua_State {
    unsafe {
        if ffi::lua_type(state, index) == ffi::LUA_TFUNCTION {
            let co = ffi::lua_newthread(state);
            ffi::lua_xpush(state, co, index);
            return co;
        }
        let co = ffi::lua_tothread(state, index);
        if co.is_null() {
            ffi::luaL_typeerror(state, index, c"function or thread".as_ptr());
        }
        ffi::lua_pushvalue(state, index);
        co
    }
}

/// Anchors the thread on top, together with the arguments from `first` up to it: the thread itself
/// has no room for them, as it may be resumed before its time.
unsafe fn anchor(state: *mut lua_State, co: *mut lua_State, first: c_int) -> (ThreadRef, Value) {
    unsafe {
        let n = ffi::lua_gettop(state) - first;
        if n <= 0 {
            return (ThreadRef::at(state, -1, co), Value::Nothing);
        }
        ffi::lua_createtable(state, n + 1, 0);
        for i in 0..=n {
            ffi::lua_pushvalue(state, first + i);
            ffi::lua_rawseti_(state, -2, i + 1);
        }
        let thread = ThreadRef::at(state, -1, co);
        ffi::lua_settop(state, -2);
        (thread, Value::Packed(n))
    }
}

unsafe extern "C-unwind" fn task_spawn(state: *mut lua_State) -> c_int {
    unsafe {
        may_spawn(state);
        let co = to_thread(state, 1);
        ffi::lua_replace(state, 1);
        let nargs = ffi::lua_gettop(state) - 1;
        if is_ended(co) || ffi::lua_costatus(state, co) != ffi::LUA_COSUS {
            ffi::lua_settop(state, 1);
            return 1;
        }
        if ffi::lua_checkstack(co, nargs + 1) == 0 {
            raise(state, c"too many arguments");
        }
        // Before it runs: afterwards nothing may raise an error.
        let root = ThreadRef::at(state, 1, co);
        ffi::lua_xmove(state, co, nargs);
        let vm = vm();
        vm.forget_wait(co);
        set_scheduled(co);
        // The spawner goes on whatever happens, so the new thread may break even where the spawner may not.
        let outer = vm.unbreakable.take();
        let status = ffi::lua_resume_(co, state, nargs);
        vm.unbreakable.set(outer);
        vm.after_resume(Run::new(root), status);
        1
    }
}

unsafe extern "C-unwind" fn task_defer(state: *mut lua_State) -> c_int {
    unsafe {
        may_wait(state, false);
        let co = to_thread(state, 1);
        let (thread, value) = anchor(state, co, 2);
        vm().queue_wait(thread, value);
        1
    }
}

unsafe extern "C-unwind" fn task_delay(state: *mut lua_State) -> c_int {
    unsafe {
        let n = seconds(state, 1);
        may_wait(state, true);
        let co = to_thread(state, 2);
        let (thread, value) = anchor(state, co, 3);
        vm().start_timer(thread, Duration::from_secs_f64(n), value);
        1
    }
}

unsafe extern "C-unwind" fn task_cancel(state: *mut lua_State) -> c_int {
    unsafe {
        let co = thread_arg(state, 1);
        let vm = vm();
        vm.forget_wait(co);
        set_cancelled(co);
        if let Some((request, part)) = vm.take_main(co) {
            vm.end_part(request, part, End::Cancelled(None));
        }
        0
    }
}

/// `task.synchronize` and `task.desynchronize`: everything of a tenant is in step already.
unsafe extern "C-unwind" fn task_nothing(_state: *mut lua_State) -> c_int {
    0
}

/// Adds `task` to the globals, before they are sealed.
pub unsafe fn install(state: *mut lua_State) {
    unsafe {
        ffi::lua_createtable(state, 0, 7);
        set(state, c"wait", task_wait, None);
        set(state, c"spawn", task_spawn, None);
        set(state, c"defer", task_defer, None);
        set(state, c"delay", task_delay, None);
        set(state, c"cancel", task_cancel, None);
        set(state, c"synchronize", task_nothing, None);
        set(state, c"desynchronize", task_nothing, None);
        ffi::lua_setglobal(state, c"task".as_ptr());
    }
}
