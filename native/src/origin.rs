//! Whose a Luau thread is: the request and the template that it was made for. Threads made by a thread inherit it.
//!
//! SAFETY, for the whole file: as in `vm.rs`.

use std::rc::Rc;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use crate::isolate::Isolate;
use crate::program::{Program, Template};
use crate::scheduler;
use crate::thread::{ORIGINS_MAX, origin_of, set_origin};
use crate::vm::Vm;

/// An isolate of the VM, and the template that it was made from.
pub struct Held {
    pub template: Arc<Template>,
    pub isolate: Isolate,
}

#[derive(Clone)]
pub struct Origin {
    pub request: u64,
    pub held: Rc<Held>,
}

/// Origins by the number that threads carry. One lives until its last thread is collected.
#[derive(Default)]
pub struct Origins {
    all: Vec<Option<(Origin, u32)>>,
    free: Vec<usize>,
}

impl Origins {
    /// A number for threads of `origin`; `gone` gives it back, after `joined` once for each thread.
    pub fn add(&mut self, origin: Origin) -> Option<usize> {
        let entry = Some((origin, 0));
        if let Some(place) = self.free.pop() {
            self.all[place] = entry;
            return Some(place + 1);
        }
        if self.all.len() + 2 >= ORIGINS_MAX {
            return None;
        }
        self.all.push(entry);
        Some(self.all.len())
    }

    pub fn get(&self, number: usize) -> Option<&Origin> {
        self.all.get(number.checked_sub(1)?)?.as_ref().map(|(origin, _)| origin)
    }

    pub fn joined(&mut self, number: usize) {
        if let Some(Some((_, threads))) = number.checked_sub(1).and_then(|place| self.all.get_mut(place)) {
            *threads += 1;
        }
    }

    /// A thread is gone, or there never was one. True: the origin went with it.
    pub fn gone(&mut self, number: usize) -> bool {
        let Some(place) = number.checked_sub(1) else {
            return false;
        };
        let Some(entry) = self.all.get_mut(place) else {
            return false;
        };
        let Some((_, threads)) = entry else {
            return false;
        };
        *threads = threads.saturating_sub(1);
        if *threads > 0 {
            return false;
        }
        *entry = None;
        self.free.push(place);
        true
    }
}

/// Luau calls this for each thread that is made by `parent`, and with null for each that is collected.
pub unsafe extern "C-unwind" fn on_thread(parent: *mut lua_State, child: *mut lua_State) {
    let Some(vm) = scheduler::current() else {
        return;
    };
    // SAFETY: both are live threads of the running VM.
    unsafe {
        if parent.is_null() {
            vm.origins.borrow_mut().gone(origin_of(child));
        } else {
            let origin = origin_of(parent);
            set_origin(child, origin);
            vm.origins.borrow_mut().joined(origin);
        }
    }
}

impl Vm {
    /// The request and template behind a thread.
    pub unsafe fn origin(&self, co: *mut lua_State) -> Option<Origin> {
        // SAFETY: by the caller, `co` is a thread of this VM.
        self.origins.borrow().get(unsafe { origin_of(co) }).cloned()
    }

    /// The isolate of a template, made now if this VM has none yet. On failure the text is on the workspace's stack.
    pub fn isolate(&self, template: &Arc<Template>) -> Result<Rc<Held>, i32> {
        if let Some(held) = self.isolates.borrow().iter().find(|held| Arc::ptr_eq(&held.template, template)) {
            return Ok(held.clone());
        }
        let mut made = None;
        // SAFETY: inside `protect`.
        let status = self.protect(&mut |state| unsafe {
            made = Some(Isolate::make(state, template));
            0
        });
        let Some(isolate) = made else {
            return Err(status);
        };
        let held = Rc::new(Held { template: template.clone(), isolate });
        self.isolates.borrow_mut().push(held.clone());
        self.unnamed_isolates.set(true);
        Ok(held)
    }

    /// Whether the thread outlives both its request and the version of the template that it belongs to: what it still
    /// does would mix with what the new version does.
    pub fn is_outdated(&self, origin: &Origin) -> bool {
        let template = &origin.held.template;
        self.unnamed_isolates.get()
            && !template.is_script()
            && !self.is_check
            && !self.requests.borrow().contains_key(&origin.request)
            && !self.is_named(template)
    }

    fn is_named(&self, template: &Arc<Template>) -> bool {
        let program = self.program.borrow();
        Program::all(program.as_deref(), self.limits.builtins.as_ref()).any(|other| Arc::ptr_eq(other, template))
    }

    /// Lets go of isolates that no thread uses and that the tenant's program does not name any more.
    pub fn release_isolates(&self) {
        // Set when an isolate is made or the program changes, and as long as an isolate that is not named is in use.
        if !self.unnamed_isolates.replace(false) {
            return;
        }
        let mut isolates = self.isolates.borrow_mut();
        let mut at = 0;
        while let Some(held) = isolates.get(at) {
            if self.is_named(&held.template) {
                at += 1;
            } else if Rc::strong_count(held) > 1 {
                self.unnamed_isolates.set(true);
                at += 1;
            } else if let Ok(held) = Rc::try_unwrap(isolates.swap_remove(at)) {
                // SAFETY: nothing of the isolate runs or is about to.
                unsafe { ffi::lua_unref(self.main, held.isolate.slot()) };
            }
        }
    }
}
