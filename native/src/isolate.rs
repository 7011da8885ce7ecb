//! One template in one VM: its own globals over the read-only base, its modules, and the way from an event to a handler.
//!
//! The metatable of an isolate's globals is its record: scripts cannot reach it (`__metatable` is false), it lives as
//! long as any thread of the isolate, and a native function finds it from the running thread alone. What a template may
//! touch follows from the thread, so an object that another template handed over answers to its own isolate only.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mlua::ffi::{self, lua_State};
use rustc_hash::FxHashMap;

use crate::chunk::{self, Style, chunk_name, push_chunk};
use crate::context::{self, EventInfo};
use crate::marks;
use crate::modules;
use crate::object::tag;
use crate::program::{Source, Template};
use crate::stack::{push_str, push_weak};

/// Places in an isolate's record.
pub mod slot {
    use std::ffi::c_int;
    pub const ISOLATE: c_int = 1;
    /// Boot's function that finds and calls the handler of an event, and the one that gives what the entry returned.
    pub const RUN: c_int = 2;
    pub const LOAD_ENTRY: c_int = 3;
    /// What the entry returned; nil until then.
    pub const EXPORTS: c_int = 4;
    pub const STORE: c_int = 5;
    pub const EXTRA_PLUGINS: c_int = 6;
    /// The event tables of the last `ctx` objects, by their number; weak.
    pub const EVENTS: c_int = 7;
    /// The modules that run with these globals, by the id of their require function and their path.
    pub const MODULES: c_int = 8;
    /// What was read of `ctx`; nil until then.
    pub const KV: c_int = 9;
    pub const GLOBAL_KV: c_int = 10;
    pub const OBJECT_STORAGE: c_int = 11;
    pub const DISCORD: c_int = 12;
    pub const RUNTIME: c_int = 13;
    pub const CURRENT_USER: c_int = 14;
    /// Room that is made for these at once; the rest is made with them.
    pub const LAST: c_int = MODULES;
}

/// Chunk name of the Luau code that belongs to the engine: its frames are not shown.
pub const BOOT_NAME: &CStr = c"=[boot]";

/// How many events of an isolate are found again from their `ctx`.
pub const RING: u64 = 32;

/// Event names per isolate that are remembered to read their data.
const NAMES_MAX: usize = 256;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What native code knows about an isolate.
pub struct Core {
    /// Unique in the process: addresses may come back, this does not.
    pub id: u64,
    pub template: Arc<Template>,
    names: RefCell<FxHashMap<Box<str>, usize>>,
    /// Per event name: its handler has read `data` before, so it is parsed at once.
    reads: RefCell<Vec<Cell<bool>>>,
    count: Cell<u64>,
    /// Which event each place of the ring holds.
    pub events: [Cell<u64>; RING as usize],
}

impl Core {
    fn new(template: Arc<Template>) -> Rc<Core> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Rc::new(Core {
            id,
            template,
            names: RefCell::default(),
            reads: RefCell::default(),
            count: Cell::new(0),
            events: Default::default(),
        })
    }

    /// The number of a new event, from 1.
    pub fn next_event(&self) -> u64 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    /// The place of an event name in `reads_data`.
    fn name_index(&self, name: &str) -> usize {
        let mut names = self.names.borrow_mut();
        if let Some(&index) = names.get(name) {
            return index;
        }
        if names.len() >= NAMES_MAX {
            return 0;
        }
        let mut reads = self.reads.borrow_mut();
        let index = reads.len();
        reads.push(Cell::default());
        names.insert(name.into(), index);
        index
    }

    pub fn reads_data(&self, index: usize) -> bool {
        self.reads.borrow().get(index).is_some_and(|reads| reads.get())
    }

    pub fn note_read(&self, index: usize) {
        if let Some(reads) = self.reads.borrow().get(index) {
            reads.set(true);
        }
    }
}

unsafe extern "C" fn drop_core(_state: *mut lua_State, data: *mut c_void) {
    // SAFETY: the userdata holds the pointer that `Rc::into_raw` gave, or null if its making failed.
    unsafe {
        let core = *(data as *const *const Core);
        if !core.is_null() {
            drop(Rc::from_raw(core));
        }
    }
}

/// The isolate of the running thread. Valid while that thread runs.
pub unsafe fn current<'a>(state: *mut lua_State) -> Option<&'a Core> {
    unsafe {
        if ffi::lua_getmetatable(state, ffi::LUA_GLOBALSINDEX) == 0 {
            return None;
        }
        ffi::lua_rawgeti_(state, -1, slot::ISOLATE);
        let core = core_at(state, -1);
        ffi::lua_settop(state, -3);
        core
    }
}

/// Pushes the record behind the globals at `index`: an isolate's or a proxy's. Pushes nothing and gives false for other
/// tables: a script may give its own whatever metatable it likes, but has no isolate to put into it.
pub unsafe fn push_record(state: *mut lua_State, index: c_int) -> bool {
    unsafe {
        if ffi::lua_getmetatable(state, index) == 0 {
            return false;
        }
        ffi::lua_rawgeti_(state, -1, slot::ISOLATE);
        let genuine = core_at(state, -1).is_some();
        ffi::lua_settop(state, if genuine { -2 } else { -3 });
        genuine
    }
}

pub unsafe fn core_at<'a>(state: *mut lua_State, index: c_int) -> Option<&'a Core> {
    unsafe {
        let data = ffi::lua_touserdatatagged(state, index, tag::ISOLATE) as *const *const Core;
        if data.is_null() { None } else { (*data).as_ref() }
    }
}

/// Pushes what the running thread's isolate has at a place of its record.
pub unsafe fn push_slot(state: *mut lua_State, place: c_int) {
    unsafe {
        if ffi::lua_getmetatable(state, ffi::LUA_GLOBALSINDEX) == 0 {
            return ffi::lua_pushnil(state);
        }
        ffi::lua_rawgeti_(state, -1, place);
        ffi::lua_remove(state, -2);
    }
}

/// Puts a copy of the value on top into the running thread's isolate's record.
pub unsafe fn set_slot(state: *mut lua_State, place: c_int) {
    unsafe {
        ffi::lua_rawcheckstack(state, 2);
        if ffi::lua_getmetatable(state, ffi::LUA_GLOBALSINDEX) != 0 {
            ffi::lua_pushvalue(state, -2);
            ffi::lua_rawseti_(state, -2, place);
            ffi::lua_settop(state, -2);
        }
    }
}

/// Sets the VM up for isolates; before its globals are sealed.
pub unsafe fn install(state: *mut lua_State) {
    unsafe {
        ffi::lua_setuserdatadtor(state, tag::ISOLATE, Some(drop_core));
        chunk::install(state);
        modules::install(state);
        context::install(state);
    }
}

/// The owner's hold on an isolate.
pub struct Isolate {
    pub core: Rc<Core>,
    /// Registry slot of the globals.
    globals: c_int,
}

impl Isolate {
    /// Makes the isolate of a template; inside a protected call.
    pub unsafe fn make(state: *mut lua_State, template: &Arc<Template>) -> Isolate {
        unsafe {
            ffi::lua_rawcheckstack(state, 16);
            let top = ffi::lua_gettop(state);
            ffi::lua_createtable(state, 0, 2);
            let globals = top + 1;
            let core = make_record(state, globals, template);
            let record = top + 2;
            // Only now: the record is complete enough to be read.
            ffi::lua_pushvalue(state, record);
            ffi::lua_setmetatable(state, globals);
            ffi::lua_setsafeenv(state, globals, 1);
            ffi::lua_pushvalue(state, globals);
            ffi::lua_rawsetfield(state, globals, c"_G".as_ptr());
            modules::push_isolate(state, template.files.clone(), globals);
            ffi::lua_rawseti_(state, record, slot::LOAD_ENTRY);
            ffi::lua_rawseti_(state, record, slot::RUN);
            ffi::lua_rawsetfield(state, globals, c"require".as_ptr());
            let globals = ffi::lua_ref(state, globals);
            ffi::lua_settop(state, top);
            Isolate { core, globals }
        }
    }

    /// The registry slot that keeps the isolate; threads that still run in it keep it alive without.
    pub fn slot(&self) -> c_int {
        self.globals
    }

    /// Gives the new thread `co` the isolate's globals. Pushes them on `state` too.
    unsafe fn enter(&self, state: *mut lua_State, co: *mut lua_State) {
        unsafe {
            ffi::lua_rawcheckstack(state, 12);
            ffi::lua_rawgeti_(state, ffi::LUA_REGISTRYINDEX, self.globals);
            ffi::lua_xpush(state, co, -1);
            ffi::lua_replace(co, ffi::LUA_GLOBALSINDEX);
        }
    }

    /// Gives `co`, a new thread that is anchored, the function and the arguments that handle an event; inside a
    /// protected call on `state`. Gives the number of arguments.
    pub unsafe fn push_event_call(&self, state: *mut lua_State, co: *mut lua_State, event: &EventInfo) -> c_int {
        // SAFETY: by the caller.
        unsafe {
            let top = ffi::lua_gettop(state);
            self.enter(state, co);
            ffi::lua_getmetatable(state, -1);
            let record = ffi::lua_gettop(state);
            let mut nargs = 1;
            if !push_handler(state, record, &event.name) {
                ffi::lua_rawgeti_(state, record, slot::RUN);
                push_str(state, event.name.as_bytes());
                nargs = 2;
            }
            context::push(state, &self.core, self.core.name_index(&event.name), event);
            ffi::lua_xmove(state, co, nargs + 1);
            ffi::lua_settop(state, top);
            nargs
        }
    }

    /// As `push_event_call`, for a chunk that runs once and gets `ctx` as `...`; raises what the compiler says.
    pub unsafe fn push_script_call(&self, state: *mut lua_State, co: *mut lua_State, source: &Source, event: &EventInfo) -> c_int {
        // SAFETY: by the caller.
        unsafe {
            let top = ffi::lua_gettop(state);
            self.enter(state, co);
            let name = chunk_name(&[b"=", self.core.template.name.as_bytes()].concat());
            let done = push_chunk(state, &name, source.bytecode(), ffi::lua_gettop(state), Style::Luau);
            drop(name);
            if !done {
                ffi::lua_error(state);
            }
            context::push(state, &self.core, self.core.name_index(&event.name), event);
            ffi::lua_xmove(state, co, 2);
            ffi::lua_settop(state, top);
            1
        }
    }

    /// As `push_event_call`, for what the template's entry returns.
    pub unsafe fn push_entry_call(&self, state: *mut lua_State, co: *mut lua_State) -> c_int {
        // SAFETY: by the caller.
        unsafe {
            let top = ffi::lua_gettop(state);
            self.enter(state, co);
            ffi::lua_getmetatable(state, -1);
            ffi::lua_rawgeti_(state, -1, slot::LOAD_ENTRY);
            ffi::lua_xmove(state, co, 1);
            ffi::lua_settop(state, top);
            0
        }
    }
}

/// Pushes the record of an isolate, which becomes the metatable of its globals.
unsafe fn make_record(state: *mut lua_State, globals: c_int, template: &Arc<Template>) -> Rc<Core> {
    unsafe {
        ffi::lua_createtable(state, slot::LAST, 4);
        let record = globals + 1;
        let data = ffi::lua_newuserdatatagged(state, size_of::<*const Core>(), tag::ISOLATE) as *mut *const Core;
        *data = ptr::null();
        ffi::lua_rawseti_(state, record, slot::ISOLATE);
        ffi::lua_pushvalue(state, ffi::LUA_GLOBALSINDEX);
        ffi::lua_rawsetfield(state, record, c"__index".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_rawsetfield(state, record, c"__metatable".as_ptr());
        ffi::lua_createtable(state, 0, 0);
        ffi::lua_rawseti_(state, record, slot::STORE);
        ffi::lua_createtable(state, 0, 0);
        marks::mark_array(state);
        ffi::lua_setreadonly(state, -1, 1);
        ffi::lua_rawseti_(state, record, slot::EXTRA_PLUGINS);
        push_weak(state, c"v", RING as c_int);
        ffi::lua_rawseti_(state, record, slot::EVENTS);
        // Last, when nothing can raise any more: the userdata gets its share of the core.
        let core = Core::new(template.clone());
        *data = Rc::into_raw(core.clone());
        core
    }
}

/// Pushes the handler if it can be told without running script code: the entry is there, and is a function or a plain
/// table that has one.
unsafe fn push_handler(state: *mut lua_State, record: c_int, event: &str) -> bool {
    unsafe {
        match ffi::lua_rawgeti_(state, record, slot::EXPORTS) {
            ffi::LUA_TFUNCTION => return true,
            ffi::LUA_TTABLE => {
                push_str(state, event.as_bytes());
                if ffi::lua_rawget(state, -2) == ffi::LUA_TFUNCTION {
                    ffi::lua_remove(state, -2);
                    return true;
                }
                ffi::lua_settop(state, -2);
            }
            _ => {}
        }
        ffi::lua_settop(state, -2);
        false
    }
}
