//! What a VM's threads wait for: timers, host calls, their turn.
//!
//! SAFETY, for the whole file: as in `vm.rs`.

use std::time::{Duration, Instant};

use mlua::ffi::{self, lua_State};

use crate::call::{Call, Done, Fault};
use crate::limits;
use crate::offload::{self, Held, Job};
use crate::park;
use crate::request::End;
use crate::shared::OutKind;
use crate::stack::push_str;
use crate::thread::{Due, Task, ThreadRef, Timer, Value, WAIT_MASK, is_cancelled, is_ended, set_ended, set_scheduled, set_wait, wait_of};
use crate::value::{Refusal, breach, push_list};
use crate::vm::Vm;

/// A host call or a job that has no answer yet.
pub struct Pending {
    pub thread: ThreadRef,
    pub wait: u64,
    /// What its arguments hold.
    bytes: usize,
    /// What is kept for a job.
    _held: Option<Held>,
}

/// A host call or a job on its way out.
pub enum Outgoing {
    HostCall(Vec<u8>),
    Job(Job),
}

/// Arguments of one VM's calls that have no answer yet.
const CALLS_BYTES_MAX: usize = 8 << 20;
pub const CALLS_TOO_LARGE: Refusal = breach(limits::CALLS, "the calls that wait hold more than 8 MiB of arguments (limit: calls)");

/// A thread that goes on when another one has come to an end.
pub struct Await {
    awaited: *mut lua_State,
    /// Its stack keeps the awaited one alive.
    thread: ThreadRef,
    wait: u64,
}

impl Vm {
    fn next_wait(&self) -> u64 {
        let next = self.wait_seq.get() % WAIT_MASK + 1;
        self.wait_seq.set(next);
        next
    }

    /// Whether one more thread may wait, for a timer or for something else. Ask before making a `ThreadRef`.
    pub fn may_wait(&self, timer: bool) -> Result<(), Fault> {
        if self.full_of(timer).is_some() {
            self.forget_ended();
        }
        match self.full_of(timer) {
            None => Ok(()),
            Some((what, max)) => Err(Fault::limit(limits::CALLS, format!("too many {what}: {max} may (limit: calls)"))),
        }
    }

    /// What there is as much of as may be.
    fn full_of(&self, timer: bool) -> Option<(&'static str, usize)> {
        let (threads_max, timers_max) = (self.limits.threads_max, self.limits.timers_max);
        if self.waiting.get() >= threads_max {
            return Some(("threads are waiting", threads_max));
        }
        (timer && self.timers.borrow().len() >= timers_max).then_some(("timers are set", timers_max))
    }

    pub fn begin_wait(&self, thread: &ThreadRef) -> u64 {
        let wait = self.next_wait();
        // SAFETY: the reference keeps the thread.
        unsafe {
            set_scheduled(thread.state);
            // The wait of a thread that was cancelled is over without the thread.
            if !is_cancelled(thread.state) {
                set_wait(thread.state, wait);
            }
        }
        self.waiting.set(self.waiting.get() + 1);
        wait
    }

    pub fn start_timer(&self, thread: ThreadRef, after: Duration, value: Value) {
        let wait = self.begin_wait(&thread);
        let at = Instant::now() + after;
        self.timers.borrow_mut().push(Timer { at, wait, due: Due::Wake(thread, value) });
    }

    pub fn queue_wait(&self, thread: ThreadRef, value: Value) {
        let wait = self.begin_wait(&thread);
        self.ready.borrow_mut().push_back(Task::Deferred { thread, wait, value });
    }

    pub fn fire_timers(&self, now: Instant) {
        let mut timers = self.timers.borrow_mut();
        while timers.peek().is_some_and(|t| t.at <= now) {
            let Some(Timer { wait, due, .. }) = timers.pop() else { break };
            match due {
                Due::Wake(thread, value) => self.ready.borrow_mut().push_back(Task::Wake { thread, wait, value }),
                Due::Parked => self.unpark(wait),
            }
        }
    }

    pub fn await_thread(&self, awaited: *mut lua_State, thread: ThreadRef) {
        let wait = self.begin_wait(&thread);
        self.awaiting.borrow_mut().push(Await { awaited, thread, wait });
    }

    fn take_awaiting(&self, which: impl Fn(&Await) -> bool) -> Vec<Await> {
        if self.awaiting.borrow().is_empty() {
            return Vec::new();
        }
        let (taken, kept) = self.awaiting.take().into_iter().partition(which);
        self.awaiting.replace(kept);
        taken
    }

    /// Wakes the threads that await `co`.
    pub fn tell(&self, co: *mut lua_State) {
        for Await { thread, wait, .. } in self.take_awaiting(|a| a.awaited == co) {
            self.ready.borrow_mut().push_back(Task::Wake { thread, wait, value: Value::Nothing });
        }
    }

    /// The same for a thread that used up the tenant's CPU time, which costs the events that await it as well: nothing
    /// else could tell them before the tenant has CPU time again.
    pub fn tell_killed(&self, co: *mut lua_State) {
        for Await { thread, wait, .. } in self.take_awaiting(|a| a.awaited == co) {
            match self.take_main(thread.state) {
                Some((request, part)) => {
                    // SAFETY: the reference keeps the thread.
                    unsafe { set_ended(thread.state) };
                    self.end_wait(thread);
                    self.end_part(request, part, End::Limit(limits::CPU, limits::CPU_TEXT.into()));
                }
                None => self.ready.borrow_mut().push_back(Task::Wake { thread, wait, value: Value::Nothing }),
            }
        }
    }

    // ---- host calls -----------------------------------------------------------------------------------

    pub fn has_room_for_call(&self, bytes: usize) -> bool {
        self.calls_bytes.get() + bytes <= CALLS_BYTES_MAX
    }

    /// Sends a host call or a job, or keeps it until fewer are in flight. Its id is unique in the engine.
    pub fn wait_for_call(&self, thread: ThreadRef, outgoing: Outgoing, held: Option<Held>) {
        let wait = self.begin_wait(&thread);
        let call = self.shared.next_call.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let bytes = if let Outgoing::HostCall(payload) = &outgoing { payload.len() } else { 0 };
        self.calls_bytes.set(self.calls_bytes.get() + bytes);
        self.calls.borrow_mut().insert(call, Pending { thread, wait, bytes, _held: held });
        if self.calls_running.get() >= self.limits.host_calls_max {
            return self.calls_waiting.borrow_mut().push_back((call, outgoing));
        }
        self.send_out(call, outgoing);
    }

    fn send_out(&self, call: u64, outgoing: Outgoing) {
        self.calls_running.set(self.calls_running.get() + 1);
        match outgoing {
            Outgoing::HostCall(payload) => self.send(OutKind::HostCall, call, payload),
            Outgoing::Job(job) => offload::submit(job, &self.shared, self.tenant, &self.offloaded, self.cpu_left(), call),
        }
    }

    pub fn wait_for_job(&self, thread: ThreadRef, job: Job, held: Held) {
        self.wait_for_call(thread, Outgoing::Job(job), Some(held));
    }

    /// The answer of a call that was sent: its thread goes on.
    pub fn answer(&self, call: u64, value: Value) {
        let Some(Pending { thread, wait, bytes, .. }) = self.calls.borrow_mut().remove(&call) else {
            return;
        };
        self.calls_bytes.set(self.calls_bytes.get() - bytes);
        if let Value::Finished(Some(finished)) = &value
            // SAFETY: the reference keeps the thread.
            && let Some(origin) = unsafe { self.origin(thread.state) }
            && let Some(request) = self.requests.borrow_mut().get_mut(&origin.request)
        {
            request.cpu += finished.cpu;
        }
        self.ready.borrow_mut().push_back(Task::Wake { thread, wait, value });
    }

    /// An answer has reached its thread: only then the next call goes out, so that no more answers pile up than calls
    /// may run at once, however long the VM waits for its turn.
    fn call_done(&self) {
        self.calls_running.set(self.calls_running.get() - 1);
        loop {
            let Some((next, outgoing)) = self.calls_waiting.borrow_mut().pop_front() else { break };
            if self.is_wanted(next) {
                self.send_out(next, outgoing);
                break;
            }
            self.forget_call(next);
        }
    }

    /// Whether the thread of a call still waits for it.
    fn is_wanted(&self, call: u64) -> bool {
        // SAFETY: the reference keeps the thread.
        self.calls.borrow().get(&call).is_some_and(|c| unsafe { wait_of(c.thread.state) == c.wait })
    }

    fn forget_call(&self, call: u64) {
        if let Some(call) = self.calls.borrow_mut().remove(&call) {
            self.calls_bytes.set(self.calls_bytes.get() - call.bytes);
            self.end_wait(call.thread);
        }
    }

    /// Gives up a wait's hold on its thread.
    pub fn end_wait(&self, thread: ThreadRef) {
        self.waiting.set(self.waiting.get() - 1);
        // SAFETY: the reference's own slot.
        unsafe { thread.release(self.main) };
    }

    /// Drops the timers that no thread waits for any more (cancelled, resumed early or ended), and the awaits and unsent
    /// calls of threads that the scheduler has ended.
    pub fn forget_ended(&self) {
        self.forget_parked();
        let mut kept = std::collections::BinaryHeap::new();
        for Timer { at, wait, due } in self.timers.take() {
            match due {
                // SAFETY: the reference keeps the thread.
                Due::Wake(thread, _) if unsafe { is_ended(thread.state) || wait_of(thread.state) != wait } => self.end_wait(thread),
                Due::Parked if !self.is_parked(wait) => {}
                due => kept.push(Timer { at, wait, due }),
            }
        }
        self.timers.replace(kept);
        // SAFETY: the reference keeps the thread.
        for ended in self.take_awaiting(|a| unsafe { is_ended(a.thread.state) }) {
            self.end_wait(ended.thread);
        }
        let waiting = self.calls_waiting.take();
        let (wanted, unwanted): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(call, _)| self.is_wanted(*call));
        self.calls_waiting.replace(wanted.into());
        for (call, _) in unwanted {
            self.forget_call(call);
        }
    }

    /// Ends a thread that waited for its turn, as what runs is ended when the tenant's CPU time is used up: threads that
    /// defer more of their kind would otherwise live on whatever flows back, and leave nothing for the next event.
    pub fn drop_deferred(&self, thread: ThreadRef, wait: u64) {
        // SAFETY: the reference keeps the thread.
        if unsafe { is_ended(thread.state) || wait_of(thread.state) != wait } {
            return self.end_wait(thread);
        }
        self.waiting.set(self.waiting.get() - 1);
        self.drop_run(crate::thread::Run::new(thread), Some(limits::CPU_TEXT));
    }

    // ---- going on -------------------------------------------------------------------------------------

    /// Continues a thread whose wait is over, unless something else resumed or ended it meanwhile.
    pub fn wake(&self, thread: ThreadRef, wait: u64, value: Value) {
        let co = thread.state;
        match value {
            Value::Woken => drop(self.parked.borrow_mut().remove(&wait)),
            Value::Values(_) | Value::Error(_) | Value::Finished(_) => self.call_done(),
            Value::Nothing | Value::Since(_) | Value::Packed(_) => {}
        }
        // SAFETY: the reference keeps the thread.
        unsafe {
            let current = wait_of(co) == wait;
            if current {
                set_wait(co, 0);
            }
            if !current || is_ended(co) || ffi::lua_costatus(self.main, co) != ffi::LUA_COSUS {
                return self.end_wait(thread);
            }
            let origin = self.origin(co);
            if origin.as_ref().is_some_and(|origin| self.is_outdated(origin)) {
                set_ended(co);
                self.tell(co);
                return self.end_wait(thread);
            }
            self.set_running(origin.map_or(0, |origin| origin.request));
            let nargs = self.push_value(&thread, value);
            self.waiting.set(self.waiting.get() - 1);
            let status = match nargs {
                0.. => ffi::lua_resume_(co, std::ptr::null_mut(), nargs),
                _ => ffi::lua_resumeerror(co, std::ptr::null_mut()),
            };
            self.after_resume(crate::thread::Run::new(thread), status);
        }
    }

    /// What was pushed: the number of values, or -1 for an error value in their place.
    unsafe fn pushed(&self, state: *mut lua_State, done: Done) -> i32 {
        match done {
            Ok(n) => n,
            Err(fault) => {
                self.breach.set(fault.limit);
                // SAFETY: by the caller, inside `protect`.
                unsafe {
                    ffi::lua_settop(state, 0);
                    push_str(state, fault.text.as_bytes());
                }
                -1
            }
        }
    }

    /// Moves `value` onto the thread's stack: the number of arguments, or -1 for an error value.
    unsafe fn push_value(&self, thread: &ThreadRef, value: Value) -> i32 {
        let co = thread.state;
        let mut nargs = 0;
        let mut value = value;
        // SAFETY: inside `protect`; the thread is suspended, so values can be moved to it.
        let status = self.protect(&mut |state: *mut lua_State| unsafe {
            match &mut value {
                Value::Nothing => {}
                Value::Woken => {
                    park::push_mark(state);
                    nargs = 1;
                }
                Value::Since(start) => {
                    // No finer than `os.clock`, and never less than was asked for.
                    ffi::lua_pushnumber(state, (start.elapsed().as_secs_f64() * 1_000.0).ceil() / 1_000.0);
                    nargs = 1;
                }
                Value::Values(raw) => nargs = self.pushed(state, push_list(state, raw).map_err(Fault::from)),
                Value::Finished(finished) => {
                    let Some(finished) = finished.take() else { return 0 };
                    nargs = self.pushed(state, finished.give(&Call { state }));
                }
                Value::Error(text) => {
                    push_str(state, text);
                    nargs = -1;
                }
                Value::Packed(n) => {
                    ffi::lua_rawcheckstack(state, *n + 2);
                    ffi::lua_rawgeti_(state, ffi::LUA_REGISTRYINDEX, thread.slot);
                    for i in 1..=*n {
                        ffi::lua_rawgeti_(state, 1, i);
                    }
                    ffi::lua_remove(state, 1);
                    nargs = *n;
                }
            }
            let moved = i32::abs(nargs);
            // Not the variant that raises, for that would be on the other thread's stack.
            if ffi::lua_checkstack(co, moved + 1) == 0 {
                ffi::luaL_error(state, c"too many values for a thread".as_ptr());
            }
            ffi::lua_xmove(state, co, moved);
            0
        });
        if status == ffi::LUA_OK {
            return nargs;
        }
        // SAFETY: suspended threads have room for one value.
        unsafe { self.move_error(co) };
        -1
    }
}
