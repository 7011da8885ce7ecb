//! The one thread per process that closes VMs. Closing a full one takes up to 60 ms, which a VM thread must not spend.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

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

/// Closes a VM that nothing refers to any more, soon and elsewhere; here if there is no thread to be had.
pub fn bury(vm: Box<Vm>) {
    let bytes = vm.used_bytes();
    vm.shared.stats.closing.fetch_add(1, Ordering::Relaxed);
    vm.shared.stats.closing_bytes.fetch_add(bytes, Ordering::Relaxed);
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    if reaper.as_ref().is_none_or(|(born, _)| *born != timer::generation()) {
        let (sender, corpses) = channel::<Corpse>();
        let run = move || corpses.into_iter().for_each(close);
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
