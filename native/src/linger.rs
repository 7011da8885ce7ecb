//! Waiting awake for a moment before going to sleep: waking a sleeping core costs 30 us and more, several times a small event.
//!
//! It is done only where it has been worth it lately, as hypervisors poll before they halt a core: after gaps that
//! were shorter than the window. Rare events never pay for it, and a busy thread never comes here.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WORTH: u32 = 2;
const SURE: u32 = 8;

/// What waiting awake has brought lately, for waits up to `window`.
pub struct Linger {
    window: Duration,
    score: AtomicU32,
}

impl Linger {
    pub const fn new(window: Duration) -> Linger {
        Linger { window, score: AtomicU32::new(0) }
    }

    pub fn is_worth(&self) -> bool {
        self.score.load(Ordering::Relaxed) >= WORTH
    }

    /// Learns how long a wait was.
    pub fn learn(&self, waited: Duration) {
        let score = self.score.load(Ordering::Relaxed);
        self.score.store(if waited <= self.window { (score + 1).min(SURE) } else { score / 2 }, Ordering::Relaxed);
    }

    /// Waits awake until `came`, for the window and at most until `end`. Whoever shares the core goes first.
    pub fn wait(&self, came: impl Fn() -> bool, end: Option<Instant>) -> bool {
        let window = Instant::now() + self.window;
        let end = end.map_or(window, |end| end.min(window));
        loop {
            for _ in 0..32 {
                if came() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= end {
                return false;
            }
            thread::yield_now();
        }
    }
}
