//! `@antiraid/datamgmt`: bytes as blobs, in base64, in archives, encrypted and compressed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::api::{Library, blob};
use crate::call::{Call, Done, Fault};

pub static LIBRARY: Library = Library {
    name: c"@antiraid/datamgmt",
    functions: &[(c"newblob", new_blob), (c"base64encode", base64_encode), (c"base64decode", base64_decode)],
    values: |_| {},
    luau: None,
};

/// Ends a function with a blob as its result.
pub fn give_blob(call: &Call, bytes: Vec<u8>) -> Done {
    // SAFETY: inside a function that Luau calls.
    unsafe { blob::push(call.state, bytes)? };
    Ok(1)
}

fn new_blob(call: &Call) -> Done {
    give_blob(call, blob::take(call, 1)?)
}

fn base64_encode(call: &Call) -> Done {
    let text = STANDARD.encode(blob::take(call, 1)?);
    call.push_bytes(text.as_bytes());
    Ok(1)
}

fn base64_decode(call: &Call) -> Done {
    let bytes = STANDARD.decode(call.bytes(1)?).map_err(|e| Fault::from(format!("Failed to decode base64: {e}")))?;
    give_blob(call, bytes)
}
