//! Work that would hold a VM thread too long, done by background threads of the process: encryption, compression, images.
//!
//! The thread that asks waits as for a host call, and a job counts as one. What it is given to work on stays charged to its
//! VM; its CPU time is taken from its tenant's bucket when it is done. Tenants take turns, so that one with many jobs
//! delays nobody else by more than one. The threads run at a low priority and end with the process; what they do for a VM
//! that is gone is thrown away.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::call::{Call, Done, Fault, WAIT};
use crate::memory::Charge;
use crate::shared::{CLOSED, In, Shared};
use crate::thread::ThreadRef;
use crate::vm::thread_cpu_time;
use crate::{limits, scheduler, timer};

/// Background threads per process. Each may hold a key derivation's 64 MiB.
const THREADS_MAX: usize = 2;
/// Jobs of all tenants that have not begun.
const JOBS_MAX: usize = 256;
/// What all jobs were given and have made, until their scripts get it.
const BYTES_MAX: usize = 128 << 20;
/// The same for one tenant.
const TENANT_BYTES_MAX: usize = 32 << 20;
/// CPU time of one job, if its tenant has so much left when the job begins.
const JOB_CPU_MAX: Duration = Duration::from_secs(2);
/// How much the background threads stand back.
const NICENESS: i32 = 5;

/// Pushes the results of a job on the VM thread.
type Give = Box<dyn FnOnce(&Call) -> Done + Send>;
type Work = Box<dyn FnOnce(&Meter) -> Result<Output, Fault> + Send>;

/// What a job has made.
pub struct Output {
    give: Give,
    bytes: usize,
}

impl Output {
    /// `bytes` is about what `give` holds until it is called.
    pub fn new(bytes: usize, give: impl FnOnce(&Call) -> Done + Send + 'static) -> Self {
        Output { give: Box::new(give), bytes }
    }
}

/// How much CPU time a job may use. Long work asks now and then.
pub struct Meter {
    start: Duration,
    max: Duration,
}

impl Meter {
    #[cfg(test)]
    pub fn up_to(max: Duration) -> Meter {
        Meter { start: thread_cpu_time(), max }
    }

    fn used(&self) -> Duration {
        thread_cpu_time().saturating_sub(self.start)
    }

    pub fn check(&self) -> Result<(), Fault> {
        if self.used() <= self.max {
            return Ok(());
        }
        Err(self.exceeded())
    }

    fn exceeded(&self) -> Fault {
        let max = self.max.as_millis();
        Fault::limit(limits::CPU, format!("this takes more than the {max} ms of CPU time that are left (limit: cpu)"))
    }
}

/// What the jobs of one tenant hold and may use.
#[derive(Default)]
pub struct Account {
    /// Bytes that they were given and have made.
    bytes: AtomicUsize,
    /// CPU time in microseconds: what was left when the last one was handed over, less what was used since. The tenant's
    /// own bucket hears of it later, and many jobs may be on their way until then.
    cpu_us: AtomicU64,
}

impl Account {
    fn cpu_left(&self) -> Duration {
        Duration::from_micros(self.cpu_us.load(Ordering::Relaxed))
    }

    fn spend(&self, used: Duration) {
        let used = used.as_micros() as u64;
        // It always has a value to store.
        let _ = self.cpu_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(used)));
    }
}

/// Bytes that are counted until this goes.
struct Weight {
    pool: &'static Pool,
    tenant: Arc<Account>,
    bytes: usize,
}

impl Weight {
    fn new(pool: &'static Pool, tenant: Arc<Account>, bytes: usize) -> Self {
        pool.bytes.fetch_add(bytes, Ordering::Relaxed);
        tenant.bytes.fetch_add(bytes, Ordering::Relaxed);
        Weight { pool, tenant, bytes }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.pool.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.tenant.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A job that its VM has not handed over yet.
pub struct Job {
    work: Work,
    bytes: usize,
    wanted: Weak<()>,
}

/// What a VM keeps of a job until its answer comes.
pub struct Held {
    _charge: Charge,
    _wanted: Arc<()>,
}

/// A job's answer.
pub struct Finished {
    pub tenant: u64,
    pub call: u64,
    pub cpu: Duration,
    result: Result<Give, Fault>,
    _weight: Option<Weight>,
}

impl Finished {
    /// Pushes the results; on an error nothing that counts.
    pub fn give(self, call: &Call) -> Done {
        self.result.and_then(|give| give(call))
    }
}

/// Ends a native function with work that is done elsewhere; its results are the function's. `bytes` is the size of what
/// the work owns.
pub fn wait(call: &Call, bytes: usize, work: impl FnOnce(&Meter) -> Result<Output, Fault> + Send + 'static) -> Done {
    scheduler::can_wait(call)?;
    let vm = scheduler::vm();
    if vm.is_check {
        return Err("a template that is being checked cannot start work that takes long".into());
    }
    vm.may_wait(false)?;
    let wanted = Arc::new(());
    let job = Job { work: Box::new(work), bytes, wanted: Arc::downgrade(&wanted) };
    let held = Held { _charge: Charge::new(call.state, bytes)?, _wanted: wanted };
    call.set_top(0);
    // SAFETY: the running thread.
    let thread = unsafe { ThreadRef::running(call.state) };
    vm.wait_for_job(thread, job, held);
    Ok(WAIT)
}

/// Hands a job over, from the VM thread. What is refused is answered like what has failed.
pub fn submit(job: Job, shared: &Arc<Shared>, tenant: u64, account: &Arc<Account>, cpu_left: Duration, call: u64) {
    account.cpu_us.store(cpu_left.as_micros() as u64, Ordering::Relaxed);
    let vm_thread = thread::current();
    let queued = Pool::get().and_then(|pool| {
        let mine = account.bytes.load(Ordering::Relaxed) + job.bytes;
        if mine > TENANT_BYTES_MAX {
            return Err(format!("too much background work at once: {mine} bytes of {TENANT_BYTES_MAX} (limit: memory)").into());
        }
        let weight = Weight::new(pool, account.clone(), job.bytes);
        pool.queue(Queued { job, weight, shared: shared.clone(), vm_thread, tenant, call })
    });
    if let Err(fault) = queued {
        let finished = Finished { tenant, call, cpu: Duration::ZERO, result: Err(fault), _weight: None };
        shared.inbox.push(In::Finished(Box::new(finished)));
    }
}

// ---- the threads ------------------------------------------------------------------------------------------

struct Queued {
    job: Job,
    weight: Weight,
    shared: Arc<Shared>,
    vm_thread: Thread,
    tenant: u64,
    call: u64,
}

#[derive(Default)]
struct Queue {
    /// The jobs of each tenant that has some; the first tenant is next.
    tenants: VecDeque<(u64, VecDeque<Queued>)>,
    jobs: usize,
    threads: usize,
    idle: usize,
}

struct Pool {
    /// The value of `timer::generation` when this was made: another value means another process, without these threads.
    born: u32,
    queue: Mutex<Queue>,
    came: Condvar,
    bytes: AtomicUsize,
}

/// Never freed: weights and threads keep plain references.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());

impl Pool {
    fn get() -> Result<&'static Pool, Fault> {
        // SAFETY: null, or a pool that is never freed.
        let known = unsafe { POOL.load(Ordering::Acquire).as_ref() };
        if let Some(pool) = known.filter(|pool| pool.born == timer::generation()) {
            return Ok(pool);
        }
        let fresh = Pool { born: timer::generation(), queue: Mutex::default(), came: Condvar::new(), bytes: AtomicUsize::new(0) };
        let fresh = Box::into_raw(Box::new(fresh));
        let old = known.map_or(std::ptr::null_mut(), |pool| std::ptr::from_ref(pool).cast_mut());
        let pool = match POOL.compare_exchange(old, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(other) => {
                // SAFETY: made above and seen by nobody else.
                drop(unsafe { Box::from_raw(fresh) });
                other
            }
        };
        // SAFETY: as above.
        Ok(unsafe { &*pool })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&'static self, job: Queued) -> Result<(), Fault> {
        let mut queue = self.lock();
        if queue.jobs >= JOBS_MAX || self.bytes.load(Ordering::Relaxed) > BYTES_MAX {
            return Err("the worker has too much background work; try again later".into());
        }
        // A thread that has been notified may still count as idle.
        if queue.jobs >= queue.idle && queue.threads < THREADS_MAX {
            let spawned = thread::Builder::new().name("tw-offload".into()).spawn(|| self.serve());
            queue.threads += usize::from(spawned.is_ok());
            if queue.threads == 0 {
                return Err("the worker has no thread for background work".into());
            }
        }
        queue.jobs += 1;
        match queue.tenants.iter_mut().find(|(tenant, _)| *tenant == job.tenant) {
            Some((_, jobs)) => jobs.push_back(job),
            None => queue.tenants.push_back((job.tenant, VecDeque::from([job]))),
        }
        drop(queue);
        self.came.notify_one();
        Ok(())
    }

    fn next(&self) -> Queued {
        let mut queue = self.lock();
        loop {
            if let Some((tenant, mut jobs)) = queue.tenants.pop_front() {
                let job = jobs.pop_front();
                if !jobs.is_empty() {
                    queue.tenants.push_back((tenant, jobs));
                }
                if let Some(job) = job {
                    queue.jobs -= 1;
                    return job;
                }
                continue;
            }
            queue.idle += 1;
            queue = self.came.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    fn serve(&'static self) {
        // SAFETY: numbers only; on Linux it is the calling thread's own niceness.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        loop {
            self.next().run(self);
        }
    }
}

impl Queued {
    fn run(self, pool: &'static Pool) {
        let Queued { job, weight, shared, vm_thread, tenant, call } = self;
        if job.wanted.strong_count() == 0 {
            return;
        }
        let account = weight.tenant.clone();
        let meter = Meter { start: thread_cpu_time(), max: account.cpu_left().min(JOB_CPU_MAX) };
        let made = catch_unwind(AssertUnwindSafe(|| if meter.max.is_zero() { Err(meter.exceeded()) } else { (job.work)(&meter) }));
        account.spend(meter.used());
        let made = made.unwrap_or_else(|_| Err("the engine failed in this call".into()));
        let (result, bytes) = match made {
            Ok(output) => (Ok(output.give), output.bytes),
            Err(fault) => (Err(fault), 0),
        };
        let weight = Weight::new(pool, account, bytes);
        let finished = Finished { tenant, call, cpu: meter.used(), result, _weight: Some(weight) };
        shared.inbox.push(In::Finished(Box::new(finished)));
        vm_thread.unpark();
        shared.hurry();
        // As in `Handle::send`: the VM thread may be gone.
        fence(Ordering::SeqCst);
        if shared.state.load(Ordering::SeqCst) >= CLOSED {
            shared.refuse_inbox();
        }
    }
}
