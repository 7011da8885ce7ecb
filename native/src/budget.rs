//! Memory of all VMs of an engine: who goes when there is too little of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::limits::{BUDGET_TEXT, MEMORY_BUDGET};
use crate::request::End;
use crate::tenant::EVENTS;

/// What an empty VM holds, about.
const VM_BYTES: usize = 256 << 10;
/// Under pressure that cannot be relieved, look again this much later.
const PAUSE: Duration = Duration::from_millis(5);
/// This part of the budget is freed beyond what is wanted, if idle VMs hold it.
const MARGIN: usize = 8;

impl Engine {
    /// After a turn: makes room if the VMs hold more than the budget.
    pub fn relieve(&mut self) {
        let budget = self.limits.memory_budget_bytes;
        if budget > 0 && self.shared.stats.bytes.load(Ordering::Relaxed) > budget {
            self.make_room(0);
        }
    }

    /// Evicts idle VMs, the longest unused first; then replaces those over their fair share, the largest first; until
    /// `wanted` bytes fit.
    pub fn make_room(&mut self, wanted: usize) {
        let now = Instant::now();
        if now < self.relieve_at {
            return;
        }
        self.relieve_at = now + PAUSE;
        // More than is wanted, so that the next ones find room without a look at every tenant.
        let budget = self.limits.memory_budget_bytes;
        let goal = budget.saturating_sub(wanted + budget / MARGIN);
        let mut idle = Vec::new();
        let mut busy = Vec::new();
        for tenant in self.tenants.values().filter(|t| t.slots[EVENTS].vm.is_some()) {
            let bytes = tenant.slots[EVENTS].bytes;
            match tenant.is_idle() {
                true => idle.push((tenant.used, tenant.key)),
                false => busy.push((bytes, tenant.key)),
            }
        }
        let fair = budget / (idle.len() + busy.len()).max(1);
        idle.sort_unstable();
        for (_, key) in idle {
            if self.held() <= goal {
                return;
            }
            self.evict(key);
            self.arm(key, now);
        }
        busy.sort_unstable_by(|a, b| b.cmp(a));
        for (bytes, key) in busy {
            if self.held() + wanted <= budget || bytes <= fair {
                return;
            }
            self.replace(key, EVENTS, Some(|| End::Limit(MEMORY_BUDGET, BUDGET_TEXT.into())), "", "");
            // What waited for the first event of this VM (`opening.rs`) can start in another.
            self.wake(key);
        }
    }

    fn held(&self) -> usize {
        self.shared.stats.bytes.load(Ordering::Relaxed)
    }

    /// Whether a new VM may be made, after making room for it if need be.
    pub fn has_room(&mut self) -> bool {
        let budget = self.limits.memory_budget_bytes;
        if budget == 0 {
            return true;
        }
        if !self.fits(budget) {
            self.make_room(VM_BYTES);
        }
        self.fits(budget)
    }

    /// Whether one more VM fits. What is being closed counts only once it is much: the reaper needs its time.
    fn fits(&self, budget: usize) -> bool {
        let stats = &self.shared.stats;
        let closing = stats.closing_bytes.load(Ordering::Relaxed);
        stats.bytes.load(Ordering::Relaxed) + VM_BYTES <= budget && closing <= budget / 4
    }
}
