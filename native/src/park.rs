//! Waits that another thread of the VM ends: `unpark` wakes whoever waits under a number, or a timer does.
//!
//! A thread that is parked runs a native function again when it is woken, which looks whether what it waits for is
//! there: so nothing is handed over on the way, and nothing is lost if the thread was cancelled or resumed early.
//!
//! SAFETY, for the whole file: as in `scheduler.rs`.

use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use mlua::ffi::{self, lua_State};

use crate::call::{self, Call, Done, Function, THEN};
use crate::scheduler;
use crate::thread::{Due, Task, ThreadRef, Timer, Value, is_cancelled, is_ended, set_wait, wait_of};
use crate::vm::Vm;

/// Who waits longer looks again after this.
const PARK_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What a thread is woken with, and what lies below the arguments of one that is parked. Scripts never see it.
static MARKED: u8 = 0;

fn mark() -> *mut c_void {
    (&raw const MARKED).cast_mut().cast()
}

pub unsafe fn push_mark(state: *mut lua_State) {
    // SAFETY: callers have room; allocates nothing.
    unsafe { ffi::lua_pushlightuserdata(state, mark()) }
}

/// What lies below the results of a call that a function takes on.
static AFTER: u8 = 0;

fn after() -> *mut c_void {
    (&raw const AFTER).cast_mut().cast()
}

/// The running thread waits for what has been asked of the host, and its stack is empty: `function` gets what the thread is
/// woken with as its arguments, which may come from a script. A native function ends with this.
pub fn then(call: &Call, function: Function) -> Done {
    // SAFETY: see the head of the file; an empty stack has room.
    unsafe {
        ffi::lua_pushlightuserdata(call.state, after());
        call::push_pointer(call.state, function);
    }
    Ok(THEN)
}

unsafe fn is_mark(state: *mut lua_State, index: c_int) -> bool {
    // SAFETY: a live state.
    unsafe { ffi::lua_type(state, index) == ffi::LUA_TLIGHTUSERDATA && ffi::lua_tolightuserdata(state, index) == mark() }
}

/// Parks the running thread with its first `n` arguments, for at most `after`; `note` gets the number of the wait. When it
/// is woken, `function` runs with those arguments. A native function ends with this.
pub fn park(call: &Call, n: c_int, function: Function, after: Option<Duration>, note: impl FnOnce(u64)) -> Done {
    scheduler::can_wait(call)?;
    let vm = scheduler::vm();
    vm.may_wait(after.is_some())?;
    // SAFETY: see the head of the file; what may raise comes before the wait begins.
    unsafe {
        call.set_top(n);
        ffi::lua_rawcheckstack(call.state, 4);
        push_mark(call.state);
        ffi::lua_insert(call.state, 1);
        call::push_pointer(call.state, function);
        ffi::lua_insert(call.state, 2);
        call.push_number(f64::from(n));
        ffi::lua_insert(call.state, 3);
        note(vm.park(ThreadRef::running(call.state), after));
    }
    Ok(THEN)
}

/// What follows when a thread goes on that a native function has yielded.
pub unsafe extern "C-unwind" fn go_on(state: *mut lua_State, _status: c_int) -> c_int {
    // SAFETY: Luau calls this with what lay on the stack, and above it what the thread is resumed with.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TLIGHTUSERDATA && ffi::lua_tolightuserdata(state, 1) == after() {
            let function = call::as_function(ffi::lua_tolightuserdata(state, 2));
            ffi::lua_remove(state, 1);
            ffi::lua_remove(state, 1);
            return call::run(state, function);
        }
        if !is_mark(state, 1) {
            return ffi::lua_gettop(state);
        }
        let function = call::as_function(ffi::lua_tolightuserdata(state, 2));
        let n = ffi::lua_tonumber(state, 3) as c_int;
        for _ in 0..3 {
            ffi::lua_remove(state, 1);
        }
        let values = ffi::lua_gettop(state) - n;
        if values != 1 || !is_mark(state, -1) {
            // Resumed by a script, before its time.
            return values;
        }
        ffi::lua_settop(state, n);
        call::run(state, function)
    }
}

impl Vm {
    fn park(&self, thread: ThreadRef, after: Option<Duration>) -> u64 {
        // SAFETY: the reference keeps the thread.
        if unsafe { is_cancelled(thread.state) } {
            // SAFETY: the reference's own slot.
            unsafe { thread.release(self.main) };
            return 0;
        }
        let after = after.map(|after| after.min(PARK_MAX));
        let wait = self.begin_wait(&thread);
        self.parked.borrow_mut().insert(wait, Some(thread));
        if let Some(after) = after {
            self.timers.borrow_mut().push(Timer { at: Instant::now() + after, wait, due: Due::Parked });
        }
        wait
    }

    /// Wakes who waits under this number, if somebody still does.
    pub fn unpark(&self, wait: u64) {
        if let Some(thread) = self.parked.borrow_mut().get_mut(&wait).and_then(Option::take) {
            self.ready.borrow_mut().push_back(Task::Wake { thread, wait, value: Value::Woken });
        }
    }

    /// Whether a thread waits under this number, or is about to be woken.
    pub fn is_parked(&self, wait: u64) -> bool {
        self.parked.borrow().contains_key(&wait)
    }

    /// Another resume or a cancellation came before what the thread waits for.
    pub unsafe fn forget_wait(&self, co: *mut lua_State) {
        // SAFETY: by the caller, a live thread of this VM.
        let wait = unsafe { wait_of(co) };
        if wait == 0 {
            return;
        }
        // SAFETY: as above.
        unsafe { set_wait(co, 0) };
        let parked = self.parked.borrow_mut().remove(&wait).flatten();
        if let Some(thread) = parked {
            self.end_wait(thread);
        }
    }

    /// Drops the waits of threads that the scheduler has ended.
    pub fn forget_parked(&self) {
        let mut gone = Vec::new();
        self.parked.borrow_mut().retain(|_, parked| {
            // SAFETY: the reference keeps the thread.
            let ended = parked.as_ref().is_some_and(|thread| unsafe { is_ended(thread.state) });
            if ended {
                gone.extend(parked.take());
            }
            !ended
        });
        for thread in gone {
            self.end_wait(thread);
        }
    }
}
