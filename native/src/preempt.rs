//! How a running script is stopped.
//!
//! Preemption uses `lua_break`, which a script cannot see at all: the thread stops between two
//! instructions, every `coroutine.resume` or `coroutine.wrap` above it breaks too, and the scheduler
//! continues the innermost thread first. Where a break is impossible (a metamethod, a sort
//! comparator, a pattern match) the thread runs on until its cap of CPU time; then it gets an error at each poll.
//!
//! A kill is a break as well: the scheduler drops what has broken, so nothing can catch it.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::limits;
use crate::scheduler::{self, raise};
use crate::vm::Vm;

/// A stretch that cannot be broken may last this much longer than its CPU time: on a busy machine others have the core
/// meanwhile.
const WALL_FACTOR: u32 = 2;

/// Luau calls this at loop ends, calls, returns and pattern steps while it is installed.
pub unsafe extern "C-unwind" fn interrupt(state: *mut lua_State, gc: c_int) {
    let Some(vm) = scheduler::current() else {
        return;
    };
    // SAFETY: Luau calls this on the running thread: with -1 between instructions, with 0 before a step of its collector
    // and with the step's phase after it, where another collection does no harm.
    unsafe {
        if vm.crowded.get() && gc != 0 {
            vm.make_room(state);
        }
        if gc < 0 && vm.dead.get() {
            give_up(state, vm);
        } else if gc < 0 && vm.shared.raised() {
            stop(state, vm);
        }
    }
}

/// The VM is full and will be replaced: nothing of it runs any further.
#[cold]
unsafe fn give_up(state: *mut lua_State, vm: &Vm) {
    // SAFETY: as for `stop`.
    unsafe {
        if vm.unbreakable.get() == 0 && ffi::lua_isyieldable(state) != 0 {
            vm.breaking.borrow_mut().push(state);
            ffi::lua_break(state);
        } else {
            raise(state, c"not enough memory");
        }
    }
}

#[cold]
unsafe fn stop(state: *mut lua_State, vm: &Vm) {
    // SAFETY: by the caller; the raised errors meet no value that would have to be dropped.
    unsafe {
        let cpu = vm.slice_cpu();
        if !vm.kill.get() && vm.overdrawn(cpu) {
            vm.kill.set(true);
            vm.accuse(state);
        }
        if vm.unbreakable.get() == 0 && ffi::lua_isyieldable(state) != 0 {
            vm.breaking.borrow_mut().push(state);
            ffi::lua_break(state);
        } else if vm.kill.get() {
            // The flag stays up: the next poll raises again, so no pcall outlives this.
            raise(state, c"CPU limit exceeded");
        } else if cpu > vm.limits.unbreakable || vm.slice_began.get().elapsed() > vm.limits.unbreakable * WALL_FACTOR {
            // Others wait and this cannot stop: it gets errors until a place that can be left is reached.
            vm.breach.set(Some(limits::UNBREAKABLE));
            vm.overran.set(true);
            let max = vm.limits.unbreakable.as_millis() as c_int;
            ffi::luaL_error(state, c"a metamethod, callback or pattern ran too long: %d ms are allowed (limit: unbreakable)".as_ptr(), max);
        } else {
            vm.overran.set(true);
            vm.shared.lower();
            vm.shared.rearm();
        }
    }
}
