//! `ctx`: one tagged userdata per event and template, with the raw event inside, so that the VM's limit counts it.

use std::ffi::{CStr, c_int};
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::event;
use crate::isolate::{self, Core, slot};
use crate::json::bytes_at;
use crate::plugins;

pub const TAG_CTX: c_int = 21;

/// An event on its way into a VM.
pub struct EventInfo {
    pub request: u64,
    pub name: Box<str>,
    /// Raw JSON.
    pub payload: Box<[u8]>,
    pub author: Option<Box<str>>,
    pub redelivered: bool,
}

/// The head of the userdata; name, author and payload follow it.
#[repr(C)]
pub struct Ctx {
    /// `Core::id` of the isolate that it answers to.
    isolate: u64,
    /// Counts the events of the isolate.
    pub number: u64,
    pub name_index: usize,
    name_bytes: usize,
    author_bytes: usize,
    payload_bytes: usize,
    has_author: bool,
    pub redelivered: bool,
}

impl Ctx {
    fn part(&self, start: usize, bytes: usize) -> &[u8] {
        // SAFETY: `push` has written this many bytes behind the head, and the userdata is on the caller's stack.
        unsafe { std::slice::from_raw_parts(ptr::from_ref(self).cast::<u8>().add(size_of::<Ctx>() + start), bytes) }
    }

    pub fn name(&self) -> &[u8] {
        self.part(0, self.name_bytes)
    }

    pub fn author(&self) -> Option<&[u8]> {
        self.has_author.then(|| self.part(self.name_bytes, self.author_bytes))
    }

    pub fn payload(&self) -> &[u8] {
        self.part(self.name_bytes + self.author_bytes, self.payload_bytes)
    }
}

/// Pushes the `ctx` of an event for an isolate.
pub unsafe fn push(state: *mut lua_State, core: &Core, name_index: usize, event: &EventInfo) {
    let (name, author, payload) = (event.name.as_bytes(), event.author.as_deref().unwrap_or_default().as_bytes(), &event.payload);
    let bytes = size_of::<Ctx>() + name.len() + author.len() + payload.len();
    // SAFETY: inside a protected call; the userdata has room for all that is written.
    unsafe {
        let ctx = ffi::lua_newuserdatataggedwithmetatable(state, bytes, TAG_CTX) as *mut Ctx;
        ctx.write(Ctx {
            isolate: core.id,
            number: core.next_event(),
            name_index,
            name_bytes: name.len(),
            author_bytes: author.len(),
            payload_bytes: payload.len(),
            has_author: event.author.is_some(),
            redelivered: event.redelivered,
        });
        let mut at = ctx.add(1).cast::<u8>();
        for part in [name, author, payload] {
            ptr::copy_nonoverlapping(part.as_ptr(), at, part.len());
            at = at.add(part.len());
        }
    }
}

/// The `ctx` at an index, whoever it belongs to.
pub unsafe fn at<'a>(state: *mut lua_State, index: c_int) -> Option<&'a Ctx> {
    // SAFETY: only `push` makes userdata with this tag.
    unsafe { (ffi::lua_touserdatatagged(state, index, TAG_CTX) as *const Ctx).as_ref() }
}

/// The `ctx` at index 1, which must be the running isolate's own, and that isolate.
pub unsafe fn own<'a>(state: *mut lua_State) -> (&'a Ctx, &'a Core) {
    // SAFETY: called by Luau, with `ctx` on the stack.
    unsafe {
        let Some(ctx) = at(state, 1) else { ffi::luaL_typeerror(state, 1, c"TemplateContext".as_ptr()) };
        match isolate::current(state) {
            Some(core) if core.id == ctx.isolate => (ctx, core),
            _ => ffi::luaL_error(state, c"this ctx belongs to another template".as_ptr()),
        }
    }
}

unsafe extern "C-unwind" fn has_cap(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let (_, core) = own(state);
        ffi::luaL_checklstring(state, 2, ptr::null_mut());
        ffi::lua_pushboolean(state, core.template.has_cap(bytes_at(state, 2)).into());
        1
    }
}

/// Each is compared with each of the template's own, without a poll.
const CAPS_ASKED_MAX: c_int = 256;

unsafe extern "C-unwind" fn has_any_cap(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let (_, core) = own(state);
        ffi::luaL_checktype(state, 2, ffi::LUA_TTABLE);
        let mut any = false;
        let length = ffi::lua_objlen_(state, 2);
        if length > CAPS_ASKED_MAX {
            ffi::luaL_argerror(state, 2, c"a list of at most 256 capabilities is expected".as_ptr());
        }
        for i in 1..=length {
            if ffi::lua_rawgeti_(state, 2, i) != ffi::LUA_TSTRING {
                ffi::luaL_argerror(state, 2, c"a list of strings is expected".as_ptr());
            }
            any |= core.template.has_cap(bytes_at(state, -1));
            ffi::lua_settop(state, 2);
        }
        ffi::lua_pushboolean(state, any.into());
        1
    }
}

type Method = (&'static CStr, ffi::lua_CFunction);
const METHODS: [Method; 3] = [(c"event", event::of_ctx), (c"has_cap", has_cap), (c"has_any_cap", has_any_cap)];

/// `ctx.x`: upvalue 1 holds the methods.
unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        own(state);
        let place = match bytes_at(state, 2) {
            b"KV" => slot::KV,
            b"Discord" => slot::DISCORD,
            b"Runtime" => slot::RUNTIME,
            b"store" => slot::STORE,
            b"allowed_caps" => slot::CAPS,
            b"available_extra_plugins" => slot::EXTRA_PLUGINS,
            b"memory_limit" => {
                ffi::lua_pushnil(state);
                return 1;
            }
            _ => {
                ffi::lua_settop(state, 2);
                ffi::lua_pushvalue(state, 2);
                if ffi::lua_rawget(state, ffi::lua_upvalueindex(1)) == ffi::LUA_TNIL {
                    unknown_field(state);
                }
                return 1;
            }
        };
        isolate::push_slot(state, place);
        if ffi::lua_type(state, -1) == ffi::LUA_TNIL {
            plugins::make(state, place);
        }
        1
    }
}

/// `ctx:x(...)`, without a look-up for the methods there are.
unsafe extern "C-unwind" fn namecall(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let name = ffi::lua_namecallatom(state, ptr::null_mut());
        let name = if name.is_null() { c"" } else { CStr::from_ptr(name) };
        match METHODS.iter().find(|(known, _)| *known == name) {
            Some((_, method)) => method(state),
            None => ffi::luaL_error(state, c"attempt to get an unknown field '%s'".as_ptr(), name.as_ptr()),
        }
    }
}

/// Raises the error for the name at index 2.
pub unsafe fn unknown_field(state: *mut lua_State) -> ! {
    // SAFETY: called by Luau functions; the text is the script's own value.
    unsafe {
        let name = ffi::luaL_tolstring_(state, 2, ptr::null_mut());
        ffi::luaL_error(state, c"attempt to get an unknown field '%s'".as_ptr(), name)
    }
}

pub unsafe extern "C-unwind" fn no_assignment(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let name = ffi::luaL_tolstring_(state, 2, ptr::null_mut());
        ffi::luaL_error(state, c"attempt to set an unknown field '%s'".as_ptr(), name)
    }
}

/// `tostring`: upvalue 1 is the type's name.
unsafe extern "C-unwind" fn type_name(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        1
    }
}

/// Fills the metatable on top with what all of our userdata types share.
pub unsafe fn name_type(state: *mut lua_State, name: &CStr) {
    // SAFETY: while a VM is set up.
    unsafe {
        ffi::lua_pushstring_(state, name.as_ptr());
        ffi::lua_pushvalue(state, -1);
        ffi::lua_rawsetfield(state, -3, c"__type".as_ptr());
        ffi::lua_pushcclosurek(state, type_name, c"tostring".as_ptr(), 1, None);
        ffi::lua_rawsetfield(state, -2, c"__tostring".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_rawsetfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_pushcclosurek(state, no_assignment, c"newindex".as_ptr(), 0, None);
        ffi::lua_rawsetfield(state, -2, c"__newindex".as_ptr());
    }
}

/// Makes the types of this file and of those that belong to `ctx`.
pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe {
        ffi::lua_createtable(state, 1, 8);
        name_type(state, c"TemplateContext");
        ffi::lua_createtable(state, 0, METHODS.len() as c_int);
        for (name, method) in METHODS {
            ffi::lua_pushcclosurek(state, method, name.as_ptr(), 0, None);
            ffi::lua_rawsetfield(state, -2, name.as_ptr());
        }
        ffi::lua_pushcclosurek(state, index, c"index".as_ptr(), 1, None);
        ffi::lua_rawsetfield(state, -2, c"__index".as_ptr());
        ffi::lua_pushcclosurek(state, namecall, c"namecall".as_ptr(), 0, None);
        ffi::lua_rawsetfield(state, -2, c"__namecall".as_ptr());
        event::install(state);
        ffi::lua_rawseti_(state, -2, event::LAZY);
        ffi::lua_setuserdatametatable(state, TAG_CTX);
        plugins::install(state);
    }
}
