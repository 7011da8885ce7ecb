//! `ctx:event()`: one read-only table per event. `data` is parsed when it is first read, or at once for an event whose
//! handler has read it before.
//!
//! Until then the table has a metatable, and the `ctx` with the raw JSON under a key that no script can name; afterwards
//! it is a plain table. The way from a `ctx` to its table goes through a small ring of weak values per isolate: cheaper
//! than a weak-keyed table, and a table that the ring has lost is made again, equal to the first.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::context::{self, Ctx};
use crate::isolate::{self, Core, RING, slot};
use crate::json;
use crate::keys::Keys;
use crate::object::tag;
use crate::scheduler;
use crate::stack::{bytes_at, push_str};

/// Place of the metatable of events without data in the metatable of `ctx`.
pub const LAZY: c_int = 1;

/// What marks an event without data, in its metatable and as the key of its `ctx`.
static MARKED: u8 = 0;

fn mark() -> *mut std::ffi::c_void {
    (&raw const MARKED).cast_mut().cast()
}

/// Pushes the event of the isolate's own `ctx` at index 1, the only value on the stack.
pub unsafe fn push(state: *mut lua_State, core: &Core) {
    // SAFETY: called by functions that Luau called; the context stays at index 1.
    unsafe {
        let Some(ctx) = context::at(state, 1) else { return ffi::lua_pushnil(state) };
        ffi::lua_rawcheckstack(state, 8);
        isolate::push_slot(state, slot::EVENTS);
        let place = (ctx.number % RING) as usize;
        if core.events[place].get() == ctx.number && ffi::lua_rawgeti_(state, 2, place as c_int + 1) == ffi::LUA_TTABLE {
            return;
        }
        ffi::lua_settop(state, 2);
        ffi::lua_createtable(state, 0, 4);
        push_str(state, b"name");
        push_str(state, ctx.name());
        ffi::lua_rawset(state, 3);
        if let Some(author) = ctx.author() {
            push_str(state, author);
            ffi::lua_rawsetfield(state, 3, c"author".as_ptr());
        }
        if ctx.redelivered {
            ffi::lua_pushboolean(state, 1);
            ffi::lua_rawsetfield(state, 3, c"redelivered".as_ptr());
        }
        if core.reads_data(ctx.name_index) {
            push_str(state, b"data");
            push_data(state, ctx);
            ffi::lua_rawset(state, 3);
        } else {
            ffi::lua_pushvalue(state, 1);
            ffi::lua_rawsetptagged(state, 3, mark(), 0);
            ffi::lua_getuserdatametatable(state, tag::CTX);
            ffi::lua_rawgeti_(state, 4, LAZY);
            ffi::lua_setmetatable(state, 3);
            ffi::lua_settop(state, 3);
        }
        ffi::lua_setreadonly(state, 3, 1);
        ffi::lua_pushvalue(state, 3);
        ffi::lua_rawseti_(state, 2, place as c_int + 1);
        core.events[place].set(ctx.number);
    }
}

/// Pushes the parsed payload, or raises what the parser says.
unsafe fn push_data(state: *mut lua_State, ctx: &Ctx) {
    // SAFETY: inside a function that Luau called.
    unsafe {
        let vm = scheduler::vm();
        let done = match json::push(state, vm.keys.get_or_init(|| Keys::new(state)), json::EVENT, ctx.name(), ctx.payload()) {
            Ok(()) => true,
            Err(bad) => {
                vm.breach.set(bad.limit());
                push_str(state, format!("the event's data is not readable: {bad}").as_bytes());
                false
            }
        };
        if !done {
            ffi::lua_error(state);
        }
    }
}

/// Gives the event at `index` its data, if it is one that has none yet. May raise.
pub unsafe fn complete(state: *mut lua_State, index: c_int) -> bool {
    // SAFETY: inside a protected call.
    unsafe {
        ffi::lua_rawcheckstack(state, 8);
        let index = ffi::lua_absindex(state, index);
        let top = ffi::lua_gettop(state);
        if ffi::lua_getmetatable(state, index) == 0 {
            return false;
        }
        if ffi::lua_rawgetptagged(state, top + 1, mark(), 0) != ffi::LUA_TBOOLEAN {
            ffi::lua_settop(state, top);
            return false;
        }
        ffi::lua_rawgetptagged(state, index, mark(), 0);
        if let Some(ctx) = context::at(state, -1) {
            push_str(state, b"data");
            push_data(state, ctx);
            fill(state, index);
        }
        ffi::lua_settop(state, top);
        true
    }
}

/// Gives the event at `index` the field and the data on top, and makes it a plain table.
unsafe fn fill(state: *mut lua_State, index: c_int) {
    // SAFETY: inside a protected call, with an event that has no data at `index`.
    unsafe {
        ffi::lua_setreadonly(state, index, 0);
        ffi::lua_rawset(state, index);
        ffi::lua_pushnil(state);
        ffi::lua_rawsetptagged(state, index, mark(), 0);
        ffi::lua_pushnil(state);
        ffi::lua_setmetatable(state, index);
        ffi::lua_setreadonly(state, index, 1);
    }
}

/// `event.x` while the data is not there.
unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::lua_settop(state, 2);
        if bytes_at(state, 2) != b"data" {
            return 0;
        }
        // Only an event without data has this function in its metatable, and nothing gives that away.
        ffi::lua_rawgetptagged(state, 1, mark(), 0);
        let Some(ctx) = context::at(state, 3) else { return 0 };
        if let Some(core) = isolate::current(state) {
            core.note_read(ctx.name_index);
        }
        push_data(state, ctx);
        ffi::lua_pushvalue(state, 2);
        ffi::lua_pushvalue(state, 4);
        fill(state, 1);
        1
    }
}

/// `for k, v in event`.
unsafe extern "C-unwind" fn iter(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::lua_settop(state, 1);
        note_read(state);
        complete(state, 1);
        ffi::lua_getglobal(state, c"next".as_ptr());
        ffi::lua_insert(state, 1);
        2
    }
}

/// Remembers that the handler of the event at index 1 reads its data.
unsafe fn note_read(state: *mut lua_State) {
    // SAFETY: called by functions that Luau called.
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
            return;
        }
        ffi::lua_rawgetptagged(state, 1, mark(), 0);
        if let (Some(ctx), Some(core)) = (context::at(state, -1), isolate::current(state)) {
            core.note_read(ctx.name_index);
        }
        ffi::lua_settop(state, -2);
    }
}

/// Pushes the metatable of events without data.
pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        ffi::lua_pushboolean(state, 1);
        ffi::lua_rawsetptagged(state, -2, mark(), 0);
        ffi::lua_pushcclosurek(state, index, c"index".as_ptr(), 0, None);
        ffi::lua_rawsetfield(state, -2, c"__index".as_ptr());
        ffi::lua_pushcclosurek(state, iter, c"iter".as_ptr(), 0, None);
        ffi::lua_rawsetfield(state, -2, c"__iter".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_rawsetfield(state, -2, c"__metatable".as_ptr());
    }
}
