//! The objects behind `ctx.KV`, `ctx.GlobalKV`, `ctx.ObjectStorage`, `ctx.Discord` and `ctx.Runtime`: what they check
//! here, and the host call they make.
//!
//! An object answers to the isolate that got it from its `ctx` and carries what that `ctx` is narrowed to. Arguments of the
//! wrong type are refused before anything leaves the VM; rates and sizes are the host's to decide, and capabilities too,
//! except for what is answered without it.

use std::ffi::{CStr, c_int};

use mlua::ffi;

use crate::api::vfs;
use crate::call::{Call, Done, Fault, Named};
use crate::caps::{Narrowed, Rights};
use crate::context::{self, name_of_tenant};
use crate::host;
use crate::isolate;
use crate::object::{Object, tag};
use crate::scheduler;
use crate::value::{self, Null};

/// One plugin of a context; KIND is its tag.
pub struct Plugin<const KIND: c_int> {
    isolate: u64,
    narrowed: Option<Narrowed>,
}

type Kv = Plugin<{ tag::KV }>;
type GlobalKv = Plugin<{ tag::GLOBAL_KV }>;
type Bucket = Plugin<{ tag::BUCKET }>;
type Discord = Plugin<{ tag::DISCORD }>;
type Runtime = Plugin<{ tag::RUNTIME }>;

/// Pushes the plugin of a field of `ctx` for the running isolate.
pub fn push(call: &Call, field: context::Field, isolate: u64, narrowed: Option<Narrowed>) {
    use context::Field;
    match field {
        Field::Kv => call.push_object(Plugin::<{ tag::KV }> { isolate, narrowed }),
        Field::GlobalKv => call.push_object(Plugin::<{ tag::GLOBAL_KV }> { isolate, narrowed }),
        Field::ObjectStorage => call.push_object(Plugin::<{ tag::BUCKET }> { isolate, narrowed }),
        Field::Discord => call.push_object(Plugin::<{ tag::DISCORD }> { isolate, narrowed }),
        Field::Runtime => call.push_object(Plugin::<{ tag::RUNTIME }> { isolate, narrowed }),
    }
}

/// The plugin at index 1, which must be one of the running isolate's.
fn own<const KIND: c_int>(call: &Call) -> Result<&Plugin<KIND>, Fault>
where
    Plugin<KIND>: Object,
{
    let plugin = call.object::<Plugin<KIND>>(1)?;
    // SAFETY: the running thread.
    match unsafe { isolate::current(call.state) } {
        Some(core) if core.id == plugin.isolate => Ok(plugin),
        _ => Err(format!("this {} belongs to another template", Plugin::<KIND>::NAME.to_string_lossy()).into()),
    }
}

/// What an argument must be.
type Check = fn(&Call, c_int) -> Result<(), Fault>;

/// Checks the arguments from index 2 on and makes the host call.
fn remote<const KIND: c_int>(call: &Call, name: &str, checks: &[Check]) -> Done
where
    Plugin<KIND>: Object,
{
    let plugin = own::<KIND>(call)?;
    for (index, check) in (2..).zip(checks) {
        check(call, index)?;
    }
    let nargs = checks.len() as c_int;
    call.set_top(1 + nargs);
    // What the key-value store keeps is no JSON, and knows no null besides nil.
    let null = if KIND == tag::KV { Null::Refused } else { Null::Nil };
    host::ask(call, name, plugin.narrowed.as_deref(), 2, nargs, null)
}

// ---- arguments ----------------------------------------------------------------------------------------

fn text(call: &Call, index: c_int) -> Result<(), Fault> {
    call.bytes(index).map(|_| ())
}

fn optional_text(call: &Call, index: c_int) -> Result<(), Fault> {
    if call.is_nil(index) { Ok(()) } else { text(call, index) }
}

fn present(call: &Call, index: c_int) -> Result<(), Fault> {
    if call.kind(index) == ffi::LUA_TNONE { Err(call.bad(index, "a value is expected; nil is one")) } else { Ok(()) }
}

fn table(call: &Call, index: c_int) -> Result<(), Fault> {
    call.table(index)
}

fn number(call: &Call, index: c_int) -> Result<(), Fault> {
    call.number(index).map(|_| ())
}

/// Text, buffer or Blob.
fn content(call: &Call, index: c_int) -> Result<(), Fault> {
    let is_blob = call.kind(index) == ffi::LUA_TUSERDATA;
    if is_blob || call.kind(index) == ffi::LUA_TBUFFER { Ok(()) } else { text(call, index) }
}

fn time_delta(call: &Call, index: c_int) -> Result<(), Fault> {
    if call.kind(index) == ffi::LUA_TUSERDATA { Ok(()) } else { Err(call.wrong(index, "TimeDelta")) }
}

/// A DateTime, a TimeDelta or nil.
fn moment(call: &Call, index: c_int) -> Result<(), Fault> {
    let known = call.is_nil(index) || call.kind(index) == ffi::LUA_TUSERDATA;
    if known { Ok(()) } else { Err(call.wrong(index, "DateTime or TimeDelta")) }
}

/// Options, which may be left out.
fn options(call: &Call, index: c_int) -> Result<(), Fault> {
    if call.is_nil(index) { Ok(()) } else { call.table(index) }
}

/// Options, or the moment that stands for them.
fn options_or_moment(call: &Call, index: c_int) -> Result<(), Fault> {
    if call.kind(index) == ffi::LUA_TUSERDATA { Ok(()) } else { options(call, index) }
}

/// A moment before the scopes, or after them.
fn moment_or_scopes(call: &Call, index: c_int) -> Result<(), Fault> {
    if call.kind(index) == ffi::LUA_TTABLE { scopes(call, index) } else { moment(call, index) }
}

/// More are not looked at: the host takes fewer still.
const SCOPES_MAX: c_int = 256;

/// A list of at least one text; numbers count as theirs, in a copy.
fn scopes(call: &Call, index: c_int) -> Result<(), Fault> {
    call.table(index)?;
    let n = call.length(index);
    if n == 0 {
        return Err(call.bad(index, "a list of at least one scope is expected"));
    }
    if n > SCOPES_MAX {
        return Err(call.bad(index, format!("at most {SCOPES_MAX} scopes are allowed, it has {n}")));
    }
    let mut all_texts = true;
    for place in 1..=n {
        let kind = call.push_item(index, place);
        call.set_top(call.top() - 1);
        match kind {
            ffi::LUA_TSTRING => {}
            ffi::LUA_TNUMBER => all_texts = false,
            _ => return Err(call.bad(index, "each scope must be a string")),
        }
    }
    if !all_texts {
        call.push_table(0, 0);
        for place in 1..=n {
            call.push_item(index, place);
            call.bytes(-1)?;
            call.set_item(-2, place);
        }
        call.replace(index);
    }
    Ok(())
}

/// The field of the table at `index` must have a type; a number may stand for a text.
fn field(call: &Call, index: c_int, name: &CStr, want: c_int) -> Result<(), Fault> {
    let got = call.push_field(index, name);
    call.set_top(call.top() - 1);
    if got == want || (want == ffi::LUA_TSTRING && got == ffi::LUA_TNUMBER) {
        return Ok(());
    }
    // SAFETY: names of Luau's types.
    let (want, got) = unsafe { (CStr::from_ptr(ffi::lua_typename(call.state, want)), CStr::from_ptr(ffi::lua_typename(call.state, got))) };
    let (name, want, got) = (name.to_string_lossy(), want.to_string_lossy(), got.to_string_lossy());
    Err(format!("field '{name}' of argument #{}: {want} expected, got {got}", index - 1).into())
}

fn message(call: &Call, index: c_int) -> Result<(), Fault> {
    call.table(index)?;
    field(call, index, c"channel_id", ffi::LUA_TSTRING)?;
    field(call, index, c"data", ffi::LUA_TTABLE)
}

fn tenant_state(call: &Call, index: c_int) -> Result<(), Fault> {
    call.table(index)?;
    field(call, index, c"events", ffi::LUA_TTABLE)?;
    field(call, index, c"data", ffi::LUA_TTABLE)
}

fn template(call: &Call, index: c_int) -> Result<(), Fault> {
    call.table(index)?;
    field(call, index, c"name", ffi::LUA_TSTRING)
}

fn new_template(call: &Call, index: c_int) -> Result<(), Fault> {
    template(call, index)?;
    field(call, index, c"content", ffi::LUA_TTABLE)
}

// ---- methods ------------------------------------------------------------------------------------------

/// Methods that are host calls: the name in Luau, the name of the call, what the arguments must be.
macro_rules! remote {
    ($plugin:ident: $($name:ident $call:literal ($($check:ident),*))*) => {
        &[$((remote!(@c $name), |call| remote::<{ <$plugin as Object>::TAG }>(call, $call, &[$($check),*]))),*]
    };
    (@c $name:ident) => {
        match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
            Ok(name) => name,
            Err(_) => c"",
        }
    };
}

impl Object for Kv {
    const TAG: c_int = tag::KV;
    const NAME: &'static CStr = c"KvExecutor";
    const METHODS: &'static [Named] = remote! { Kv:
        get "kv.get" (text, scopes)
        getrecord "kv.getrecord" (text, scopes)
        exists "kv.exists" (text, scopes)
        find "kv.find" (text, scopes, options)
        keys "kv.keys" (scopes)
        set "kv.set" (text, present, scopes, options_or_moment)
        set_expiry "kv.set_expiry" (text, moment_or_scopes, moment_or_scopes)
        setexpiry "kv.set_expiry" (text, moment_or_scopes, moment_or_scopes)
        delete "kv.delete" (text, scopes)
        getbyid "kv.getbyid" (text)
        getrecordbyid "kv.getrecordbyid" (text)
        setbyid "kv.setbyid" (text, present, options_or_moment)
        setexpirybyid "kv.setexpirybyid" (text, moment)
        deletebyid "kv.deletebyid" (text)
        list_scopes "kv.list_scopes" ()
    };
}

impl Object for GlobalKv {
    const TAG: c_int = tag::GLOBAL_KV;
    const NAME: &'static CStr = c"GlobalKvExecutor";
    const METHODS: &'static [Named] = remote! { GlobalKv:
        find "globalkv.find" (text, text, options)
        get "globalkv.get" (text, number, text)
        create "globalkv.create" (table)
        delete "globalkv.delete" (text, number, text)
    };
}

impl Object for Bucket {
    const TAG: c_int = tag::BUCKET;
    const NAME: &'static CStr = c"Bucket";
    const METHODS: &'static [Named] = remote! { Bucket:
        list_files "objectstorage.list_files" (optional_text, options)
        file_exists "objectstorage.file_exists" (text)
        download_file "objectstorage.download_file" (text)
        get_file_url "objectstorage.get_file_url" (text, time_delta)
        upload_file "objectstorage.upload_file" (text, content)
        delete_file "objectstorage.delete_file" (text)
    };
    const FIELDS: &'static [Named] = &[(c"bucket_name", bucket_name)];
}

fn bucket_name(call: &Call) -> Done {
    own::<{ tag::BUCKET }>(call)?;
    call.push_bytes(name_of_tenant(scheduler::vm().tenant).as_bytes());
    Ok(1)
}

impl Object for Discord {
    const TAG: c_int = tag::DISCORD;
    const NAME: &'static CStr = c"DiscordActionExecutor";
    const METHODS: &'static [Named] = &[
        (c"create_message", |call| remote::<{ tag::DISCORD }>(call, "discord.create_message", &[message])),
        (c"get_guild", |call| remote::<{ tag::DISCORD }>(call, "discord.get_guild", &[])),
        (c"antiraid_check_reason", check_reason),
        (c"guild_id", |call| tenant_id(call, false)),
        (c"user_id", |call| tenant_id(call, true)),
    ];
}

/// Bytes of a reason in the audit log.
const REASON_BYTES_MAX: usize = 512;

/// Nothing for a reason that Discord takes; else nil and what is wrong with it.
fn check_reason(call: &Call) -> Done {
    own::<{ tag::DISCORD }>(call)?;
    let wrong = match call.bytes(2)?.len() {
        0 => "Reason is empty",
        1..=REASON_BYTES_MAX => return Ok(0),
        _ => "Reason is too long",
    };
    call.push_nil();
    call.push_bytes(wrong.as_bytes());
    Ok(2)
}

/// The tenant's id if it is a guild's, or a user's; else nil.
fn tenant_id(call: &Call, is_user: bool) -> Done {
    own::<{ tag::DISCORD }>(call)?;
    let tenant = scheduler::vm().tenant;
    if (tenant >> 63 == 1) == is_user {
        call.push_bytes(name_of_tenant(tenant).as_bytes())
    } else {
        call.push_nil()
    }
    Ok(1)
}

impl Object for Runtime {
    const TAG: c_int = tag::RUNTIME;
    const NAME: &'static CStr = c"RuntimeExecutor";
    const METHODS: &'static [Named] = &[
        (c"gettenantstate", |call| remote::<{ tag::RUNTIME }>(call, "runtime.gettenantstate", &[])),
        (c"settenantstate", |call| remote::<{ tag::RUNTIME }>(call, "runtime.settenantstate", &[tenant_state])),
        (c"stats", |call| remote::<{ tag::RUNTIME }>(call, "runtime.stats", &[])),
        (c"get_secret", |call| remote::<{ tag::RUNTIME }>(call, "runtime.get_secret", &[text])),
        (c"list_templates", |call| remote::<{ tag::RUNTIME }>(call, "runtime.list_templates", &[])),
        (c"get_template", |call| remote::<{ tag::RUNTIME }>(call, "runtime.get_template", &[text])),
        (c"create_template", |call| remote::<{ tag::RUNTIME }>(call, "runtime.create_template", &[new_template])),
        (c"update_template", |call| remote::<{ tag::RUNTIME }>(call, "runtime.update_template", &[template])),
        (c"delete_template", |call| remote::<{ tag::RUNTIME }>(call, "runtime.delete_template", &[text])),
        (c"links", |call| runtime_info(call, "links", c"links")),
        (c"eventlist", |call| runtime_info(call, "eventlist", c"events")),
        (c"getexposedvfs", exposed_vfs),
    ];
}

/// Whether the running isolate's Runtime object at index 1 may do something that needs no host.
fn may(call: &Call, action: &str) -> Result<(), Fault> {
    let plugin = own::<{ tag::RUNTIME }>(call)?;
    // SAFETY: the running thread.
    let Some(core) = (unsafe { isolate::current(call.state) }) else { return Err("no template runs".into()) };
    let rights = Rights { template: &core.template.caps, narrowed: plugin.narrowed.as_deref() };
    if rights.permit(b"runtime:*") || rights.permit(format!("runtime:{action}").as_bytes()) {
        return Ok(());
    }
    Err(format!("runtime operation `{action}` not allowed in this template context").into())
}

/// Pushes the trees of files that all tenants have in common.
fn exposed_vfs(call: &Call) -> Done {
    may(call, "getexposedvfs")?;
    // SAFETY: the running thread of the current VM.
    unsafe { vfs::push_exposed(call.state)? };
    Ok(1)
}

/// Pushes one entry of what the engine was told at its start, read-only.
fn runtime_info(call: &Call, action: &str, entry: &CStr) -> Done {
    may(call, action)?;
    let known = &scheduler::vm().limits.runtime_info;
    // SAFETY: the running thread, and a list of one map.
    unsafe { value::push_list(call.state, known) }?;
    if call.push_field(-1, entry) != ffi::LUA_TTABLE {
        return Err(format!("the host has told nothing of its {action}").into());
    }
    call.freeze(-1);
    Ok(1)
}
