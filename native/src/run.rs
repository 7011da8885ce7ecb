//! How a request's templates start, go on and end.
//!
//! SAFETY, for the whole file: as in `vm.rs`.

use std::ptr;
use std::sync::Arc;
use std::time::Instant;

use mlua::ffi;

use crate::context::EventInfo;
use crate::limits;
use crate::origin::Origin;
use crate::program::{Source, Template};
use crate::request::{Arrival, End, Request, What};
use crate::stats::Stats;
use crate::thread::{Run, Task, ThreadRef, is_ended, set_ended, set_origin, set_scheduled};
use crate::vm::{Main, Vm};

impl Vm {
    // ---- start ---------------------------------------------------------------------------------------

    /// Starts each template of a request; each runs until it first waits or is preempted.
    pub fn start(&self, arrival: Box<Arrival>) {
        let id = arrival.id;
        self.set_running(id);
        let deadline = arrival.deadline;
        let mut request = Request::new(arrival);
        let parts = request.parts.len();
        if deadline <= Instant::now() {
            for part in &mut request.parts {
                part.end = Some(End::Timeout);
            }
            return self.send_answer(id, request.answer());
        }
        if self.deadline.get().is_none_or(|known| deadline < known) {
            self.deadline.set(Some(deadline));
        }
        self.requests.borrow_mut().insert(id, request);
        for part in 0..parts {
            if self.overran.get() {
                self.ready.borrow_mut().push_back(Task::Begin { request: id, part });
            } else {
                self.begin(id, part);
            }
        }
    }

    /// Starts a part that has no end yet.
    pub fn begin(&self, id: u64, part: usize) {
        let found = self.requests.borrow().get(&id).and_then(|request| {
            let found = request.parts.get(part).filter(|part| part.end.is_none())?;
            let source = if let What::Script(source) = &request.arrival.what { Some(source.clone()) } else { None };
            Some((found.template.clone(), request.arrival.event.clone(), source))
        });
        if let Some((template, event, source)) = found {
            self.start_part(id, part, &template, &event, source.as_deref());
        }
    }

    fn start_part(&self, request: u64, part: usize, template: &Arc<Template>, event: &EventInfo, source: Option<&Source>) {
        if self.kill.get() {
            return self.end_part(request, part, End::Limit(limits::CPU, limits::CPU_TEXT.into()));
        }
        let held = match self.isolate(template) {
            Ok(held) => held,
            Err(status) => return self.end_part(request, part, self.failure(status)),
        };
        let Some(origin) = self.origins.borrow_mut().add(Origin { request, held: held.clone() }) else {
            return self.end_part(request, part, End::Error("too many threads of earlier events are alive".into()));
        };
        let (mut refs, mut nargs) = (None, 0);
        // SAFETY: inside `protect`. The registry holds the new thread before anything else can fail.
        let status = self.protect(&mut |state| unsafe {
            let co = ffi::lua_newthread(state);
            set_origin(co, origin);
            set_scheduled(co);
            self.origins.borrow_mut().joined(origin);
            refs = Some((ThreadRef::at(state, -1, co), ThreadRef::at(state, -1, co)));
            nargs = match source {
                Some(source) => held.isolate.push_script_call(state, co, source, event),
                None if self.is_check => held.isolate.push_entry_call(state, co),
                None => held.isolate.push_event_call(state, co, event),
            };
            0
        });
        let Some((owed, root)) = refs else {
            // Either no thread was made, or it is collected later and gives the origin back itself.
            return self.end_part(request, part, self.failure(status));
        };
        if status != ffi::LUA_OK {
            // SAFETY: the thread has not run.
            unsafe {
                owed.release(self.main);
                root.release(self.main);
            }
            return self.end_part(request, part, self.failure(status));
        }
        let co = root.state;
        if let Some(p) = self.requests.borrow_mut().get_mut(&request).and_then(|r| r.parts.get_mut(part)) {
            p.main = co;
        }
        self.mains.borrow_mut().insert(co, Main { request, part, held: owed });
        // SAFETY: a fresh thread with its function and arguments on its stack.
        let status = unsafe { ffi::lua_resume_(co, ptr::null_mut(), nargs) };
        self.after_resume(Run::new(root), status);
    }

    /// What a step that failed in `protect` means for its part.
    pub fn failure(&self, status: i32) -> End {
        let text = self.take_text();
        match status {
            _ if status == ffi::LUA_ERRMEM || self.dead.get() => End::Limit(limits::MEMORY, limits::MEMORY_TEXT.into()),
            _ => self.raised(text),
        }
    }

    // ---- go on ---------------------------------------------------------------------------------------

    pub fn go_on(&self, run: Run) {
        // SAFETY: the run keeps its threads.
        unsafe {
            if run.threads().any(|co| is_ended(co)) {
                return self.drop_run(run, None);
            }
            self.set_running(self.origin(run.root.state).map_or(0, |origin| origin.request));
            let status = ffi::lua_resume_(run.innermost(), ptr::null_mut(), 0);
            self.after_resume(run, status);
        }
    }

    /// What follows a resume: queue again, pass results up, answer the event, or end the thread.
    /// Allocates nothing in Luau outside a protected call.
    pub fn after_resume(&self, mut run: Run, status: i32) {
        let co = run.innermost();
        if status == ffi::LUA_BREAK {
            Stats::add(&self.shared.stats.preempted, 1);
            // The outermost of them is `co`, which the run has already.
            run.nested.extend(self.breaking.take().into_iter().rev().skip(1));
            if self.kill.get() {
                return self.drop_run(run, Some(limits::CPU_TEXT));
            }
            return self.ready.borrow_mut().push_back(Task::Continue(run));
        }
        if run.nested.pop().is_some() {
            // Its resumer takes the results from its stack.
            return self.ready.borrow_mut().push_front(Task::Continue(run));
        }
        // SAFETY: the run keeps the thread.
        unsafe {
            if status == ffi::LUA_YIELD {
                // Nobody takes values that a thread yields to the scheduler.
                ffi::lua_settop(co, 0);
            } else {
                self.note_end(co, status);
                self.finish(co, status);
            }
            run.root.release(self.main);
        }
    }

    /// Ends a run that was preempted: no script code runs in it again. A reason is reported.
    pub fn drop_run(&self, run: Run, reason: Option<&str>) {
        let mut reported = false;
        for co in run.threads() {
            // SAFETY: the run keeps the thread.
            unsafe { set_ended(co) };
            match reason {
                Some(_) => self.tell_killed(co),
                None => self.tell(co),
            }
            if let Some((request, part)) = self.take_main(co) {
                reported = true;
                self.end_part(request, part, End::Limit(limits::CPU, limits::CPU_TEXT.into()));
            }
        }
        // SAFETY: as above.
        unsafe {
            if let Some(reason) = reason
                && !reported
                && let Some(origin) = self.origin(run.root.state)
            {
                self.end_part_of(&origin);
                self.log(origin.request, &origin.held.template.name, "error", format!("a thread was stopped: {reason}"));
            }
            run.root.release(self.main);
        }
    }

    /// A thread that an event spawned used up the tenant's CPU time: that costs the event as well, which would
    /// often wait for the thread in vain.
    fn end_part_of(&self, origin: &Origin) {
        let open = self.requests.borrow().get(&origin.request).and_then(|request| {
            let this = |p: &crate::request::Part| p.end.is_none() && Arc::ptr_eq(&p.template, &origin.held.template);
            request.parts.iter().position(this).map(|part| (part, request.parts[part].main))
        });
        if let Some((part, main)) = open {
            self.take_main_of(main);
            self.end_part(origin.request, part, End::Limit(limits::CPU, limits::CPU_TEXT.into()));
        }
    }
}
