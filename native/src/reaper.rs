//! The one thread per process that closes VMs. Closing a full one takes up to 60 ms, which a VM thread must not spend;
//! giving the memory of many back to the system takes as long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::pages;
use crate::timer;
use crate::vm::Vm;

struct Corpse {
    vm: Box<Vm>,
    bytes: usize,
}

/// The way to the thread, and the process that it was made in.
static REAPER: Mutex<Option<(u32, Sender<Corpse>)>> = Mutex::new(None);

fn close(corpse: Corpse) {
    let shared = corpse.vm.shared.clone();
    // After a panic in a VM its state may be anything.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(corpse.vm)));
    shared.stats.closing_bytes.fetch_sub(corpse.bytes, Ordering::Relaxed);
    shared.stats.closing.fetch_sub(1, Ordering::Relaxed);
}

/// When nothing was closed for so long, the memory goes back to the system: until then the next VMs may want it.
const QUIET: Duration = Duration::from_millis(200);
/// With so much of it, before that. Often enough, since the allocator is locked while it gives back what it has.
const OWED_BYTES_MAX: usize = 64 << 20;

fn serve(corpses: &Receiver<Corpse>) {
    let mut owed = 0;
    loop {
        let next = if owed > 0 { corpses.recv_timeout(QUIET) } else { corpses.recv().map_err(RecvTimeoutError::from) };
        match next {
            Ok(corpse) => {
                owed += corpse.bytes;
                close(corpse);
                if owed < OWED_BYTES_MAX {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        give_back();
        owed = 0;
    }
}

/// What nobody uses goes back to the system.
fn give_back() {
    pages::purge();
    #[cfg(target_env = "gnu")]
    // SAFETY: safe from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Closes a VM that nothing refers to any more, soon and elsewhere; here if there is no thread to be had.
pub fn bury(vm: Box<Vm>) {
    let bytes = vm.resident_bytes();
    vm.shared.stats.closing.fetch_add(1, Ordering::Relaxed);
    vm.shared.stats.closing_bytes.fetch_add(bytes, Ordering::Relaxed);
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    if reaper.as_ref().is_none_or(|(born, _)| *born != timer::generation()) {
        let (sender, corpses) = channel::<Corpse>();
        let run = move || serve(&corpses);
        *reaper = thread::Builder::new().name("tw-reaper".into()).spawn(run).ok().map(|_| (timer::generation(), sender));
    }
    let corpse = Corpse { vm, bytes };
    match reaper.as_ref() {
        Some((_, sender)) => {
            if let Err(back) = sender.send(corpse) {
                close(back.0);
            }
        }
        None => close(corpse),
    }
}
