//! The thread that shares nothing with VM threads and ends the process when one of them is deaf, or the master gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::shared::{Out, OutKind, Shared};
use crate::timer::Timer;

const LOOK: Duration = Duration::from_millis(500);
const EXIT_DEAF: i32 = 70;
const EXIT_ORPHANED: i32 = 71;

/// How long one pass of an engine's loop has been seen to last.
struct Pass {
    beat: u64,
    lasted: Duration,
    reported: bool,
}

pub struct Watchdog {
    pub master_pidfd: i32,
    pub deaf: Duration,
    pub exit_on_deaf: bool,
}

impl Watchdog {
    pub fn start(self) -> std::io::Result<()> {
        let timer = Timer::get()?;
        thread::Builder::new().name("tw-watchdog".into()).stack_size(64 << 10).spawn(move || self.run(timer))?;
        Ok(())
    }

    fn run(self, timer: &'static Timer) {
        let look = LOOK.min(self.deaf / 3).max(Duration::from_millis(1));
        let mut passes: HashMap<usize, Pass> = HashMap::new();
        let mut last = Instant::now();
        loop {
            self.wait(look);
            let now = Instant::now();
            // A process that was stopped has not been deaf: time counts only as far as this thread has watched it.
            let watched = (now - last).min(2 * look);
            last = now;
            let mut seen = HashMap::with_capacity(passes.len());
            timer.any(|engine| {
                let key = Arc::as_ptr(engine) as usize;
                let pass = self.look_at(engine, passes.remove(&key), watched);
                seen.insert(key, pass);
                false
            });
            passes = seen;
        }
    }

    /// Sleeps, and ends the process if the master is gone.
    fn wait(&self, look: Duration) {
        if self.master_pidfd < 0 {
            return thread::sleep(look);
        }
        let mut fd = libc::pollfd { fd: self.master_pidfd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor in a local.
        let ready = unsafe { libc::poll(&raw mut fd, 1, look.as_millis() as i32) };
        if ready > 0 && fd.revents & libc::POLLIN != 0 {
            // SAFETY: ends the process without running anything else in it.
            unsafe { libc::_exit(EXIT_ORPHANED) };
        }
        if ready != 0 {
            // Interrupted, or not a pidfd: not a reason to spin.
            thread::sleep(look);
        }
    }

    fn look_at(&self, engine: &Arc<Shared>, pass: Option<Pass>, watched: Duration) -> Pass {
        let beat = engine.beat.load(Ordering::Relaxed);
        let mut pass = match pass {
            Some(pass) if pass.beat == beat && beat % 2 == 1 => Pass { lasted: pass.lasted + watched, ..pass },
            _ => Pass { beat, lasted: Duration::ZERO, reported: false },
        };
        if pass.lasted >= self.deaf && !pass.reported {
            if self.exit_on_deaf {
                // SAFETY: as above.
                unsafe { libc::_exit(EXIT_DEAF) };
            }
            pass.reported = true;
            let tenant = engine.tenant.load(Ordering::Relaxed);
            engine.push(Out { kind: OutKind::Deaf, tenant, id: pass.lasted.as_millis() as u64, payload: Vec::new(), _weight: None });
            engine.flush();
        }
        pass
    }
}
