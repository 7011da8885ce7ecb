//! Luau threads as the scheduler sees them: what keeps them alive, what they wait for, and whose they are.
//!
//! SAFETY, for the whole file: a `lua_State` pointer is used only by the VM thread, inside the VM that made it, while
//! the registry (a `ThreadRef`) or a running stack keeps it alive.

use std::ffi::{c_int, c_void};
use std::time::Instant;

use mlua::ffi::{self, lua_State};

use crate::offload::Finished;
use crate::request::Arrival;

/// A Luau thread that the registry keeps alive. Making one may raise an out-of-memory error, so that
/// happens only in functions a script calls and inside `Vm::protect`, never after a resume.
pub struct ThreadRef {
    pub state: *mut lua_State,
    pub slot: c_int,
}

impl ThreadRef {
    /// Anchors a thread through its own stack.
    pub unsafe fn running(state: *mut lua_State) -> Self {
        // SAFETY: see the head of the file; may raise.
        unsafe {
            ffi::lua_rawcheckstack(state, 1);
            ffi::lua_pushthread(state);
            let slot = ffi::lua_ref(state, -1);
            ffi::lua_settop(state, -2);
            ThreadRef { state, slot }
        }
    }

    /// Anchors the thread `co` by the value at `index`, which is `co` or a table that holds it.
    pub unsafe fn at(state: *mut lua_State, index: c_int, co: *mut lua_State) -> Self {
        // SAFETY: see the head of the file; may raise.
        ThreadRef { state: co, slot: unsafe { ffi::lua_ref(state, index) } }
    }

    pub unsafe fn release(self, main: *mut lua_State) {
        // SAFETY: the slot is this value's own, and given back once.
        unsafe { ffi::lua_unref(main, self.slot) };
    }
}

// ---- a thread's own data -------------------------------------------------------------------------
//
// 64 bits: four flags, its origin (20 bits), and its wait (40 bits): 0, or an id that is used once. Any resume clears the
// wait, and an answer that comes later finds another value.

const ENDED: u64 = 1 << 63;
/// Nothing waits in it.
const SEALED: u64 = 1 << 62;
/// The scheduler has known it.
const SCHEDULED: u64 = 1 << 61;
/// No wait in it ends.
const CANCELLED: u64 = 1 << 60;
const FLAGS: u64 = ENDED | SEALED | SCHEDULED | CANCELLED;
const WAIT_BITS: u32 = 40;
pub const WAIT_MASK: u64 = (1 << WAIT_BITS) - 1;
/// Origins that one VM may have at the same time.
pub const ORIGINS_MAX: usize = 1 << 20;

unsafe fn data(co: *mut lua_State) -> u64 {
    // SAFETY: see the head of the file.
    unsafe { ffi::lua_getthreaddata(co) as u64 }
}

unsafe fn set_data(co: *mut lua_State, data: u64) {
    // SAFETY: see the head of the file; the "pointer" is never followed.
    unsafe { ffi::lua_setthreaddata(co, data as *mut c_void) }
}

pub unsafe fn wait_of(co: *mut lua_State) -> u64 {
    // SAFETY: see the head of the file.
    unsafe { data(co) & WAIT_MASK }
}

pub unsafe fn set_wait(co: *mut lua_State, wait: u64) {
    // SAFETY: see the head of the file.
    unsafe { set_data(co, data(co) & !WAIT_MASK | wait & WAIT_MASK) }
}

/// Where the thread comes from: an index into the VM's origins, 0 for the engine itself.
pub unsafe fn origin_of(co: *mut lua_State) -> usize {
    // SAFETY: see the head of the file.
    unsafe { (data(co) & !FLAGS) as usize >> WAIT_BITS }
}

/// Gives a thread that has never run its origin.
pub unsafe fn set_origin(co: *mut lua_State, origin: usize) {
    // SAFETY: see the head of the file.
    unsafe { set_data(co, (origin as u64) << WAIT_BITS) }
}

/// Nothing resumes the thread from here on.
pub unsafe fn set_ended(co: *mut lua_State) {
    // SAFETY: see the head of the file.
    unsafe { set_data(co, (data(co) | ENDED) & !WAIT_MASK) }
}

pub unsafe fn is_ended(co: *mut lua_State) -> bool {
    // SAFETY: see the head of the file.
    unsafe { data(co) & ENDED != 0 }
}

pub unsafe fn set_sealed(co: *mut lua_State) {
    // SAFETY: see the head of the file.
    unsafe { set_data(co, data(co) | SEALED) }
}

pub unsafe fn is_sealed(co: *mut lua_State) -> bool {
    // SAFETY: see the head of the file.
    unsafe { data(co) & SEALED != 0 }
}

pub unsafe fn set_scheduled(co: *mut lua_State) {
    // SAFETY: see the head of the file.
    unsafe { set_data(co, data(co) | SCHEDULED) }
}

/// From here on no wait in the thread ends. Without effect on one that the scheduler has never known.
pub unsafe fn set_cancelled(co: *mut lua_State) {
    // SAFETY: see the head of the file.
    unsafe {
        if data(co) & SCHEDULED != 0 {
            set_data(co, data(co) | CANCELLED);
        }
    }
}

pub unsafe fn is_cancelled(co: *mut lua_State) -> bool {
    // SAFETY: see the head of the file.
    unsafe { data(co) & CANCELLED != 0 }
}

// ---- work ----------------------------------------------------------------------------------------

/// What the scheduler resumes: a thread, and the threads nested in it by `coroutine.resume`.
pub struct Run {
    /// Keeps them all alive, for the stack of each holds the next one.
    pub root: ThreadRef,
    /// The preempted threads below the root, outermost first: the last one goes on first.
    pub nested: Vec<*mut lua_State>,
}

impl Run {
    pub fn new(root: ThreadRef) -> Self {
        Run { root, nested: Vec::new() }
    }

    pub fn innermost(&self) -> *mut lua_State {
        self.nested.last().copied().unwrap_or(self.root.state)
    }

    pub fn threads(&self) -> impl Iterator<Item = *mut lua_State> {
        std::iter::once(self.root.state).chain(self.nested.iter().copied())
    }
}

/// What a thread gets when it continues.
pub enum Value {
    Nothing,
    Since(Instant),
    /// The mark of `park.rs`.
    Woken,
    /// The results of a host call.
    Values(Box<[u8]>),
    Error(Box<[u8]>),
    /// The results of a job.
    Finished(Option<Box<Finished>>),
    /// How many arguments the table that anchors the thread holds.
    Packed(c_int),
}

pub enum Task {
    Start(Box<Arrival>),
    /// A part of a request that has started, which another part has kept from its turn.
    Begin {
        request: u64,
        part: usize,
    },
    /// A wait is over.
    Wake {
        thread: ThreadRef,
        wait: u64,
        value: Value,
    },
    /// A thread that waits for nothing but its turn.
    Deferred {
        thread: ThreadRef,
        wait: u64,
        value: Value,
    },
    /// A preempted run goes on.
    Continue(Run),
}

pub struct Timer {
    pub at: Instant,
    pub wait: u64,
    pub due: Due,
}

/// What is to happen then.
pub enum Due {
    /// The thread goes on with the value.
    Wake(ThreadRef, Value),
    /// Who is parked under the wait is woken, if it still is (`park.rs`).
    Parked,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
/// The earliest is the greatest, as `BinaryHeap` wants it; waits grow in the order of their making.
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.wait).cmp(&(self.at, self.wait))
    }
}
