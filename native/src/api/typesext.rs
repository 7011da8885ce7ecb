//! `@antiraid/typesext`: integers of 64 bits, lazy string maps, file trees and what else Luau lacks.

use super::ints::{I64, U64, i64_argument, u64_argument};
use super::{Library, bitu64, lazy, vfs};
use crate::call::{self, Call, Done};
use crate::proxy;

pub static LIBRARY: Library = Library {
    name: c"@antiraid/typesext",
    functions: &[
        (c"I64", new_i64),
        (c"U64", new_u64),
        (c"randstring", randstring),
        (c"createglobalproxy", create_global_proxy),
        (c"newlazystringmap", lazy::new_lazy_string_map),
        (c"castlazyvaluetolazymap", lazy::cast_lazy),
        (c"castopaquevaluetopaquemap", lazy::cast_opaque),
    ],
    values: add_tables,
    luau: None,
};

fn add_tables(call: &Call) {
    for (name, functions) in [(c"bitu64", bitu64::FUNCTIONS), (c"Vfs", vfs::FUNCTIONS)] {
        // SAFETY: inside a function that Luau calls.
        unsafe { call::push_functions(call.state, functions, 0) };
        call.freeze(-1);
        call.set_field(-2, name);
    }
}

/// `I64(v?)`.
fn new_i64(call: &Call) -> Done {
    call.push_object(I64(if call.is_nil(1) { 0 } else { i64_argument(call, 1)? }));
    Ok(1)
}

/// `U64(v?)`.
fn new_u64(call: &Call) -> Done {
    call.push_object(U64(if call.is_nil(1) { 0 } else { u64_argument(call, 1)? }));
    Ok(1)
}

/// `createglobalproxy()`: globals that can be written to, and read through to these.
fn create_global_proxy(call: &Call) -> Done {
    // SAFETY: inside a function that Luau calls.
    unsafe { proxy::push_globals(call.state) };
    Ok(1)
}

const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Bytes from here on would make the first letters likelier than the last.
const FAIR: u8 = (256 / LETTERS.len() * LETTERS.len()) as u8;

/// `randstring(length)`: letters and digits from the system's random numbers.
fn randstring(call: &Call) -> Done {
    let length = call.integer(1, 1, 255)? as usize;
    let mut text = Vec::with_capacity(length);
    let mut bytes = [0; 256];
    while text.len() < length {
        getrandom::fill(&mut bytes).map_err(|_| "the system has no random numbers")?;
        let letters = bytes.iter().filter(|byte| **byte < FAIR).map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]);
        text.extend(letters.take(length - text.len()));
    }
    call.push_bytes(&text);
    Ok(1)
}
