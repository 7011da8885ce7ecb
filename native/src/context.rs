//! `ctx`: what a handler is called with.
//!
//! The engine makes one tagged userdata per event and template, with the raw event inside, so that the VM's limit counts
//! it. `ctx:with` makes others, which hold fewer capabilities and, where they are given one, an event of their own. All answer
//! to the isolate that got them only.

use std::ffi::{CStr, c_int};
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::api::{captcha, http};
use crate::call::{self, Call, Done, Fault, Named};
use crate::caps::{Narrowed, Rights};
use crate::isolate::{self, Core, slot};
use crate::object::{self, Object, Type, tag};
use crate::{event, marks, plugins, user, value};

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
        let ctx = ffi::lua_newuserdatataggedwithmetatable(state, bytes, tag::CTX) as *mut Ctx;
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

/// The `ctx` of an event at an index, whoever it belongs to.
pub unsafe fn at<'a>(state: *mut lua_State, index: c_int) -> Option<&'a Ctx> {
    // SAFETY: only `push` makes userdata with this tag.
    unsafe { (ffi::lua_touserdatatagged(state, index, tag::CTX) as *const Ctx).as_ref() }
}

/// What `ctx:with` makes. Its values: `event`, the event's table or the `ctx` that has it, and by name what was read of it.
struct SubContext {
    isolate: u64,
    narrowed: Narrowed,
}

impl Object for SubContext {
    const TAG: c_int = tag::SUB_CONTEXT;
    const NAME: &'static CStr = c"TemplateContext";
    const METHODS: &'static [Named] = &METHODS;
    const FIELDS: &'static [Named] = &FIELDS;
}

/// A context as its methods see it.
struct View<'a> {
    core: &'a Core,
    narrowed: Option<&'a Narrowed>,
}

impl View<'_> {
    fn rights(&self) -> Rights<'_> {
        Rights { template: &self.core.template.caps, narrowed: self.narrowed.map(|caps| &caps[..]) }
    }

    /// The capabilities as its holder sees them.
    fn caps(&self) -> &[Box<str>] {
        self.narrowed.map_or(&self.core.template.caps, |caps| &caps[..])
    }
}

/// The context at index 1, which must be one of the running isolate's.
fn view(call: &Call) -> Result<View<'_>, Fault> {
    // SAFETY: called by Luau, with the context on the stack.
    let (of, narrowed) = match (unsafe { at(call.state, 1) }, call.object_if::<SubContext>(1)) {
        (Some(ctx), _) => (ctx.isolate, None),
        (None, Some(sub)) => (sub.isolate, Some(&sub.narrowed)),
        (None, None) => return Err(call.wrong(1, "TemplateContext")),
    };
    // SAFETY: the running thread.
    match unsafe { isolate::current(call.state) } {
        Some(core) if core.id == of => Ok(View { core, narrowed }),
        _ => Err("this ctx belongs to another template".into()),
    }
}

// ---- methods ------------------------------------------------------------------------------------------

const METHODS: [Named; 4] = [(c"event", of_event), (c"has_cap", has_cap), (c"has_any_cap", has_any_cap), (c"with", with)];

fn of_event(call: &Call) -> Done {
    let View { mut core, narrowed } = view(call)?;
    call.set_top(1);
    if narrowed.is_some() {
        call.push_values(1);
        if call.push_field(2, c"event") == ffi::LUA_TTABLE {
            return Ok(1);
        }
        // SAFETY: the running thread, as above.
        unsafe { ffi::lua_replace(call.state, 1) };
        call.set_top(1);
        core = view(call)?.core;
    }
    // SAFETY: called by Luau; the context of an event is at index 1.
    unsafe { event::push(call.state, core) };
    Ok(1)
}

fn has_cap(call: &Call) -> Done {
    let held = view(call)?.rights().permit(call.bytes(2)?);
    call.push_bool(held);
    Ok(1)
}

/// Each is compared with each of those held, without a poll.
const CAPS_ASKED_MAX: usize = 256;
/// Bytes of all of them.
const CAPS_BYTES_MAX: usize = 16 << 10;

fn has_any_cap(call: &Call) -> Done {
    let asked = call.texts(2, CAPS_ASKED_MAX, CAPS_BYTES_MAX)?;
    let view = view(call)?;
    let rights = view.rights();
    call.push_bool(asked.iter().any(|cap| rights.permit(cap.as_bytes())));
    Ok(1)
}

/// `ctx:with{capabilities = {...}, event = {name, author, data}?}`.
fn with(call: &Call) -> Done {
    let View { core, narrowed } = view(call)?;
    call.table(2)?;
    call.set_top(2);
    call.push_field(2, c"capabilities");
    if call.kind(3) != ffi::LUA_TTABLE {
        return Err("ctx:with needs capabilities = {...}, a list of strings; an empty one is allowed".into());
    }
    let wanted = call.texts(3, CAPS_ASKED_MAX, CAPS_BYTES_MAX)?;
    let rights = View { core, narrowed };
    if let Some(missing) = wanted.iter().find(|cap| !rights.rights().permit(cap.as_bytes())) {
        return Err(format!("Missing capability: {missing}. The capabilities of a new context must be strictly a subset of itself").into());
    }
    let narrowed = Narrowed::new(call.state, &wanted)?;
    call.push_field(2, c"event");
    match call.kind(4) {
        ffi::LUA_TNIL => push_shared_event(call),
        ffi::LUA_TTABLE => push_new_event(call)?,
        _ => return Err("the event of ctx:with is a table {name, author, data}".into()),
    }
    call.push_object(SubContext { isolate: core.id, narrowed });
    call.push_values(6);
    call.push_value(5);
    call.set_field(7, c"event");
    call.set_top(6);
    Ok(1)
}

/// Pushes the event's table of the context at index 1, or the context of the event that has it.
fn push_shared_event(call: &Call) {
    if call.object_if::<SubContext>(1).is_some() {
        call.push_values(1);
        call.push_field(5, c"event");
        // SAFETY: drops the table of values below the event.
        unsafe { ffi::lua_remove(call.state, 5) };
    } else {
        call.push_value(1);
    }
}

/// Pushes a read-only event with a copy of what the table at index 4 has: what a context's holder changes later changes
/// no other context's event.
fn push_new_event(call: &Call) -> Result<(), Fault> {
    if call.push_field(4, c"name") != ffi::LUA_TSTRING {
        return Err("the event of ctx:with needs a name, a string".into());
    }
    if !matches!(call.push_field(4, c"author"), ffi::LUA_TNIL | ffi::LUA_TSTRING) {
        return Err("the author of an event is a string".into());
    }
    // SAFETY: the running thread.
    unsafe {
        event::complete(call.state, 4);
        call.push_field(4, c"data");
        value::copy(call.state, 7).map_err(|refusal| Fault::from(refusal).of("the event's data"))?;
    }
    call.push_table(0, 3);
    for (index, name) in [(5, c"name"), (6, c"author"), (8, c"data")] {
        call.push_value(index);
        call.set_field(9, name);
    }
    call.freeze(9);
    // SAFETY: moves the event down over what it was made of.
    unsafe { ffi::lua_replace(call.state, 5) };
    call.set_top(5);
    Ok(())
}

// ---- fields -------------------------------------------------------------------------------------------

/// The fields of `ctx` that are plugins bound to it.
#[derive(Clone, Copy)]
pub enum Field {
    Kv,
    GlobalKv,
    ObjectStorage,
    Discord,
    Runtime,
}

const FIELDS: [Named; 13] = [
    (c"KV", |call| plugin(call, Field::Kv, slot::KV, c"KV")),
    (c"GlobalKV", |call| plugin(call, Field::GlobalKv, slot::GLOBAL_KV, c"GlobalKV")),
    (c"ObjectStorage", |call| plugin(call, Field::ObjectStorage, slot::OBJECT_STORAGE, c"ObjectStorage")),
    (c"Discord", |call| plugin(call, Field::Discord, slot::DISCORD, c"Discord")),
    (c"Runtime", |call| plugin(call, Field::Runtime, slot::RUNTIME, c"Runtime")),
    (c"HTTPClient", |call| shared_table(call, http::push)),
    (c"ImageCaptcha", |call| shared_table(call, captcha::push)),
    (c"HTTPServer", no_http_server),
    (c"store", |call| shared_field(call, slot::STORE)),
    (c"allowed_caps", allowed_caps),
    (c"current_user", current_user),
    (c"memory_limit", memory_limit),
    (c"available_extra_plugins", |call| shared_field(call, slot::EXTRA_PLUGINS)),
];

/// A plugin, made at its first use and kept: with the isolate for an event's context, else with the context.
fn plugin(call: &Call, field: Field, place: c_int, name: &CStr) -> Done {
    let View { core, narrowed } = view(call)?;
    match narrowed {
        None => {
            // SAFETY: the running thread.
            unsafe { isolate::push_slot(call.state, place) };
            if call.is_nil(-1) {
                plugins::push(call, field, core.id, None);
                // SAFETY: as above.
                unsafe { isolate::set_slot(call.state, place) };
            }
        }
        Some(caps) => {
            call.set_top(1);
            call.push_values(1);
            if call.push_field(2, name) == ffi::LUA_TNIL {
                plugins::push(call, field, core.id, Some(caps.clone()));
                call.push_value(-1);
                call.set_field(2, name);
            }
        }
    }
    Ok(1)
}

/// A read-only table that all contexts of the VM share.
fn shared_table(call: &Call, push: unsafe fn(*mut lua_State)) -> Done {
    view(call)?;
    // SAFETY: the running thread.
    unsafe { push(call.state) };
    Ok(1)
}

/// What all contexts of the isolate have in common.
fn shared_field(call: &Call, place: c_int) -> Done {
    view(call)?;
    // SAFETY: the running thread.
    unsafe { isolate::push_slot(call.state, place) };
    Ok(1)
}

fn allowed_caps(call: &Call) -> Done {
    let view = view(call)?;
    let caps = view.caps();
    call.push_table(caps.len(), 0);
    for (place, cap) in (1..).zip(caps) {
        call.push_bytes(cap.as_bytes());
        call.set_item(-2, place);
    }
    marks::mark_array(call.state);
    call.freeze(-1);
    Ok(1)
}

fn current_user(call: &Call) -> Done {
    view(call)?;
    user::push(call)
}

fn memory_limit(call: &Call) -> Done {
    view(call)?;
    call.push_nil();
    Ok(1)
}

fn no_http_server(_call: &Call) -> Done {
    Err("The httpserver plugin is not supported in this context".into())
}

/// A tenant's id as text, without the bit that tells users from guilds.
pub fn name_of_tenant(tenant: u64) -> String {
    (tenant & !(1 << 63)).to_string()
}

// ---- the type -----------------------------------------------------------------------------------------

/// `ctx:x(...)`. The method that every handler calls is told without a look-up.
unsafe extern "C-unwind" fn namecall(state: *mut lua_State) -> c_int {
    // SAFETY: called by Luau.
    unsafe {
        let name = ffi::lua_namecallatom(state, ptr::null_mut());
        if !name.is_null() && CStr::from_ptr(name) == c"event" {
            return call::run(state, of_event);
        }
        object::namecall(state)
    }
}

/// Makes the type of the contexts of events.
pub unsafe fn install(state: *mut lua_State) {
    // SAFETY: while a VM is set up.
    unsafe {
        object::make_metatable(
            state,
            &Type { name: c"TemplateContext", is_typed: true, methods: &METHODS, fields: &FIELDS, setters: &[], operators: &[] },
        );
        object::push_pointers(state, &METHODS);
        ffi::lua_pushcclosurek(state, namecall, c"namecall".as_ptr(), 1, None);
        ffi::lua_rawsetfield(state, -2, c"__namecall".as_ptr());
        event::install(state);
        ffi::lua_rawseti_(state, -2, event::LAZY);
        ffi::lua_setuserdatametatable(state, tag::CTX);
    }
}
