//! The process's allocator: the system's, and a place of its own for the pages of Luau's heaps.
//!
//! A VM takes its memory in pages of 16 or 32 KB, one kind per size of object. Luau writes a page's head at its start and
//! fills it from its end, so a small VM has some thirty pages with a kilobyte or two at their ends and a head that is far
//! away from it. Laid out anywhere, each costs two or three of the system's 4 KB pages; here a page's head shares a 4 KB page
//! with the end of the page before it, and most cost one. What nobody uses any more goes back to the system (`purge`), which
//! a heap with anything alive at its end cannot do.
//!
//! SAFETY, for the whole file: a slot belongs to whoever got it from `take` until `give`; addresses are computed from the
//! one reserved range, which is never unmapped. What is shared is read and written under the lock.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// The sizes of Luau's pages, at the pinned version.
const SMALL: usize = (16 << 10) - 24;
const LARGE: usize = (32 << 10) - 24;
const ALIGN_MAX: usize = 16;

/// The system's pages.
const PAGE: usize = 4 << 10;
/// Slots of a group; each begins a little later in its 4 KB page than the one before, or all heads would lie in the same
/// lines of the processor's cache.
const SLOTS: usize = 32;
const SHIFT: usize = 64;
/// Where the first slot of a group begins in its 4 KB page: far enough for the end of a page before it to have room there.
const START: usize = PAGE / 2;
const ALL_FREE: u32 = u32::MAX;

/// Address space for each size: 3 GiB of VMs fit several times.
const RESERVED: usize = 16 << 30;

/// Slots of one size, in groups.
struct Pool<const SIZE: usize> {
    base: AtomicPtr<u8>,
    start: Once,
    lock: Lock,
    groups: UnsafeCell<Groups>,
}

// SAFETY: `groups` is used under the lock.
unsafe impl<const SIZE: usize> Sync for Pool<SIZE> {}

struct Groups {
    /// One per group, in memory of their own: an allocator cannot allocate. The system makes them as they are touched.
    all: *mut Group,
    used: usize,
    /// The first group with a free slot, by number from 1; 0 for none.
    first: u32,
}

#[derive(Clone, Copy)]
struct Group {
    free: u32,
    /// Of the free ones, those that were used since the last purge.
    dirty: u32,
    next: u32,
}

impl<const SIZE: usize> Pool<SIZE> {
    /// From slot to slot; 24 bytes more than a page, and the shift.
    const STRIDE: usize = SIZE + 24 + SHIFT;
    const GROUP: usize = (START + SLOTS * Self::STRIDE).next_multiple_of(PAGE);
    const GROUPS_MAX: usize = RESERVED / Self::GROUP;

    const fn new() -> Self {
        Pool {
            base: AtomicPtr::new(ptr::null_mut()),
            start: Once::new(),
            lock: Lock(AtomicBool::new(false)),
            groups: UnsafeCell::new(Groups { all: ptr::null_mut(), used: 0, first: 0 }),
        }
    }

    /// The reserved range; null if there is none to be had.
    fn base(&self) -> *mut u8 {
        self.start.call_once(|| {
            // SAFETY: new mappings. The group records lie in a mapping of their own.
            unsafe {
                let (range, records) = (reserve(RESERVED), reserve(Self::GROUPS_MAX * size_of::<Group>()));
                if !range.is_null() && !records.is_null() {
                    (*self.groups.get()).all = records.cast();
                    self.base.store(range, Ordering::Release);
                }
            }
        });
        self.base.load(Ordering::Acquire)
    }

    fn take(&self) -> *mut u8 {
        let base = self.base();
        if base.is_null() {
            return ptr::null_mut();
        }
        let _held = self.lock.hold();
        // SAFETY: under the lock.
        unsafe {
            let groups = &mut *self.groups.get();
            if groups.first == 0 {
                if groups.used == Self::GROUPS_MAX {
                    return ptr::null_mut();
                }
                groups.all.add(groups.used).write(Group { free: ALL_FREE, dirty: 0, next: 0 });
                groups.used += 1;
                groups.first = groups.used as u32;
            }
            let number = groups.first as usize - 1;
            let group = &mut *groups.all.add(number);
            // What is in memory already comes first; else the slots in their order.
            let slot = if group.dirty != 0 { group.dirty } else { group.free }.trailing_zeros();
            group.free &= !(1 << slot);
            group.dirty &= !(1 << slot);
            if group.free == 0 {
                groups.first = group.next;
            }
            base.add(number * Self::GROUP + START + slot as usize * Self::STRIDE)
        }
    }

    /// Takes a slot back. False: the address is none of ours.
    fn give(&self, at: *mut u8) -> bool {
        let base = self.base.load(Ordering::Acquire);
        let offset = (at as usize).wrapping_sub(base as usize);
        if base.is_null() || offset >= RESERVED {
            return false;
        }
        let (number, slot) = (offset / Self::GROUP, (offset % Self::GROUP - START) / Self::STRIDE);
        let _held = self.lock.hold();
        // SAFETY: under the lock; the address came from `take`.
        unsafe {
            let groups = &mut *self.groups.get();
            let group = &mut *groups.all.add(number);
            if group.free == 0 {
                group.next = groups.first;
                groups.first = number as u32 + 1;
            }
            group.free |= 1 << slot;
            group.dirty |= 1 << slot;
        }
        true
    }

    /// Gives the memory of free slots back to the system, a group at a time.
    fn purge(&self) {
        let base = self.base.load(Ordering::Acquire);
        let mut number = 0;
        while !base.is_null() {
            // For one group only: whoever needs a page waits for this.
            let _held = self.lock.hold();
            // SAFETY: under the lock, so that the slots stay free; the range of a run is inside the group's.
            unsafe {
                let groups = &mut *self.groups.get();
                if number == groups.used {
                    return;
                }
                let group = &mut *groups.all.add(number);
                let start = base.add(number * Self::GROUP);
                number += 1;
                let mut left = if group.dirty == 0 { 0 } else { group.free };
                while left != 0 {
                    let first = left.trailing_zeros() as usize;
                    let count = (left >> first).trailing_ones() as usize;
                    let run = (ALL_FREE >> (SLOTS - count)) << first;
                    left &= !run;
                    if group.dirty & run != 0 {
                        release(start, Self::bounds(first, count));
                        group.dirty &= !run;
                    }
                }
            }
        }
    }

    /// The 4 KB pages that nothing but a run of free slots lies in.
    fn bounds(first: usize, count: usize) -> (usize, usize) {
        let from = if first == 0 { 0 } else { (START + first * Self::STRIDE).next_multiple_of(PAGE) };
        let end = first + count;
        let to = if end == SLOTS { Self::GROUP } else { (START + end * Self::STRIDE) / PAGE * PAGE };
        (from, to)
    }
}

unsafe fn reserve(bytes: usize) -> *mut u8 {
    let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, kind, -1, 0) };
    if at == libc::MAP_FAILED { ptr::null_mut() } else { at.cast() }
}

unsafe fn release(start: *mut u8, (from, to): (usize, usize)) {
    if from < to {
        // SAFETY: by the caller.
        unsafe { libc::madvise(start.add(from).cast(), to - from, libc::MADV_DONTNEED) };
    }
}

// ---- the lock -----------------------------------------------------------------------------------------

/// Held for some instructions, or for one call of the system. A process that is forked finds it open.
struct Lock(AtomicBool);

struct Held<'a>(&'a Lock);

impl Lock {
    fn hold(&self) -> Held<'_> {
        let mut tries = 0u32;
        while self.0.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            tries += 1;
            if tries.is_multiple_of(64) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

static SMALL_PAGES: Pool<SMALL> = Pool::new();
static LARGE_PAGES: Pool<LARGE> = Pool::new();

extern "C" fn before_fork() {
    std::mem::forget(SMALL_PAGES.lock.hold());
    std::mem::forget(LARGE_PAGES.lock.hold());
}

extern "C" fn after_fork() {
    drop(Held(&SMALL_PAGES.lock));
    drop(Held(&LARGE_PAGES.lock));
}

/// Before the first VM is made: no fork happens while a lock is held.
pub fn guard_forks() {
    static ONCE: Once = Once::new();
    // SAFETY: functions that live as long as the process, as long as the module is not unloaded, which Python never does.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork));
    });
}

/// Gives free pages back to the system. Takes some microseconds per VM that was closed; not for VM threads.
pub fn purge() {
    SMALL_PAGES.purge();
    LARGE_PAGES.purge();
}

// ---- the allocator ------------------------------------------------------------------------------------

pub struct Allocator;

fn is_page(layout: Layout) -> bool {
    (layout.size() == SMALL || layout.size() == LARGE) && layout.align() <= ALIGN_MAX
}

// SAFETY: a block is freed by its layout's size and its address the way it was made.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_page(layout) {
            let at = if layout.size() == SMALL { SMALL_PAGES.take() } else { LARGE_PAGES.take() };
            if !at.is_null() {
                return at;
            }
        }
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if !is_page(layout) {
                return System.alloc_zeroed(layout);
            }
            let at = self.alloc(layout);
            if !at.is_null() {
                ptr::write_bytes(at, 0, layout.size());
            }
            at
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if is_page(layout) && (if layout.size() == SMALL { SMALL_PAGES.give(at) } else { LARGE_PAGES.give(at) }) {
            return;
        }
        // SAFETY: the caller's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's; the new block has the old one's alignment.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            if !is_page(layout) && !is_page(new) {
                return System.realloc(at, layout, size);
            }
            let to = self.alloc(new);
            if !to.is_null() {
                ptr::copy_nonoverlapping(at, to, layout.size().min(size));
                self.dealloc(at, layout);
            }
            to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_lie_apart_and_come_back() {
        static POOL: Pool<SMALL> = Pool::new();
        let mut all: Vec<usize> = (0..100).map(|_| POOL.take() as usize).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|two| two[1] - two[0] >= SMALL));
        assert!(all.iter().all(|at| at % ALIGN_MAX == 0));
        for at in &all {
            // SAFETY: a slot of SMALL bytes.
            unsafe { ptr::write_bytes(*at as *mut u8, 7, SMALL) };
        }
        for at in all.iter().skip(1).step_by(2) {
            assert!(POOL.give(*at as *mut u8));
        }
        POOL.purge();
        for at in all.iter().step_by(2) {
            // SAFETY: a slot of SMALL bytes that is still ours.
            assert!(unsafe { std::slice::from_raw_parts(*at as *const u8, SMALL) }.iter().all(|byte| *byte == 7));
        }
        let again: Vec<usize> = (0..50).map(|_| POOL.take() as usize).collect();
        assert!(again.iter().all(|at| all.contains(at)));
        assert!(!POOL.give(ptr::from_ref(&all).cast_mut().cast()));
    }

    #[test]
    fn a_block_keeps_its_bytes_when_it_becomes_a_page_and_back() {
        let mut block: Vec<u8> = Vec::with_capacity(SMALL - 100);
        block.extend((0..SMALL - 100).map(|i| i as u8));
        for size in [SMALL, SMALL + 8, LARGE, SMALL, 100_000] {
            block.reserve_exact(size.saturating_sub(block.len()));
            block.shrink_to(size);
            assert!(block.iter().enumerate().all(|(i, byte)| *byte == i as u8));
        }
    }
}
