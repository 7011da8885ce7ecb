//! What is due: timers, deadlines, idle VMs, buckets that open.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::request::{TIMEOUT, refused};
use crate::stats::Stats;
use crate::tenant::{CHECKS, EVENTS};

/// Alarms between two turns: a thousand idle VMs are evicted while their neighbours go on.
const DUE_AT_ONCE: usize = 64;

impl Engine {
    /// Deals with what is due, a part of it at a time; gives the time of what is next.
    pub fn look_at_clock(&mut self) -> Option<Instant> {
        let first = self.alarms.peek()?.0.0;
        let now = Instant::now();
        if first > now {
            return Some(first);
        }
        for _ in 0..DUE_AT_ONCE {
            let &Reverse((at, key)) = self.alarms.peek()?;
            if at > now {
                return Some(at);
            }
            self.alarms.pop();
            self.due(key, now);
        }
        self.alarms.peek().map(|first| first.0.0)
    }

    fn due(&mut self, key: u64, now: Instant) {
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return;
        };
        if tenant.alarm.is_some_and(|at| at <= now) {
            tenant.alarm = None;
        }
        tenant.bucket.left(now);
        for slot in [EVENTS, CHECKS] {
            tenant.refuse_arrived(&self.shared, slot, |a| a.deadline <= now, |a| refused(a, TIMEOUT, None));
            if let Some(vm) = &tenant.slots[slot].vm {
                vm.fire_timers(now);
                vm.expire(now);
            }
        }
        tenant.count_finished(&self.shared);
        if tenant.used + self.limits.idle_evict <= now && tenant.is_idle() {
            self.evict(key);
        }
        self.end_check(key);
        self.wake(key);
        if !self.forget(key, now) {
            self.arm(key, now);
        }
    }

    /// Closes the VM of a tenant that has neither work nor waits.
    pub fn evict(&mut self, key: u64) {
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return;
        };
        if tenant.slots[EVENTS].vm.is_some() {
            Stats::add(&self.shared.stats.evicted, 1);
        }
        tenant.replace(&self.shared, EVENTS, None, "", "");
    }

    /// Keeps an alarm for a tenant, at the first thing that is due.
    pub fn arm(&mut self, key: u64, now: Instant) {
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return;
        };
        // Never in the past: `look_at_clock` would not come to its end.
        let soonest = now + Duration::from_micros(1);
        if let Some(at) = tenant.due(now, self.limits.idle_evict).map(|at| at.max(soonest))
            && tenant.alarm.is_none_or(|known| at < known)
        {
            self.alarms.push(Reverse((at, key)));
            tenant.alarm = Some(at);
        }
    }
}
