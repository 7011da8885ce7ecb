//! How a VM stays below its memory limit, and how it is noticed that it did not.
//!
//! SAFETY, for the whole file: as in `vm.rs`.

use std::ffi::{c_int, c_void};
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::call::Fault;
use crate::thread::Task;
use crate::vm::Vm;
use crate::{limits, sandbox, scheduler, shared};

/// mlua's own record of a VM's allocator, at the pinned version; `Vm::new` checks it.
#[repr(C)]
pub struct Allocator {
    used: isize,
    limit: isize,
    ignore_limit: bool,
    limit_reached: bool,
}

/// The record of a state's allocator, which lives as long as the state.
pub unsafe fn record_of(state: *mut lua_State) -> *mut Allocator {
    let mut data: *mut c_void = ptr::null_mut();
    // SAFETY: mlua gives each state such a record.
    unsafe { ffi::lua_getallocf(state, &raw mut data) };
    data.cast()
}

/// What Luau's heap holds.
pub unsafe fn heap_bytes(state: *mut lua_State) -> f64 {
    // SAFETY: by the caller, a live state; asks the collector for two numbers.
    unsafe { f64::from(ffi::lua_gc(state, ffi::LUA_GCCOUNT, 0)) * 1024.0 + f64::from(ffi::lua_gc(state, ffi::LUA_GCCOUNTB, 0)) }
}

/// How far the running VM may be filled by what can be refused. Less than what makes it full: there must be room for
/// the script to deal with the refusal.
unsafe fn limit_of(record: *mut Allocator) -> isize {
    // SAFETY: by the caller, the record of a live state.
    scheduler::current().map_or(unsafe { (*record).limit }, |vm| (vm.limits.vm_memory_bytes / 8 * 7) as isize)
}

/// Memory outside Luau's heap that a host object holds, counted like the VM's own until it is dropped.
pub struct Charge {
    record: *mut Allocator,
    bytes: isize,
}

impl Charge {
    /// Charges the VM of a running thread. Garbage goes first when there is no room; what does not fit then is refused.
    pub fn new(state: *mut lua_State, bytes: usize) -> Result<Charge, Fault> {
        // SAFETY: a running thread; the record is mlua's and lives as long as the state.
        unsafe {
            let record = record_of(state);
            let allowed = limit_of(record);
            let fits = |record: *mut Allocator| (*record).used.saturating_add_unsigned(bytes) <= allowed;
            if !fits(record) && bytes as isize <= allowed {
                ffi::lua_gc(state, ffi::LUA_GCCOLLECT, 0);
            }
            if !fits(record) {
                let text = format!("not enough memory: {bytes} bytes more do not fit, objects may fill {allowed} (limit: memory)");
                return Err(Fault::limit(limits::MEMORY, text));
            }
            (*record).used += bytes as isize;
            Ok(Charge { record, bytes: bytes as isize })
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // SAFETY: objects are dropped by their VM, whose record lives until its last object is gone.
        unsafe { (*self.record).used -= self.bytes };
    }
}

/// Bytes that a VM has left after something large was made in it.
pub const SPARE: usize = 64 << 10;

/// How many bytes more the VM of a running thread may hold; garbage goes first if that is less than `wanted`.
pub fn room(state: *mut lua_State, wanted: usize) -> usize {
    // SAFETY: as for `Charge::new`.
    unsafe {
        let record = record_of(state);
        let limit = limit_of(record);
        let left = || (limit - (*record).used).max(0) as usize;
        if left() < wanted && wanted as isize <= limit {
            ffi::lua_gc(state, ffi::LUA_GCCOLLECT, 0);
        }
        left()
    }
}

/// Refuses what would leave a VM without room; to be asked before something large is made in Luau's own heap, since running
/// out of memory there costs the VM.
pub fn ensure(state: *mut lua_State, bytes: usize) -> Result<(), Fault> {
    let wanted = bytes.saturating_add(SPARE);
    match room(state, wanted) {
        room if room >= wanted => Ok(()),
        room => Err(Fault::limit(limits::MEMORY, format!("not enough memory: {bytes} bytes do not fit into {room} (limit: memory)"))),
    }
}

/// Luau calls this after each allocation, where nothing may be collected yet. Past the limit it asks for a poll.
pub unsafe extern "C-unwind" fn on_allocate(
    state: *mut lua_State,
    _block: *mut c_void,
    _before: usize,
    _now: usize,
    _category: u8,
    _kind: c_int,
    _tag: c_int,
) {
    if let Some(vm) = scheduler::current()
        // SAFETY: the record lives as long as the VM.
        && unsafe { (*vm.record).used } > vm.limits.vm_memory_bytes as isize
        && !vm.crowded.replace(true)
    {
        // SAFETY: the running VM's own callbacks; the timer thread writes the same value there.
        unsafe { shared::install_interrupt(ffi::lua_callbacks(state)) };
    }
}

/// Luau calls this before a `pcall` takes an error. An out-of-memory that a script catches still costs the VM.
pub unsafe extern "C-unwind" fn on_protected_error(state: *mut lua_State) {
    if let Some(vm) = scheduler::current() {
        // SAFETY: the running state of this VM.
        let reached = unsafe { (*record_of(state)).limit_reached };
        if reached && !vm.dead.replace(true) {
            // SAFETY: as above.
            unsafe { vm.accuse(state) };
        }
    }
}

/// Whether mlua keeps that record as we read it.
pub unsafe fn is_as_expected(state: *mut lua_State, used: usize, limit: usize) -> bool {
    // SAFETY: by the caller, a state that mlua has made.
    let record = unsafe { &*record_of(state) };
    record.used == used as isize && record.limit == limit as isize
}

/// What the pages of a VM's heap have room for and have never held, about: Luau has one page of 16 KB for each size of
/// object, and most of them stay nearly empty (`pages`).
const UNTOUCHED_BYTES: usize = 400 << 10;
/// The other way round: what the system gives beyond what is alive, since it has 4 KB pages.
const ROUNDING_BYTES: usize = 112 << 10;

impl Vm {
    /// What the VM holds of the system's memory, about. The limit of a VM counts whole pages of its heap, which is three
    /// times as much for a small one.
    pub fn resident_bytes(&self) -> usize {
        // SAFETY: reads a number.
        let alive = unsafe { ffi::lua_gc(self.main, ffi::LUA_GCCOUNT, 0) } as usize * 1024;
        let used = self.used_bytes();
        used.min((alive + ROUNDING_BYTES).max(used.saturating_sub(UNTOUCHED_BYTES)))
    }

    /// Collects lazily while there is room, eagerly when live data and garbage could meet the limit. At the limit the
    /// garbage goes at once, since Luau does not collect when an allocation fails; what is full then is lost.
    pub fn look_after_memory(&self) {
        let (used, limit) = (self.used_bytes(), self.limits.vm_memory_bytes);
        let roomy = used * 4 < limit;
        let was_roomy = self.roomy.replace(roomy);
        // SAFETY: sets a number.
        unsafe { ffi::lua_gc(self.main, ffi::LUA_GCSETGOAL, if roomy { sandbox::GC_GOAL_ROOMY } else { sandbox::GC_GOAL }) };
        if was_roomy && !roomy {
            // The goal counts from the next cycle on: begin it now, the last one may have set the threshold far too high.
            self.collect(ffi::LUA_GCSTEP, 1);
        }
        if (used > self.full_bytes() || self.crowded.get()) && !self.dead.get() {
            self.collect(ffi::LUA_GCCOLLECT, 0);
            self.crowded.set(false);
            self.dead.set(self.dead.get() || self.used_bytes() > self.full_bytes());
            if self.dead.get() {
                self.accuse_last();
            }
        }
    }

    /// A VM that is found full between two slices was filled by what the end of the slice has stopped.
    fn accuse_last(&self) {
        let co = match self.ready.borrow().back() {
            Some(Task::Continue(run)) => run.root.state,
            _ => return,
        };
        // SAFETY: the run keeps the thread.
        unsafe {
            if self.origin(co).is_some_and(|origin| origin.request == self.running.get()) {
                self.accuse(co);
            }
        }
    }

    /// A VM with so much alive is full: it would do little else than collect.
    fn full_bytes(&self) -> usize {
        self.limits.vm_memory_bytes / 16 * 15
    }

    /// At a poll of a VM that is past its limit: what is still too much without garbage is an out-of-memory. Luau itself
    /// does not collect when an allocation fails.
    pub unsafe fn make_room(&self, state: *mut lua_State) {
        if self.dead.get() {
            return;
        }
        // SAFETY: by the caller, on the running thread at a place where Luau itself may collect.
        unsafe { ffi::lua_gc(state, ffi::LUA_GCCOLLECT, 0) };
        self.dead.set(self.used_bytes() > self.full_bytes());
        self.crowded.set(self.dead.get());
        if self.dead.get() {
            // SAFETY: as above.
            unsafe { self.accuse(state) };
        }
    }

    /// A collection runs no script code, but may need memory to shrink its own tables.
    fn collect(&self, what: c_int, data: c_int) {
        let status = self.protect(&mut |state| {
            // SAFETY: inside `protect`.
            unsafe { ffi::lua_gc(state, what, data) };
            0
        });
        if status != ffi::LUA_OK {
            self.take_text();
        }
    }
}
