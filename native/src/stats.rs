//! What an engine counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Default)]
pub struct Stats {
    /// Those that the engine keeps something of.
    pub tenants: AtomicUsize,
    pub vms: AtomicUsize,
    pub slices: AtomicU64,
    pub preempted: AtomicU64,
    pub bytes: AtomicUsize,
    pub events: AtomicU64,
    pub evicted: AtomicU64,
    pub replaced: AtomicU64,
    pub queued: AtomicUsize,
    pub shed: AtomicU64,
    pub logs_dropped: AtomicU64,
    /// VMs that wait for the reaper, and what they hold.
    pub closing: AtomicUsize,
    pub closing_bytes: AtomicUsize,
}

impl Stats {
    /// For Python, by name.
    pub fn all(&self) -> [(&'static str, u64); 13] {
        let big = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let size = |n: &AtomicUsize| n.load(Ordering::Relaxed) as u64;
        [
            ("tenants", size(&self.tenants)),
            ("vms", size(&self.vms).saturating_sub(size(&self.closing))),
            ("slices", big(&self.slices)),
            ("preempted", big(&self.preempted)),
            ("bytes", size(&self.bytes)),
            ("events", big(&self.events)),
            ("evicted", big(&self.evicted)),
            ("replaced", big(&self.replaced)),
            ("queued", size(&self.queued)),
            ("shed", big(&self.shed)),
            ("logs_dropped", big(&self.logs_dropped)),
            ("closing", size(&self.closing)),
            ("closing_bytes", size(&self.closing_bytes)),
        ]
    }

    /// For counters that only the VM thread writes: cheaper than a locked addition.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }
}
