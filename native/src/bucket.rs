//! CPU time that a tenant may use: filled at a steady rate up to a limit, below zero after an overrun.
//!
//! Nothing flows in while the tenant's work waits for its next slice. Otherwise ten tenants that never end, each with a
//! tenth of the thread, would live on what flows back and never meet the limit.

use std::time::{Duration, Instant};

/// An empty bucket opens again once this fraction of it has flowed back, so that what starts then has time to
/// do something. Without it, an event would be let in for microseconds and ended at its first poll.
const OPENS_AT: i64 = 100;

pub struct Bucket {
    left: i64,
    full: i64,
    percent: i64,
    drained: bool,
    /// The tenant has work that is cut into slices: nothing flows in.
    busy: bool,
    at: Instant,
}

impl Bucket {
    /// `percent` of a core flows in.
    pub fn new(full: Duration, percent: u32) -> Self {
        let full = i64::try_from(full.as_nanos()).unwrap_or(i64::MAX);
        Bucket { left: full, full, percent: percent.into(), drained: false, busy: false, at: Instant::now() }
    }

    fn refill(&mut self, now: Instant) {
        if !self.busy {
            let gained = now.saturating_duration_since(self.at).as_nanos() as i64 / 100 * self.percent;
            self.left = self.left.saturating_add(gained).min(self.full);
        }
        self.at = now;
        self.drained &= self.left < self.full / OPENS_AT;
    }

    /// What may be used now; nothing while the bucket is empty.
    pub fn left(&mut self, now: Instant) -> Duration {
        self.refill(now);
        if self.drained { Duration::ZERO } else { Duration::from_nanos(self.left.max(0) as u64) }
    }

    /// After a turn: whether work is left for another one. An empty bucket fills all the same, for nothing can run.
    pub fn set_busy(&mut self, busy: bool, now: Instant) {
        self.refill(now);
        self.busy = busy && !self.drained;
    }

    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == self.full
    }

    /// When an empty bucket opens, if it is empty and ever does.
    pub fn opens(&self) -> Option<Instant> {
        if !self.drained || self.percent == 0 {
            return None;
        }
        let missing = (self.full / OPENS_AT - self.left).max(0);
        Some(self.at + Duration::from_nanos((missing / self.percent + 1) as u64 * 100))
    }

    /// When it is full, if it ever is and no work keeps it from filling.
    pub fn fills(&self) -> Option<Instant> {
        let missing = self.full - self.left;
        if missing == 0 {
            return Some(self.at);
        }
        (self.percent > 0).then(|| self.at + Duration::from_nanos((missing / self.percent + 1) as u64 * 100))
    }

    pub fn charge(&mut self, used: Duration) {
        self.left -= used.as_nanos() as i64;
        self.drained |= self.left <= 0;
        self.busy &= !self.drained;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_bucket_opens_when_a_hundredth_is_back() {
        let mut bucket = Bucket::new(Duration::from_millis(1000), 10);
        let start = bucket.at;
        assert_eq!(bucket.left(start), Duration::from_millis(1000));
        bucket.charge(Duration::from_millis(1005));
        assert_eq!(bucket.left(start), Duration::ZERO);
        let opens = bucket.opens().expect("it is empty");
        assert_eq!(bucket.left(opens - Duration::from_millis(1)), Duration::ZERO);
        assert!(bucket.left(opens) >= Duration::from_millis(10));
        assert!(bucket.opens().is_none());
    }
    #[test]
    fn nothing_flows_in_while_work_waits_for_its_next_slice() {
        let mut bucket = Bucket::new(Duration::from_millis(1000), 10);
        let start = bucket.at;
        bucket.charge(Duration::from_millis(500));
        bucket.set_busy(true, start);
        assert_eq!(bucket.left(start + Duration::from_secs(2)), Duration::from_millis(500));
        bucket.set_busy(false, start + Duration::from_secs(2));
        assert_eq!(bucket.left(start + Duration::from_secs(3)), Duration::from_millis(600));
        bucket.set_busy(true, start + Duration::from_secs(3));
        bucket.charge(Duration::from_millis(600));
        assert!(bucket.left(start + Duration::from_secs(4)) > Duration::ZERO, "an empty bucket fills");
    }
}
