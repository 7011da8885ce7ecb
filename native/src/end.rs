//! How requests end: by their templates, by the clock, by hand, or with their VM.
//!
//! SAFETY, for the whole file: as in `vm.rs`.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mlua::ffi::{self, lua_State};

use crate::limits::{self, cut};
use crate::program::Template;
use crate::request::{self, Answer, Arrival, CANCELLED, End, LIMIT_EXCEEDED, TIMEOUT, Weight};
use crate::thread::{Task, set_ended};
use crate::vm::Vm;
use crate::{check, errors, value};

impl Vm {
    pub fn take_main(&self, co: *mut lua_State) -> Option<(u64, usize)> {
        let main = self.mains.borrow_mut().remove(&co)?;
        // SAFETY: the reference's own slot.
        unsafe { main.held.release(self.main) };
        Some((main.request, main.part))
    }

    /// A thread ended: answer its part, or log what went wrong.
    pub unsafe fn finish(&self, co: *mut lua_State, status: i32) {
        // SAFETY: by the caller, `co` is a thread that has just ended.
        unsafe {
            let Some((request, part)) = self.take_main(co) else {
                if status != ffi::LUA_OK {
                    let (request, name) = self.origin(co).map_or((0, String::new()), |o| (o.request, o.held.template.name.to_string()));
                    self.log(request, &name, "error", errors::with_traceback(co, &name));
                } else {
                    // Results left on the stack would make the ended thread look suspended.
                    ffi::lua_settop(co, 0);
                }
                return;
            };
            let end = match status {
                _ if self.kill.get() => End::Limit(limits::CPU, limits::CPU_TEXT.into()),
                ffi::LUA_OK => self.result(co),
                _ if status == ffi::LUA_ERRMEM || self.dead.get() => End::Limit(limits::MEMORY, limits::MEMORY_TEXT.into()),
                _ => {
                    let name = self.origin(co).map_or_else(String::new, |o| o.held.template.name.to_string());
                    let text = errors::with_traceback(co, &name);
                    self.raised(text)
                }
            };
            self.end_part(request, part, end);
        }
    }

    /// Encodes what a main thread returned.
    unsafe fn result(&self, co: *mut lua_State) -> End {
        let mut out = Vec::new();
        let mut complaint = None;
        // SAFETY: inside `protect`; the thread has ended and keeps its results on its stack.
        let status = self.protect(&mut |state| unsafe {
            ffi::lua_settop(co, 1);
            ffi::lua_xmove(co, state, 1);
            complaint = match self.is_check {
                true => check::encode_keys(state, 1, &mut out).map_err(value::Refusal::from).err(),
                false => value::encode(state, 1, &mut out).err(),
            };
            0
        });
        match (status, complaint) {
            (ffi::LUA_OK, None) => self.weighed(out),
            (ffi::LUA_OK, Some(value::Refusal { limit: Some(limit), text, .. })) => End::Limit(limit, text.into()),
            (ffi::LUA_OK, Some(refusal)) => End::Error(refusal.text.into()),
            _ => self.failure(status),
        }
    }

    /// A result, unless too much is there already that nobody has taken.
    fn weighed(&self, out: Vec<u8>) -> End {
        let (bytes, max) = (out.len(), limits::RESULTS_BYTES_MAX);
        let all = self.results.load(Ordering::Relaxed) + bytes;
        if bytes >= limits::RESULT_BYTES_FREE && all > max {
            let text = format!("results of {all} bytes would wait to be taken, {max} may (limit: {})", limits::SIZE);
            return End::Limit(limits::SIZE, text);
        }
        End::Ok(out, Weight::of_result(bytes, &self.results))
    }

    /// What an error that nobody caught means: the breach of a limit, if it is about the last one.
    pub fn raised(&self, text: String) -> End {
        match self.breach.get() {
            Some(limit) if limits::names(&text, limit) => End::Limit(limit, text),
            _ => End::Error(text),
        }
    }

    /// Notes whose thread has exceeded a limit that others end with as well, unless another one has before.
    pub unsafe fn accuse(&self, co: *mut lua_State) {
        // SAFETY: by the caller, a thread of this VM.
        if let Some(origin) = unsafe { self.origin(co) } {
            self.culprit.borrow_mut().get_or_insert_with(|| origin.held.template.clone());
        }
    }

    /// What the tenant's CPU time was used for before says nothing about what follows. A VM that is full stays so.
    pub fn acquit(&self) {
        if !self.dead.get() {
            self.culprit.take();
        }
    }

    /// The end of a template's part, with the name of another template that is to blame for it.
    fn attributed(&self, end: End, template: &Arc<Template>) -> End {
        let culprit = self.culprit.borrow();
        let Some(other) = culprit.as_ref().filter(|culprit| !Arc::ptr_eq(culprit, template)) else {
            return end;
        };
        match end {
            End::Limit(limits::MEMORY, text) if text == limits::MEMORY_TEXT => {
                End::Limit(limits::MEMORY, format!("ended with the VM: template '{}' exceeded the memory limit", other.name))
            }
            End::Limit(limits::CPU, text) if text == limits::CPU_TEXT => {
                End::Limit(limits::CPU, format!("{text}: the tenant's CPU time ended while template '{}' ran", other.name))
            }
            end => end,
        }
    }

    pub fn end_part(&self, id: u64, part: usize, end: End) {
        let bytes_max = self.limits.error_bytes_max;
        let mut requests = self.requests.borrow_mut();
        let Some(request) = requests.get_mut(&id) else {
            return;
        };
        let Some(part) = request.parts.get_mut(part) else {
            return;
        };
        if part.end.is_some() {
            return;
        }
        part.end = Some(match self.attributed(end, &part.template) {
            End::Error(text) => End::Error(cut(text, bytes_max)),
            End::Limit(name, text) => End::Limit(name, cut(text, bytes_max)),
            end => end,
        });
        part.main = ptr::null_mut();
        request.left -= 1;
        if request.left == 0
            && let Some(mut request) = requests.remove(&id)
        {
            drop(requests);
            if self.running.get() == id {
                request.cpu += self.since_mark();
            }
            self.send_answer(id, request.answer());
        }
    }

    /// Ends what has no end yet of a request, and its main threads; threads that it spawned live on.
    pub fn end_request(&self, id: u64, end: fn() -> End) {
        let open: Vec<_> = match self.requests.borrow().get(&id) {
            Some(r) => r.parts.iter().enumerate().filter(|(_, p)| p.end.is_none()).map(|(i, p)| (i, p.main)).collect(),
            None => return,
        };
        for (part, main) in open {
            if self.take_main_of(main) {
                // SAFETY: alive until now, and whoever holds it further may look at its data.
                unsafe { set_ended(main) };
            }
            self.end_part(id, part, end());
        }
        self.forget_ended();
    }

    pub fn take_main_of(&self, main: *mut lua_State) -> bool {
        let Some(found) = self.mains.borrow_mut().remove(&main) else {
            return false;
        };
        // SAFETY: the thread is alive until its slot is given back, and marked before that.
        unsafe {
            set_ended(main);
            self.tell(main);
            found.held.release(self.main);
        }
        true
    }

    /// Ends the requests whose deadline has passed, and finds the next one.
    pub fn expire(&self, now: Instant) {
        if self.deadline.get().is_none_or(|at| at > now) {
            return;
        }
        let due: Vec<u64> = self.requests.borrow().iter().filter(|(_, r)| r.arrival.deadline <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.end_request(id, || End::Timeout);
        }
        self.drop_late(now);
        let queued = self.queued_deadline();
        let running = self.requests.borrow().values().map(|r| r.arrival.deadline).min();
        self.deadline.set(queued.into_iter().chain(running).min());
    }

    fn queued_deadline(&self) -> Option<Instant> {
        self.ready.borrow().iter().filter_map(|task| if let Task::Start(a) = task { Some(a.deadline) } else { None }).min()
    }

    /// Answers queued requests whose deadline has passed before their start.
    fn drop_late(&self, now: Instant) {
        let late = |task: &Task| matches!(task, Task::Start(a) if a.deadline <= now);
        if self.ready.borrow().iter().any(late) {
            let (late, kept): (Vec<_>, Vec<_>) = self.ready.take().into_iter().partition(late);
            self.ready.replace(kept.into());
            self.refuse(late, TIMEOUT, None);
        }
    }

    fn refuse(&self, tasks: Vec<Task>, outcome: u8, limit: Option<&'static str>) {
        for task in tasks {
            if let Task::Start(arrival) = task {
                self.send_answer(arrival.id, request::refused(&arrival, outcome, limit));
            }
        }
    }

    /// Gives up a request that runs or is queued, if this VM has it.
    pub fn cancel(&self, id: u64) -> bool {
        if self.requests.borrow().contains_key(&id) {
            self.end_request(id, || End::Cancelled(None));
            return true;
        }
        let this = |task: &Task| matches!(task, Task::Start(a) if a.id == id);
        if !self.ready.borrow().iter().any(this) {
            return false;
        }
        let (found, kept): (Vec<_>, Vec<_>) = self.ready.take().into_iter().partition(this);
        self.ready.replace(kept.into());
        self.refuse(found, CANCELLED, None);
        true
    }

    /// The tenant has no CPU time: what would start is refused, what was preempted or waits for its turn is dropped,
    /// what waits for something else goes on waiting.
    pub fn starve(&self) {
        let tasks = self.ready.take();
        let mut kept = std::collections::VecDeque::new();
        for task in tasks {
            match task {
                Task::Start(_) => self.refuse(vec![task], LIMIT_EXCEEDED, Some(limits::CPU)),
                Task::Begin { request, part } => self.end_part(request, part, End::Limit(limits::CPU, limits::CPU_TEXT.into())),
                Task::Continue(run) => self.drop_run(run, Some(limits::CPU_TEXT)),
                Task::Deferred { thread, wait, .. } => self.drop_deferred(thread, wait),
                wake => kept.push_back(wake),
            }
        }
        // Dropped runs may have woken others meanwhile.
        kept.append(&mut self.ready.borrow_mut());
        self.ready.replace(kept);
        self.acquit();
    }

    /// Before the VM goes away: ends every request that has started with `end`, or with a failure if there is none.
    /// Gives back those that have not started.
    pub fn give_up(&self, end: Option<fn() -> End>, code: &str, text: &str) -> std::collections::VecDeque<Box<Arrival>> {
        for (id, mut request) in self.requests.take() {
            let answer = match end {
                Some(end) => {
                    for part in request.parts.iter_mut().filter(|part| part.end.is_none()) {
                        part.end = Some(self.attributed(end(), &part.template));
                    }
                    request.answer()
                }
                None => Answer::Failed(crate::pack::failure(code, text, None)),
            };
            self.send_answer(id, answer);
        }
        self.ready.take().into_iter().filter_map(|task| if let Task::Start(arrival) = task { Some(arrival) } else { None }).collect()
    }
}
