//! One tenant's turn: a VM for it, one slice, and what follows from how that went.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::limits;
use crate::msgpack;
use crate::request::{End, LIMIT_EXCEEDED, SHED};
use crate::scheduler;
use crate::shared::{Out, OutKind};
use crate::stats::Stats;
use crate::tenant::{CHECKS, EVENTS};
use crate::thread::Task;
use crate::vm::{Vm, thread_cpu_time};

impl Engine {
    /// Queues a tenant that has work, unless its slice has just ended: then `again` does it.
    pub fn wake(&mut self, key: u64) {
        if let Some(tenant) = self.tenants.get_mut(&key)
            && self.again != Some(key)
            && tenant.has_work()
        {
            self.turns.wake(key, &mut tenant.place);
        }
    }

    pub fn turn(&mut self, key: u64) {
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return;
        };
        let now = Instant::now();
        let Some(slot) = tenant.next_slot() else {
            // Its work was taken away while it waited for its turn.
            tenant.bucket.set_busy(false, now);
            return self.arm(key, now);
        };
        tenant.last = slot;
        tenant.used = now;
        let allowance = tenant.bucket.left(now);
        if allowance.is_zero() {
            self.starve(key);
            return self.arm(key, now);
        }
        let first_call = self.shared.next_call.load(Ordering::Relaxed);
        // With others ready a slice is as short as the timer allows.
        let slice_ms = if self.turns.is_empty() { self.limits.slice_ms } else { 1 };
        let start = self.cpu;
        let ran = match self.vm_for(key, slot) {
            Ok(true) => self.slice(key, slot, slice_ms, start, allowance),
            Ok(false) => Ok(()),
            Err(text) => Err(text),
        };
        for call in first_call..self.shared.next_call.load(Ordering::Relaxed) {
            self.call_owner.insert(call, (key, slot));
        }
        if let Err(text) = ran {
            self.replace(key, slot, None, "internal", &text);
        }
        self.after_turn(key, slot);
    }

    /// Gives the slot a VM with something to do. False: there is nothing to do after all.
    fn vm_for(&mut self, key: u64, slot: usize) -> Result<bool, String> {
        if self.tenants.get(&key).is_some_and(|t| t.slots[slot].vm.is_none()) && !self.has_room() {
            if let Some(tenant) = self.tenants.get_mut(&key) {
                tenant.refuse_all_arrived(&self.shared, slot, SHED, Some(limits::MEMORY_BUDGET));
            }
            return Ok(false);
        }
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return Ok(false);
        };
        let (program, results, jobs) = (tenant.program.clone(), tenant.results.clone(), tenant.jobs.clone());
        let held = &mut tenant.slots[slot];
        if held.vm.is_none() {
            let vm = Vm::new(key, results, jobs, self.shared.clone(), self.limits.clone(), slot == CHECKS)?;
            vm.program.replace(program);
            held.vm = Some(vm);
        }
        let Some(vm) = &held.vm else { return Ok(false) };
        match slot {
            EVENTS => {
                while vm.opening.admits()
                    && let Some(arrival) = held.arrived.pop_front()
                {
                    vm.opening.begin(&arrival, vm.limits.opening);
                    vm.ready.borrow_mut().push_back(Task::Start(arrival));
                }
            }
            // One check at a time: its VM is its own.
            _ if vm.is_idle() => vm.ready.borrow_mut().extend(held.arrived.pop_front().map(Task::Start)),
            _ => {}
        }
        Ok(!vm.ready.borrow().is_empty())
    }

    /// Runs one slice. An error is the engine's own failure.
    fn slice(&mut self, key: u64, slot: usize, slice_ms: u32, start: Duration, allowance: Duration) -> Result<(), String> {
        let Some(vm) = self.tenants.get(&key).and_then(|t| t.slots[slot].vm.as_ref()) else {
            return Ok(());
        };
        let ran = catch_unwind(AssertUnwindSafe(|| vm.run_slice(slice_ms, start, allowance)));
        ran.map_err(|_| {
            scheduler::leave();
            self.shared.abandon_slice();
            "the engine failed in this tenant's code; its VM was replaced".to_string()
        })
    }

    fn after_turn(&mut self, key: u64, slot: usize) {
        let now_cpu = thread_cpu_time();
        let used = now_cpu.saturating_sub(std::mem::replace(&mut self.cpu, now_cpu));
        let mut dead = false;
        if let Some(tenant) = self.tenants.get_mut(&key) {
            tenant.place.charge(used);
            tenant.bucket.charge(used);
            tenant.count_finished(&self.shared);
            let held = &mut tenant.slots[slot];
            held.weigh(&self.shared);
            dead = held.vm.as_ref().is_some_and(|vm| vm.dead.get());
        }
        if dead {
            self.replace(key, slot, Some(|| End::Limit(limits::MEMORY, limits::MEMORY_TEXT.into())), "", "");
        } else if slot == CHECKS {
            self.end_check(key);
        }
        let now = Instant::now();
        if let Some(tenant) = self.tenants.get_mut(&key) {
            let more = tenant.has_work();
            tenant.bucket.set_busy(more, now);
            if more {
                self.again = Some(key);
            }
        }
        self.arm(key, now);
        self.relieve();
    }

    /// A check's VM goes with the check.
    pub fn end_check(&mut self, key: u64) {
        if self.tenants.get(&key).and_then(|t| t.slots[CHECKS].vm.as_ref()).is_some_and(|vm| vm.requests.borrow().is_empty()) {
            self.replace(key, CHECKS, Some(|| End::Cancelled(None)), "", "");
        }
    }

    /// Replaces a VM, and tells the host if it was one for events: what its templates kept in memory is lost.
    pub fn replace(&mut self, key: u64, slot: usize, end: Option<fn() -> End>, code: &str, text: &str) {
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return;
        };
        if slot == EVENTS && tenant.slots[slot].vm.is_some() {
            Stats::add(&self.shared.stats.replaced, 1);
            let mut payload = Vec::new();
            msgpack::nil(&mut payload);
            self.shared.push(Out { kind: OutKind::Lost, tenant: key, id: 0, payload, _weight: None });
        }
        let calls = tenant.replace(&self.shared, slot, end, code, text);
        for call in calls {
            self.call_owner.remove(&call);
        }
    }

    pub fn starve(&mut self, key: u64) {
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return;
        };
        for slot in [EVENTS, CHECKS] {
            tenant.refuse_all_arrived(&self.shared, slot, LIMIT_EXCEEDED, Some(limits::CPU));
            if let Some(vm) = &tenant.slots[slot].vm {
                vm.starve();
            }
        }
        tenant.count_finished(&self.shared);
        self.end_check(key);
    }
}
