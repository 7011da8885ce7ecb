//! The owner's side of an engine: it starts the thread, feeds its inbox and ends it.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use rustc_hash::FxHashSet;

use crate::blame::Blame;
use crate::engine::Engine;
use crate::forget::room_for;
use crate::limits::Limits;
use crate::shared::{CLOSED, CLOSING, In, OPEN, Shared};
use crate::timer::{self, Timer};

/// Luau's parser and our walkers recurse: 1 MiB passes all depth cases, this leaves room.
const STACK_BYTES: usize = 4 << 20;

pub struct Handle {
    pub shared: Arc<Shared>,
    vm_thread: Thread,
    join: Mutex<Option<JoinHandle<()>>>,
    /// The value of `timer::generation` when this was made: another value means another process.
    born: u32,
    /// The tenants with a program, as of what was sent.
    programs: Mutex<FxHashSet<u64>>,
}

impl Handle {
    pub fn start(limits: Limits, blame: Option<Blame>) -> std::io::Result<Handle> {
        let timer = Timer::get()?;
        // SAFETY: no arguments but numbers.
        let eventfd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if eventfd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let shared = Arc::new(Shared::new(eventfd, timer, limits.slice_ms, blame));
        timer.watch(&shared);
        let join = {
            let shared = shared.clone();
            thread::Builder::new().name("tw-vm".into()).stack_size(STACK_BYTES).spawn(move || Engine::new(shared, limits).run())?
        };
        Ok(Handle {
            shared,
            vm_thread: join.thread().clone(),
            join: Mutex::new(Some(join)),
            born: timer::generation(),
            programs: Mutex::default(),
        })
    }

    /// Never blocks: a lock-free push, and a futex wake if the VM thread sleeps.
    pub fn send(&self, item: In) -> Result<(), &'static str> {
        if self.forked() {
            return Err("this engine belongs to the parent process; create engines after fork");
        }
        if let Some((_, text)) = self.shared.refusal() {
            return Err(text);
        }
        match &item {
            In::Program { tenant, program } if !program.is_empty() => {
                self.programs().insert(*tenant);
            }
            In::Program { tenant, .. } | In::Drop { tenant, .. } => {
                let mut programs = self.programs();
                if programs.remove(tenant)
                    && let Some(room) = room_for(programs.len(), programs.capacity())
                {
                    programs.shrink_to(room);
                }
            }
            _ => {}
        }
        self.shared.inbox.push(item);
        self.vm_thread.unpark();
        self.shared.hurry();
        // The thread may have taken its last look at the inbox before the push.
        fence(Ordering::SeqCst);
        if self.shared.state.load(Ordering::SeqCst) >= CLOSED {
            self.shared.refuse_inbox();
        }
        Ok(())
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, FxHashSet<u64>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has_program(&self, tenant: u64) -> bool {
        self.programs().contains(&tenant)
    }

    fn forked(&self) -> bool {
        self.born != timer::generation()
    }

    /// Refuses new work, answers what is pending with an error, and waits for the thread.
    pub fn stop(&self) {
        if self.forked() {
            return;
        }
        let _ = self.shared.state.compare_exchange(OPEN, CLOSING, Ordering::SeqCst, Ordering::SeqCst);
        self.shared.inbox.push(In::Stop);
        self.vm_thread.unpark();
        if let Some(join) = self.join.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = join.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}
