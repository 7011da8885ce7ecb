//! What is JSON, and what it means, is as serde_json says.

use mlua::Lua;
use serde_json::Value;

use super::*;
use crate::stack::bytes_at;

const PARTS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"a\"",
    "\"b\":",
    "\"a\":1",
    "null",
    "true",
    "false",
    "nul",
    "0",
    "-0",
    "01",
    "1",
    "-",
    "12345678901234567890",
    "123456789012345",
    "9007199254740993",
    "-9007199254740993",
    "1e5",
    "1.",
    "1.5e-3",
    "1e999",
    "99999999999999999999999",
    "\"\\u00e9\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\"\\x\"",
    "\\",
    "\"é\"",
    "\"0123456\\\"78\"",
    "\"\u{1}\"",
    "\u{0}",
    " ",
    "\n",
    "\t\r",
    "\"a long text without anything\"",
    "{}",
    "[]",
    "[1,2]",
    "{\"k\":{\"k\":[]}}",
];

/// Whether what is on top of the stack is this value.
unsafe fn same(state: *mut lua_State, value: &Value) -> bool {
    // SAFETY: inside `exec_raw`, with a value on the stack.
    unsafe {
        match value {
            Value::Null => true,
            Value::Bool(v) => ffi::lua_type(state, -1) == ffi::LUA_TBOOLEAN && (ffi::lua_toboolean(state, -1) != 0) == *v,
            Value::String(v) => bytes_at(state, -1) == v.as_bytes(),
            Value::Number(v) => match ffi::lua_type(state, -1) {
                ffi::LUA_TSTRING => bytes_at(state, -1) == v.to_string().as_bytes(),
                // Without its slower mode serde_json may miss the nearest double by one.
                _ => v.as_f64().is_some_and(|v| v.to_bits().abs_diff(ffi::lua_tonumber(state, -1).to_bits()) <= 1),
            },
            Value::Array(items) => items.iter().enumerate().all(|(i, item)| {
                ffi::lua_rawgeti_(state, -1, i as c_int + 1);
                let equal = same(state, item);
                ffi::lua_settop(state, -2);
                equal
            }),
            Value::Object(fields) => fields.iter().all(|(key, item)| {
                push_str(state, key.as_bytes());
                ffi::lua_rawget(state, -2);
                let equal = same(state, item);
                ffi::lua_settop(state, -2);
                equal
            }),
        }
    }
}

/// Texts that are JSON, nearly JSON, or no UTF-8, the same in each run.
fn texts() -> impl Iterator<Item = Vec<u8>> {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below
    };
    let sample = include_str!("../../../bench/data/message_create.json");
    (0..60_000).map(move |i| {
        if i % 30 == 0 {
            let mut text = sample.as_bytes().to_vec();
            let at = random(text.len());
            match random(4) {
                0 => text.truncate(at),
                1 => text[at] = random(256) as u8,
                2 => drop(text.remove(at)),
                _ => {}
            }
            return text;
        }
        (0..1 + random(9)).flat_map(|_| PARTS[random(PARTS.len())].bytes()).collect()
    })
}

#[test]
fn what_is_json_and_what_it_means_is_as_serde_json_says() {
    let lua = Lua::new();
    // SAFETY: a state of its own; the strings that `keys` knows live as long as it.
    let done = unsafe {
        lua.exec_raw::<()>((), |state| {
            let keys = Keys::new(state);
            let mut accepted = 0;
            for text in texts() {
                let ours = push(state, &keys, EVENT, b"E", &text);
                let theirs = serde_json::from_slice::<Value>(&text);
                assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}", String::from_utf8_lossy(&text));
                if let Ok(value) = theirs {
                    accepted += 1;
                    assert!(same(state, &value), "{:?}", String::from_utf8_lossy(&text));
                }
                ffi::lua_settop(state, 0);
            }
            assert!(accepted > 2_000);
        })
    };
    assert!(done.is_ok());
}
