//! What an engine knows about a tenant; outlives its VMs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::bucket::Bucket;
use crate::offload::Account;
use crate::program::Program;
use crate::reaper;
use crate::request::{Answer, Arrival, End, Weight, refused};
use crate::shared::{Out, Shared};
use crate::stats::Stats;
use crate::thread::Task;
use crate::turns::Place;
use crate::vm::Vm;

/// A tenant's VM for its events, or the one in which a template is checked.
#[derive(Default)]
pub struct Slot {
    pub vm: Option<Box<Vm>>,
    /// Requests that found no VM, which is made in the tenant's own turn, or one whose first event runs alone.
    pub arrived: VecDeque<Box<Arrival>>,
    /// What the VM held at the end of its last slice.
    pub bytes: usize,
}

/// Payloads of one tenant's requests that have no answer yet.
const QUEUE_BYTES_MAX: usize = 16 << 20;

pub const EVENTS: usize = 0;
pub const CHECKS: usize = 1;

pub struct Tenant {
    pub key: u64,
    pub slots: [Slot; 2],
    /// The slot that ran last: the other one is next.
    pub last: usize,
    pub program: Option<Arc<Program>>,
    /// Requests that have no answer yet.
    pub open: usize,
    /// What the payloads of these hold.
    pub open_bytes: Arc<AtomicUsize>,
    pub place: Place,
    pub bucket: Bucket,
    /// The engine looks at this tenant at this time, or sooner.
    pub alarm: Option<Instant>,
    pub used: Instant,
    /// Bytes of results that are not taken yet.
    pub results: Arc<AtomicUsize>,
    /// What its jobs on background threads hold and may use.
    pub jobs: Arc<Account>,
}

impl Slot {
    pub fn has_work(&self) -> bool {
        (!self.arrived.is_empty() && self.admits()) || self.vm.as_ref().is_some_and(|vm| !vm.ready.borrow().is_empty())
    }

    /// Whether what has arrived may start.
    pub fn admits(&self) -> bool {
        self.vm.as_ref().is_none_or(|vm| vm.opening.admits())
    }

    /// Notes how much the VM holds now, here and in the engine's sum.
    pub fn weigh(&mut self, shared: &Shared) {
        let bytes = self.vm.as_ref().map_or(0, |vm| vm.resident_bytes());
        let sum = shared.stats.bytes.load(Ordering::Relaxed) + bytes - self.bytes;
        shared.stats.bytes.store(sum, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Tenant {
    pub fn new(key: u64, place: Place, bucket: Bucket) -> Self {
        Tenant {
            key,
            slots: Default::default(),
            last: CHECKS,
            program: None,
            open: 0,
            open_bytes: Arc::default(),
            place,
            bucket,
            alarm: None,
            used: Instant::now(),
            results: Arc::default(),
            jobs: Arc::default(),
        }
    }

    pub fn has_work(&self) -> bool {
        self.slots.iter().any(Slot::has_work)
    }

    /// The slot whose turn it is.
    pub fn next_slot(&self) -> Option<usize> {
        let other = 1 - self.last;
        [other, self.last].into_iter().find(|&slot| self.slots[slot].has_work())
    }

    /// Whether another request fits into the queue.
    pub fn has_room_for(&self, arrival: &Arrival, events_max: usize) -> bool {
        self.open < events_max && self.open_bytes.load(Ordering::Relaxed) + arrival.bytes() <= QUEUE_BYTES_MAX
    }

    pub fn queue(&mut self, shared: &Shared, slot: usize, mut arrival: Box<Arrival>) {
        arrival.weight = Some(Weight::new(arrival.bytes(), &self.open_bytes));
        self.open += 1;
        shared.stats.queued.fetch_add(1, Ordering::Relaxed);
        let slot = &mut self.slots[slot];
        match &slot.vm {
            // A check's VM is made anew for each check.
            Some(vm) if !arrival.is_check() && slot.arrived.is_empty() && vm.opening.admits() => {
                vm.opening.begin(&arrival, vm.limits.opening);
                vm.ready.borrow_mut().push_back(Task::Start(arrival));
            }
            _ => slot.arrived.push_back(arrival),
        }
    }

    /// Answers everything that has not started and matches.
    pub fn refuse_arrived(&mut self, shared: &Shared, slot: usize, which: impl Fn(&Arrival) -> bool, answer: impl Fn(&Arrival) -> Answer) {
        let (gone, kept): (VecDeque<_>, _) = std::mem::take(&mut self.slots[slot].arrived).into_iter().partition(|a| which(a));
        self.slots[slot].arrived = kept;
        self.close(shared, gone.len());
        for arrival in gone {
            push_answer(shared, self.key, arrival.id, answer(&arrival));
        }
    }

    pub fn refuse_all_arrived(&mut self, shared: &Shared, slot: usize, outcome: u8, limit: Option<&'static str>) {
        self.refuse_arrived(shared, slot, |_| true, |arrival| refused(arrival, outcome, limit));
    }

    /// Counts the answers that the VMs have given. Due before a VM is replaced, too.
    pub fn count_finished(&mut self, shared: &Shared) {
        let finished = self.slots.iter().filter_map(|slot| slot.vm.as_ref()).map(|vm| vm.finished.take()).sum();
        self.close(shared, finished);
    }

    /// So many requests have got their answers.
    pub fn close(&mut self, shared: &Shared, requests: usize) {
        if requests > 0 {
            self.open -= requests;
            shared.stats.queued.fetch_sub(requests, Ordering::Relaxed);
        }
    }

    /// Takes a slot's VM away to be closed. Its requests end with `end`, or with a failure; those that have not
    /// started wait for the next VM. Gives the host calls that nobody waits for any more.
    pub fn replace(&mut self, shared: &Shared, slot: usize, end: Option<fn() -> End>, code: &str, text: &str) -> Vec<u64> {
        let Some(vm) = self.slots[slot].vm.take() else { return Vec::new() };
        let held = &mut self.slots[slot];
        for arrival in vm.give_up(end, code, text).into_iter().rev() {
            held.arrived.push_front(arrival);
        }
        let calls = vm.calls.borrow().keys().copied().collect();
        let finished = vm.finished.take();
        held.weigh(shared);
        reaper::bury(vm);
        self.close(shared, finished);
        calls
    }

    /// Something still runs or waits for this tenant.
    pub fn is_idle(&self) -> bool {
        !self.has_work() && self.slots.iter().filter_map(|slot| slot.vm.as_ref()).all(|vm| vm.is_idle())
    }

    /// The next time at which something is due. A tenant that could be evicted, but for what it waits for, is looked at
    /// again at the end of its next turn.
    pub fn due(&self, now: Instant, idle_evict: std::time::Duration) -> Option<Instant> {
        let mut due = None;
        let mut sooner = |at: Option<Instant>| due = due.into_iter().chain(at).min();
        for slot in &self.slots {
            sooner(slot.arrived.iter().map(|a| a.deadline).min());
            if let Some(vm) = &slot.vm {
                sooner(vm.timers.borrow().peek().map(|t| t.at));
                sooner(vm.deadline.get());
                sooner(vm.opening.until().filter(|_| !slot.arrived.is_empty()));
                sooner(Some(self.used + idle_evict).filter(|at| *at > now));
            }
        }
        if self.has_work() {
            sooner(self.bucket.opens());
        }
        sooner(self.forgettable_at(now));
        due
    }
}

pub fn push_answer(shared: &Shared, tenant: u64, request: u64, answer: Answer) {
    let (kind, payload) = answer.into_parts();
    shared.push(Out { kind, tenant, id: request, payload, _weight: None });
}

/// Refuses a request before it reached a tenant's queue.
pub fn shed(shared: &Shared, tenant: u64, arrival: &Arrival, outcome: u8, limit: Option<&'static str>) {
    if limit.is_some() {
        Stats::add(&shared.stats.shed, 1);
    }
    push_answer(shared, tenant, arrival.id, refused(arrival, outcome, limit));
}
