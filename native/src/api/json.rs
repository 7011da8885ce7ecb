//! `@antiraid/json`: JSON text of Luau values, and back.

use mlua::ffi;

use crate::api::Library;
use crate::call::{Call, Done, Fault};
use crate::{json, jsonwrite};

pub static LIBRARY: Library = Library {
    name: c"@antiraid/json",
    functions: &[(c"tojsonstring", tojsonstring), (c"fromjsonstring", fromjsonstring)],
    values: |_| {},
    luau: None,
};

fn tojsonstring(call: &Call) -> Done {
    call.set_top(2);
    // SAFETY: Luau called this function.
    let text = unsafe { jsonwrite::write(call.state, 1, call.truth(2)) }.map_err(|fault| named("serialize", fault))?;
    call.push_bytes(&text);
    Ok(1)
}

fn fromjsonstring(call: &Call) -> Done {
    let text = match call.kind(1) {
        ffi::LUA_TSTRING => call.bytes(1)?,
        ffi::LUA_TBUFFER => call.buffer(1)?,
        _ => return Err(call.wrong(1, "string, buffer or Blob")),
    };
    // SAFETY: as above; the text stays where it is while its argument is on the stack.
    unsafe { json::push_text(call.state, json::PLAIN, text) }.map_err(|fault| named("deserialize", fault))?;
    Ok(1)
}

fn named(what: &str, fault: Fault) -> Fault {
    Fault { text: format!("{what} error: {}", fault.text).into(), limit: fault.limit }
}
