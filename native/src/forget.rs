//! When an engine forgets a tenant: its entry holds what only matters while the tenant is in use, and its debts.
//!
//! A tenant that is new has a full bucket and owes no rounds. So one without templates, VM and requests can go as soon as
//! that holds for it too: its next event makes the same entry again, and nothing was given to it.
//!
//! Nobody looks for such tenants. Each one that is not in use has its place in the queue of turns or an alarm (`clock.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::engine::Engine;
use crate::request::{CANCELLED, End};
use crate::tenant::{CHECKS, EVENTS, Tenant};

/// A tenant that is not in use is looked at so much later: what it still has to wait for tells nobody when it ends, such as
/// a job, or a result that is not taken yet.
const PAUSE: Duration = Duration::from_millis(250);
/// A collection that holds less than this part of what it has room for, and has room for more than `ROOM_MIN`, shrinks.
const SPARSE: usize = 8;
const ROOM_MIN: usize = 1024;

/// The room that a collection should be cut to, if it is sparse. It doubles at least three times before it is full and
/// shrinks again, so that moving what it holds costs each of its items little.
pub fn room_for(len: usize, capacity: usize) -> Option<usize> {
    (capacity > ROOM_MIN && len < capacity / SPARSE).then(|| (2 * len).max(ROOM_MIN / 2))
}

impl Tenant {
    /// Neither templates nor a VM nor requests.
    pub fn is_unused(&self) -> bool {
        self.program.is_none() && self.open == 0 && self.slots.iter().all(|slot| slot.vm.is_none())
    }

    /// Jobs, results that are not taken and VMs that are not closed yet still count for it.
    fn is_counted(&self) -> bool {
        Arc::strong_count(&self.jobs) > 1 || Arc::strong_count(&self.results) > 1 || Arc::strong_count(&self.open_bytes) > 1
    }

    /// When to look whether it can be forgotten, if it is unused; never for a debt that nothing pays.
    pub fn forgettable_at(&self, now: Instant) -> Option<Instant> {
        if self.is_unused() { self.bucket.fills().map(|full| full.max(now + PAUSE)) } else { None }
    }
}

impl Engine {
    /// The tenant's entry, made if there is none.
    pub fn tenant(&mut self, key: u64) -> &mut Tenant {
        self.tenants.entry(key).or_insert_with(|| {
            self.shared.stats.tenants.fetch_add(1, Ordering::Relaxed);
            Tenant::new(key, self.turns.place(), Bucket::new(self.limits.cpu_bucket, self.limits.cpu_refill_percent))
        })
    }

    /// Forgets a tenant that is unused and owes nothing. Whether there is none now.
    pub fn forget(&mut self, key: u64, now: Instant) -> bool {
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return true;
        };
        if !tenant.is_unused() || tenant.is_counted() || !tenant.bucket.is_full(now) || !self.turns.is_settled(&mut tenant.place) {
            return false;
        }
        self.tenants.remove(&key);
        self.shared.stats.tenants.fetch_sub(1, Ordering::Relaxed);
        if let Some(room) = room_for(self.tenants.len(), self.tenants.capacity()) {
            self.tenants.shrink_to(room);
        }
        if let Some(room) = room_for(self.alarms.len(), self.alarms.capacity()) {
            self.alarms.shrink_to(room);
        }
        true
    }

    /// Forgets a tenant that is unused, now or when its alarm says so.
    pub fn forget_soon(&mut self, key: u64) {
        let now = Instant::now();
        if !self.forget(key, now) {
            self.arm(key, now);
        }
    }

    /// Ends everything of the tenant.
    pub fn drop_tenant(&mut self, key: u64) {
        let Some(tenant) = self.tenants.get_mut(&key) else {
            return;
        };
        tenant.program = None;
        for slot in [EVENTS, CHECKS] {
            let calls = tenant.replace(&self.shared, slot, Some(|| End::Cancelled(Some("dropped"))), "", "");
            for call in calls {
                self.call_owner.remove(&call);
            }
            tenant.refuse_all_arrived(&self.shared, slot, CANCELLED, None);
        }
        self.forget_soon(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turns::Turns;

    const FULL: Duration = Duration::from_millis(100);

    fn tenant(turns: &Turns) -> Tenant {
        Tenant::new(1, turns.place(), Bucket::new(FULL, 10))
    }

    #[test]
    fn an_unused_tenant_is_looked_at_when_its_debt_is_paid() {
        let mut tenant = tenant(&Turns::default());
        let now = Instant::now();
        assert_eq!(tenant.forgettable_at(now), Some(now + PAUSE));
        tenant.bucket.charge(FULL * 3);
        let paid = tenant.forgettable_at(now).expect("it is unused");
        assert!(paid >= now + FULL * 29, "30 times a tenth of what it used, less the time of this test");
        assert!(!tenant.bucket.is_full(paid - Duration::from_millis(1)));
        assert!(tenant.bucket.is_full(paid));
        tenant.open = 1;
        assert_eq!(tenant.forgettable_at(now), None);
    }

    #[test]
    fn a_debt_that_nothing_pays_stays() {
        let mut tenant = Tenant::new(1, Turns::default().place(), Bucket::new(FULL, 0));
        let now = Instant::now();
        assert!(tenant.forgettable_at(now).is_some());
        tenant.bucket.charge(Duration::from_nanos(1));
        assert_eq!(tenant.forgettable_at(now), None);
    }

    #[test]
    fn what_others_hold_of_a_tenant_keeps_it() {
        let tenant = tenant(&Turns::default());
        assert!(!tenant.is_counted());
        for counter in [&tenant.results, &tenant.open_bytes] {
            let held = counter.clone();
            assert!(tenant.is_counted());
            drop(held);
        }
        let job = tenant.jobs.clone();
        assert!(tenant.is_counted());
        drop(job);
        assert!(!tenant.is_counted());
    }

    #[test]
    fn who_owes_rounds_or_waits_for_a_turn_is_not_settled() {
        let mut turns = Turns::default();
        let mut tenant = tenant(&turns);
        assert!(turns.is_settled(&mut tenant.place));
        tenant.place.charge(Duration::from_millis(30));
        assert!(!turns.is_settled(&mut tenant.place));
        for _ in 0..2 {
            assert_eq!(turns.next(|_, _| true), None);
        }
        assert!(turns.is_settled(&mut tenant.place));
        turns.wake(1, &mut tenant.place);
        assert!(!turns.is_settled(&mut tenant.place));
    }

    #[test]
    fn what_is_sparse_shrinks_and_has_room_to_grow() {
        assert_eq!(room_for(0, ROOM_MIN), None);
        assert_eq!(room_for(1000, 8000), None);
        assert_eq!(room_for(999, 8000), Some(1998));
        assert_eq!(room_for(0, 8000), Some(ROOM_MIN / 2));
    }
}
