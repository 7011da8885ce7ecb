//! What the Python side, the VM thread, the timer thread and the watchdog share.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use mlua::ffi;

use crate::blame::Blame;
use crate::limits;
use crate::linger::Linger;
use crate::offload::Finished;
use crate::pack;
use crate::preempt;
use crate::program::Program;
use crate::request::{Arrival, Weight};
use crate::stats::Stats;
use crate::timer::Timer;
use crate::user::CurrentUser;

pub enum In {
    Program { tenant: u64, program: Arc<Program> },
    Request { tenant: u64, arrival: Box<Arrival> },
    Cancel { request: u64 },
    Drop { tenant: u64, request: u64 },
    Answer { call: u64, payload: Box<[u8]>, error: bool },
    Finished(Box<Finished>),
    Stop,
    Panic,
}

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum OutKind {
    Result = 0,
    Failed = 1,
    HostCall = 2,
    Log = 3,
    Deaf = 4,
    Lost = 5,
}

pub struct Out {
    pub kind: OutKind,
    pub tenant: u64,
    pub id: u64,
    pub payload: Vec<u8>,
    /// A result, until it is taken.
    pub _weight: Option<Weight>,
}

/// Results per wake-up of the Python side, at most.
const BATCH: u32 = 16;

pub struct Shared {
    pub inbox: SegQueue<In>,
    outbox: SegQueue<Out>,
    pub eventfd: i32,
    notified: AtomicBool,
    /// Items in the outbox since the last `flush`.
    unsent: AtomicU32,
    /// The slice is over. Raised by the timer thread, read at each poll.
    flag: AtomicBool,
    /// Grows at each start and end of a slice; odd while one runs.
    turn: AtomicU64,
    ticks_left: AtomicU32,
    /// Length of the next slice, in ticks.
    slice_ms: AtomicU32,
    /// Where the timer thread installs the interrupt; empty between slices.
    callbacks: Mutex<usize>,
    /// The value of `turn` at the timer's last tick.
    seen: AtomicU64,
    timer: &'static Timer,
    /// Grows with each pass of the VM thread's loop; odd while it is awake. The watchdog looks at it.
    pub beat: AtomicU64,
    /// Whose turn it is.
    pub tenant: AtomicU64,
    blame: Option<Blame>,
    /// `OPEN`, or why nothing is accepted any more.
    pub state: AtomicU8,
    pub next_call: AtomicU64,
    pub user: CurrentUser,
    linger: Linger,
    lingered: AtomicU32,
    pub stats: Stats,
}

pub const OPEN: u8 = 0;
pub const CLOSING: u8 = 1;
/// From here on the VM thread looks at nothing any more.
pub const CLOSED: u8 = 2;
pub const FAILED: u8 = 3;

impl Shared {
    pub fn new(eventfd: i32, timer: &'static Timer, slice_ms: u32, blame: Option<Blame>) -> Self {
        Shared {
            inbox: SegQueue::new(),
            outbox: SegQueue::new(),
            eventfd,
            notified: AtomicBool::new(false),
            unsent: AtomicU32::new(0),
            flag: AtomicBool::new(false),
            turn: AtomicU64::new(0),
            ticks_left: AtomicU32::new(0),
            slice_ms: AtomicU32::new(slice_ms),
            callbacks: Mutex::new(0),
            seen: AtomicU64::new(0),
            timer,
            beat: AtomicU64::new(0),
            tenant: AtomicU64::new(0),
            blame,
            state: AtomicU8::new(OPEN),
            user: CurrentUser::default(),
            next_call: AtomicU64::new(1),
            linger: Linger::new(limits::ANSWER_WINDOW),
            lingered: AtomicU32::new(0),
            stats: Stats::default(),
        }
    }

    /// Why nothing is accepted, if so: a code of `errors.py` and a text.
    pub fn refusal(&self) -> Option<(&'static str, &'static str)> {
        match self.state.load(Ordering::SeqCst) {
            OPEN => None,
            CLOSING | CLOSED => Some(("unavailable", "the engine is closed")),
            _ => Some(("internal", "the engine's thread has failed")),
        }
    }

    pub fn fail(&self, tenant: u64, request: u64, code: &str, text: &str) {
        self.push(Out { kind: OutKind::Failed, tenant, id: request, payload: pack::failure(code, text, None), _weight: None });
    }

    /// Answers what is left in the inbox, for a thread that is gone.
    pub fn refuse_inbox(&self) {
        let (code, text) = self.refusal().unwrap_or_default();
        while let Some(item) = self.inbox.pop() {
            match item {
                In::Request { tenant, arrival } => self.fail(tenant, arrival.id, code, text),
                In::Drop { tenant, request } => self.fail(tenant, request, code, text),
                _ => {}
            }
        }
        self.flush();
    }

    // ---- the VM thread's side ------------------------------------------------------------------------

    #[inline]
    pub fn raised(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    pub fn lower(&self) {
        self.flag.store(false, Ordering::Relaxed);
    }

    /// Asks for another flag within this slice, for code that cannot stop yet.
    pub fn rearm(&self) {
        self.ticks_left.store(1, Ordering::Relaxed);
    }

    /// Names who runs from here on, for the supervisor.
    #[inline]
    pub fn accuse(&self, tenant: u64, request: u64) {
        if let Some(blame) = &self.blame {
            blame.set(tenant, request);
        }
    }

    pub fn begin_slice(&self, slice_ms: u32, tenant: u64, callbacks: *mut ffi::lua_Callbacks) {
        self.slice_ms.store(slice_ms, Ordering::Relaxed);
        self.tenant.store(tenant, Ordering::Relaxed);
        self.accuse(tenant, 0);
        self.flag.store(false, Ordering::Relaxed);
        self.ticks_left.store(slice_ms, Ordering::Relaxed);
        *self.callbacks.lock().unwrap_or_else(PoisonError::into_inner) = callbacks as usize;
        self.turn.fetch_add(1, Ordering::SeqCst);
        self.timer.slice_began();
        Stats::add(&self.stats.slices, 1);
    }

    pub fn end_slice(&self) {
        self.flush();
        self.turn.fetch_add(1, Ordering::SeqCst);
        let mut slot = self.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        if *slot != 0 {
            // SAFETY: the VM of this slice is alive, for the slice ends only now.
            unsafe { interrupt_slot(*slot).store(std::ptr::null_mut(), Ordering::Relaxed) };
        }
        *slot = 0;
        drop(slot);
        self.accuse(0, 0);
    }

    /// Ends the slice that a panic has left, if there was one.
    pub fn abandon_slice(&self) {
        if self.turn.load(Ordering::SeqCst) % 2 == 1 {
            self.end_slice();
        }
    }

    /// Work has arrived: a slice that runs may have to end for it.
    pub fn hurry(&self) {
        if self.turn.load(Ordering::Relaxed) % 2 == 1 {
            self.timer.hurry();
        }
    }

    /// Between two tasks of a slice: what the timer would do at its next tick, if that is far away.
    pub fn flush_if_slow(&self) {
        if self.timer.is_slow() {
            self.flush();
        }
    }

    pub fn push(&self, out: Out) {
        self.outbox.push(out);
        if self.unsent.fetch_add(1, Ordering::Release) + 1 >= BATCH {
            self.flush();
        }
    }

    /// Wakes the Python side if something is new. Waking a sleeping core costs more than a whole event,
    /// so this runs per batch, at the end of a slice, and at each tick within a slice.
    pub fn flush(&self) {
        if self.unsent.swap(0, Ordering::AcqRel) > 0 && !self.notified.swap(true, Ordering::AcqRel) {
            let one = 1u64;
            // SAFETY: eight bytes of a local, to a descriptor that this value owns.
            unsafe { libc::write(self.eventfd, (&raw const one).cast(), 8) };
        }
    }

    /// Empties the outbox. The order matters: read the eventfd, clear the mark, then take. Clearing it is a
    /// swap, which makes everything visible that was pushed before the mark was last set.
    pub fn take(&self) -> Vec<Out> {
        let mut n = 0u64;
        // SAFETY: eight bytes of a local, from a descriptor that this value owns and that never blocks.
        unsafe { libc::read(self.eventfd, (&raw mut n).cast(), 8) };
        self.notified.swap(false, Ordering::AcqRel);
        let mut all = Vec::with_capacity(self.outbox.len());
        while let Some(out) = self.outbox.pop() {
            all.push(out);
        }
        all
    }

    /// Looks for output for a moment, awake. True: call `take` at once, for until then nobody writes to the eventfd.
    pub fn linger(&self) -> bool {
        let probe = self.lingered.fetch_add(1, Ordering::Relaxed).is_multiple_of(16);
        if !self.linger.is_worth() && !probe {
            return false;
        }
        if self.notified.swap(true, Ordering::AcqRel) {
            return true;
        }
        let start = Instant::now();
        let came = self.linger.wait(|| !self.outbox.is_empty(), None);
        self.linger.learn(if came { start.elapsed() } else { Duration::MAX });
        if !came {
            self.notified.swap(false, Ordering::AcqRel);
        }
        // What was announced while the mark was set is seen here.
        came || !self.outbox.is_empty()
    }

    // ---- the timer thread's side --------------------------------------------------------------------

    /// The slice that ran at the last tick still runs.
    pub fn lasts(&self) -> bool {
        let turn = self.turn.load(Ordering::SeqCst);
        turn % 2 == 1 && turn == self.seen.load(Ordering::Relaxed)
    }

    /// A slice has begun or ended since the last tick.
    pub fn has_moved(&self) -> bool {
        self.turn.load(Ordering::SeqCst) != self.seen.load(Ordering::Relaxed)
    }

    /// Raises the flag once a slice has lasted its ticks, sooner if others wait. False: nothing runs.
    pub fn tick(&self) -> bool {
        let turn = self.turn.load(Ordering::SeqCst);
        let seen = self.seen.swap(turn, Ordering::Relaxed);
        if turn.is_multiple_of(2) || turn != seen {
            return turn != seen;
        }
        self.flush();
        let left = self.ticks_left.load(Ordering::Relaxed);
        if left > 1 && self.inbox.is_empty() {
            self.ticks_left.store(left - 1, Ordering::Relaxed);
            return true;
        }
        let slot = self.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.turn.load(Ordering::SeqCst) == turn {
            self.flag.store(true, Ordering::Relaxed);
            if *slot != 0 {
                // SAFETY: the slice goes on (`turn`), and cannot end while its end waits for the lock.
                unsafe { interrupt_slot(*slot).store(preempt::interrupt as *mut (), Ordering::Relaxed) };
            }
        }
        true
    }
}

/// Luau allows the interrupt callback, alone among its callbacks, to be set from any thread.
///
/// SAFETY: `callbacks` must be those of a VM that is alive.
unsafe fn interrupt_slot<'a>(callbacks: usize) -> &'a AtomicPtr<()> {
    let callbacks = callbacks as *mut ffi::lua_Callbacks;
    // SAFETY: by the caller; the field is pointer-sized, aligned, and a function pointer or null.
    unsafe { &*(&raw mut (*callbacks).interrupt).cast::<AtomicPtr<()>>() }
}

/// For the VM thread, within a slice: the next poll calls the interrupt. The end of the slice takes it out again.
///
/// SAFETY: as for `interrupt_slot`.
pub unsafe fn install_interrupt(callbacks: *mut ffi::lua_Callbacks) {
    // SAFETY: by the caller.
    unsafe { interrupt_slot(callbacks as usize).store(preempt::interrupt as *mut (), Ordering::Relaxed) };
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: nobody else knows the descriptor any more.
        unsafe { libc::close(self.eventfd) };
    }
}
