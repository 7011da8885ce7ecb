//! How a running script is stopped.
//!
//! Preemption uses `lua_break`, which a script cannot see at all: the thread stops between two
//! instructions, every `coroutine.resume` or `coroutine.wrap` above it breaks too, and the scheduler
//! continues the innermost thread first. Where a break is impossible (a metamethod, a sort
//! comparator, a pattern match) the thread runs on until its cap; then it gets an error at each poll.
//!
//! A kill is a break as well: the scheduler drops what has broken, so nothing can catch it.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::scheduler::{self, raise};
use crate::vm::Vm;

/// Luau calls this at loop ends, calls, returns and pattern steps while it is installed.
pub unsafe extern "C-unwind" fn interrupt(state: *mut lua_State, gc: c_int) {
    if gc >= 0 {
        return;
    }
    if let Some(vm) = scheduler::current()
        && vm.shared.raised()
    {
        // SAFETY: Luau calls this on the running thread.
        unsafe { stop(state, vm) };
    }
}

#[cold]
unsafe fn stop(state: *mut lua_State, vm: &Vm) {
    // SAFETY: by the caller; the raised errors meet no value that would have to be dropped.
    unsafe {
        vm.kill.set(vm.kill.get() || vm.overdrawn());
        if vm.unbreakable.get() == 0 && ffi::lua_isyieldable(state) != 0 {
            vm.breaking.borrow_mut().push(state);
            ffi::lua_break(state);
        } else if vm.kill.get() {
            // The flag stays up: the next poll raises again, so no pcall outlives this.
            raise(state, c"CPU limit exceeded");
        } else if vm.slice_began.get().elapsed() > vm.limits.unbreakable {
            // Others wait and this cannot stop: it gets errors until a place that can be left is reached.
            vm.capped.set(true);
            raise(state, c"a metamethod or callback ran too long");
        } else {
            vm.shared.lower();
            vm.shared.rearm();
        }
    }
}
