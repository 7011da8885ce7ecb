//! `@antiraid/luau`: code as an object that can be run, and values as text for people.

use std::ffi::c_int;

use mlua::ffi;

use crate::api::{Library, Luau, channel, object};
use crate::call::{Call, Done, Fault};
use crate::chunk::{self, Style, chunk_name};
use crate::thread::set_sealed;
use crate::walk::Budget;
use crate::{format, limits, program};

/// `Chunk` is written in Luau: what it runs can be preempted.
static SOURCE: Luau = Luau::new(include_bytes!("luau.luau"));

pub static LIBRARY: Library = Library {
    name: c"@antiraid/luau",
    functions: &[(c"format", format_values), (c"compile", compile), (c"seal", seal), (c"object", object), (c"oneshot", channel::oneshot)],
    values: |_| {},
    luau: Some(&SOURCE),
};

/// `compile(code, chunk_name, environment, optimization_level)`: a function. Without an environment it has the base's
/// globals: no `require`, and nothing of the isolate.
fn compile(call: &Call) -> Done {
    call.set_top(4);
    if !call.is_nil(3) {
        call.table(3)?;
    }
    let level = call.integer(4, 0, 2)?;
    let name = if call.is_nil(2) { c"chunk".to_owned() } else { chunk_name(call.bytes(2)?) };
    let code = program::compile_with(call.bytes(1)?, level as c_int, program::Frames::Shown);
    // SAFETY: Luau called this function; the main thread has the base's globals.
    let done = unsafe {
        if call.is_nil(3) {
            let main = ffi::lua_mainthread(call.state);
            ffi::lua_xpush(main, call.state, ffi::LUA_GLOBALSINDEX);
            ffi::lua_replace(call.state, 3);
        }
        chunk::push_chunk(call.state, &name, &code, 3, Style::Require)
    };
    if done { Ok(1) } else { Err(call.text(-1).map(str::to_string)?.into()) }
}

/// `seal(thread)`: nothing waits in that thread.
fn seal(call: &Call) -> Done {
    // SAFETY: the thread is on the stack.
    unsafe {
        let co = ffi::lua_tothread(call.state, 1);
        if co.is_null() {
            return Err(call.wrong(1, "thread"));
        }
        set_sealed(co);
    }
    Ok(0)
}

/// `format(...)`: readable text of all values, with tabs between them; `nil` for none.
fn format_values(call: &Call) -> Done {
    let text = texts(call, false)?;
    call.push_bytes(text.as_bytes());
    Ok(1)
}

/// As `format`; `raw`: texts stand as they are.
pub fn texts(call: &Call, raw: bool) -> Result<String, Fault> {
    let n = call.count();
    let mut out = String::new();
    let mut budget = Budget::new();
    if n == 0 {
        out.push_str("nil");
    }
    for index in 1..=n {
        if index > 1 {
            out.push('\t');
        }
        if raw && call.kind(index) == ffi::LUA_TSTRING {
            out.push_str(&String::from_utf8_lossy(call.bytes(index)?));
            out.truncate(limits::boundary(&out, format::TEXT_BYTES_MAX));
        } else {
            // SAFETY: Luau called this function.
            unsafe { format::write(call.state, index, &mut out, &mut budget)? };
        }
    }
    Ok(out)
}
