//! `@antiraid/json`: JSON text of Luau values, and back.

use crate::api::{Library, blob};
use crate::call::{Call, Done};
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
    let text = unsafe { jsonwrite::write(call.state, 1, call.truth(2)) }.map_err(|fault| fault.of("serialize error"))?;
    call.push_bytes(&text);
    Ok(1)
}

fn fromjsonstring(call: &Call) -> Done {
    let text = blob::view(call, 1)?;
    // SAFETY: as above.
    unsafe { json::push_text(call.state, json::PLAIN, &text) }.map_err(|fault| fault.of("deserialize error"))?;
    Ok(1)
}
