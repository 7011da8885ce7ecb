//! Luau values to JSON text, as `json.tojsonstring` gives it (luau-api 2.4).
//!
//! Metamethods are never invoked. May raise a Luau memory error, so it runs only inside protected calls.

use std::ffi::{CStr, c_int};
use std::io::Write;

use mlua::ffi::{self, lua_State};

use crate::api::ints::{I64, U64};
use crate::call::Fault;
use crate::object::Object;
use crate::stack::{bytes_at, whole};
use crate::walk::{BYTES_MAX, Budget, Entry, Key, entries, push_entry, sort};
use crate::{event, limits, marks};

/// A list that has fewer items than this may have any holes; a longer one must be at least half full.
const SPARSE_MAX: usize = 10;
const HEX: &[u8; 16] = b"0123456789abcdef";

struct Writer {
    state: *mut lua_State,
    out: Vec<u8>,
    budget: Budget,
    pretty: bool,
    /// As everywhere but in `tojsonstring`: an empty table that is not marked as a list is an object, and what contains itself
    /// is refused instead of left out.
    strict: bool,
}

/// The JSON text of the value at `index`.
pub unsafe fn write(state: *mut lua_State, index: c_int, pretty: bool) -> Result<Vec<u8>, Fault> {
    let writer = Writer { state, out: Vec::new(), budget: Budget::new(), pretty, strict: false };
    // SAFETY: by the caller, inside a protected call.
    unsafe { writer.finish(index) }
}

/// The same for a request's body.
pub unsafe fn write_body(state: *mut lua_State, index: c_int) -> Result<Vec<u8>, Fault> {
    let writer = Writer { state, out: Vec::new(), budget: Budget::new(), pretty: false, strict: true };
    // SAFETY: by the caller, inside a protected call.
    unsafe { writer.finish(index) }
}

impl Writer {
    unsafe fn finish(mut self, index: c_int) -> Result<Vec<u8>, Fault> {
        // SAFETY: as for `write`.
        unsafe { self.value(ffi::lua_absindex(self.state, index))? };
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.out.len() + bytes.len() > BYTES_MAX {
            return Err(too_long());
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    unsafe fn value(&mut self, index: c_int) -> Result<(), Fault> {
        let state = self.state;
        // SAFETY: as for `write`; what is borrowed of Luau stays on its stack.
        unsafe {
            match ffi::lua_type(state, index) {
                ffi::LUA_TNIL | ffi::LUA_TNONE => self.put(b"null"),
                ffi::LUA_TBOOLEAN if ffi::lua_toboolean(state, index) != 0 => self.put(b"true"),
                ffi::LUA_TBOOLEAN => self.put(b"false"),
                ffi::LUA_TNUMBER => self.number(ffi::lua_tonumber(state, index)),
                ffi::LUA_TINTEGER => {
                    let n = ffi::lua_tointeger64(state, index, std::ptr::null_mut());
                    self.put(n.to_string().as_bytes())
                }
                ffi::LUA_TSTRING => self.text(bytes_at(state, index)),
                ffi::LUA_TVECTOR => {
                    let v = ffi::lua_tovector(state, index);
                    self.vector([*v, *v.add(1), *v.add(2)])
                }
                ffi::LUA_TTABLE => self.table(index),
                ffi::LUA_TLIGHTUSERDATA if marks::is_null(state, index) => self.put(b"null"),
                ffi::LUA_TUSERDATA => self.object(index),
                other => Err(cannot(&CStr::from_ptr(ffi::lua_typename(state, other)).to_string_lossy())),
            }
        }
    }

    /// A host object. Integers of 64 bits are written in all their digits.
    unsafe fn object(&mut self, index: c_int) -> Result<(), Fault> {
        // SAFETY: as for `write`; no type's name runs script code.
        unsafe {
            if let Some(n) = (ffi::lua_touserdatatagged(self.state, index, I64::TAG) as *const I64).as_ref() {
                return self.put(n.0.to_string().as_bytes());
            }
            if let Some(n) = (ffi::lua_touserdatatagged(self.state, index, U64::TAG) as *const U64).as_ref() {
                return self.put(n.0.to_string().as_bytes());
            }
            Err(cannot(&CStr::from_ptr(ffi::luaL_typename(self.state, index)).to_string_lossy()))
        }
    }

    /// Integers that are exact have no point; larger ones keep one, so that they come back as numbers.
    fn number(&mut self, n: f64) -> Result<(), Fault> {
        let mut text = [0; 32];
        let mut rest = &mut text[..];
        let done = match whole(n) {
            _ if !n.is_finite() => write!(rest, "null"),
            Some(n) => write!(rest, "{n}"),
            None => write!(rest, "{n:?}"),
        };
        let left = rest.len();
        match done {
            Ok(()) => self.put(&text[..32 - left]),
            Err(_) => Err("a number is too long".into()),
        }
    }

    fn vector(&mut self, v: [f32; 3]) -> Result<(), Fault> {
        self.put(b"[")?;
        for (i, n) in v.into_iter().enumerate() {
            self.separate(i == 0, 1)?;
            if n.is_finite() { self.put(format!("{n:?}").as_bytes())? } else { self.put(b"null")? }
        }
        self.close(false, b"]")
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.len() > BYTES_MAX {
            return Err(too_long());
        }
        if std::str::from_utf8(bytes).is_err() {
            return Err("a string that is not UTF-8 cannot be JSON".into());
        }
        self.put(b"\"")?;
        let mut from = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            let short = match byte {
                b'"' | b'\\' => byte,
                0x08 => b'b',
                0x09 => b't',
                0x0a => b'n',
                0x0c => b'f',
                0x0d => b'r',
                0..0x20 => b'u',
                _ => continue,
            };
            self.put(&bytes[from..at])?;
            from = at + 1;
            match short {
                b'u' => self.put(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), HEX[usize::from(byte & 15)]])?,
                _ => self.put(&[b'\\', short])?,
            }
        }
        self.put(&bytes[from..])?;
        self.put(b"\"")
    }

    /// What stands before an item.
    fn separate(&mut self, first: bool, deeper: usize) -> Result<(), Fault> {
        if !first {
            self.put(b",")?;
        }
        if self.pretty { self.line(self.budget.depth() + deeper) } else { Ok(()) }
    }

    fn line(&mut self, depth: usize) -> Result<(), Fault> {
        self.put(b"\n")?;
        for _ in 0..depth {
            self.put(b"  ")?;
        }
        Ok(())
    }

    fn close(&mut self, empty: bool, bracket: &[u8]) -> Result<(), Fault> {
        if self.pretty && !empty {
            self.line(self.budget.depth())?;
        }
        self.put(bracket)
    }

    unsafe fn table(&mut self, index: c_int) -> Result<(), Fault> {
        let state = self.state;
        // SAFETY: as for `write`.
        unsafe {
            event::complete(state, index);
            self.budget.enter(state, index)?;
            let mut all = entries(state, index, &mut self.budget)?;
            match list_length(&all) {
                Some(0) if self.strict && !marks::is_array(state, index) => {
                    self.budget.leave();
                    self.put(b"{}")?;
                }
                Some(length) => self.list(index, length, all.len())?,
                None if marks::is_array(state, index) => return Err("a table that is marked as a list has keys that are no places".into()),
                None => {
                    if !all.iter().all(|(key, _)| matches!(key, Key::Text(_))) {
                        return Err(mixed(&all));
                    }
                    sort(&mut all);
                    self.object_fields(index, &all)?;
                }
            }
        }
        Ok(())
    }

    unsafe fn list(&mut self, index: c_int, length: usize, items: usize) -> Result<(), Fault> {
        if items >= SPARSE_MAX && length > 2 * items {
            return Err(format!("a list of {items} items with places up to {length} has too many holes").into());
        }
        // The items were counted with their keys.
        self.budget.spend(length - items)?;
        self.put(b"[")?;
        for place in 1..=length {
            // Its own depth is counted already.
            self.separate(place == 1, 0)?;
            // SAFETY: as for `write`.
            unsafe {
                ffi::lua_rawgeti_(self.state, index, place as c_int);
                let item = ffi::lua_gettop(self.state);
                if self.is_recursive(item)? {
                    self.put(b"null")?;
                } else {
                    self.value(item).map_err(|fault| inside(fault, &format!("[{place}]")))?;
                }
                ffi::lua_settop(self.state, item - 1);
            }
        }
        self.budget.leave();
        self.close(length == 0, b"]")
    }

    /// A table that contains itself is written once.
    unsafe fn is_recursive(&self, index: c_int) -> Result<bool, Fault> {
        // SAFETY: as for `write`.
        let recursive = unsafe { ffi::lua_type(self.state, index) == ffi::LUA_TTABLE && self.budget.is_inside(self.state, index) };
        if recursive && self.strict {
            return Err("a table that contains itself cannot be JSON".into());
        }
        Ok(recursive)
    }

    unsafe fn object_fields(&mut self, index: c_int, all: &[Entry]) -> Result<(), Fault> {
        self.put(b"{")?;
        let mut first = true;
        for (key, place) in all {
            let Key::Text(name) = key else { continue };
            // SAFETY: as for `write`.
            unsafe {
                push_entry(self.state, index, *place);
                let value = ffi::lua_gettop(self.state);
                if !self.is_recursive(value)? {
                    self.separate(first, 0)?;
                    first = false;
                    self.text(name)?;
                    self.put(if self.pretty { b": " } else { b":" })?;
                    self.value(value).map_err(|fault| inside(fault, &format!(".{}", String::from_utf8_lossy(name))))?;
                }
                ffi::lua_settop(self.state, value - 2);
            }
        }
        self.budget.leave();
        self.close(first, b"}")
    }
}

/// The greatest key, if all are places of a list.
fn list_length(all: &[Entry]) -> Option<usize> {
    let mut length = 0;
    for (key, _) in all {
        match key {
            Key::Number(n) if n.fract() == 0.0 && *n >= 1.0 && *n <= f64::from(c_int::MAX) => length = length.max(*n as usize),
            _ => return None,
        }
    }
    Some(length)
}

fn mixed(all: &[Entry]) -> Fault {
    let named = all.iter().any(|(key, _)| matches!(key, Key::Text(_)));
    let text = if named { "a table mixes list items and named fields" } else { "a table has keys that are neither strings nor places" };
    text.into()
}

fn too_long() -> Fault {
    Fault::limit(limits::SIZE, "the JSON text is longer than 4 MiB (limit: size)")
}

fn cannot(what: &str) -> Fault {
    format!("cannot serialize <{what}>").into()
}

/// Says where in the value the fault is. Limits concern the whole.
fn inside(fault: Fault, place: &str) -> Fault {
    if fault.limit.is_some() {
        return fault;
    }
    let text = match fault.text.split_once(" (at value") {
        Some((what, rest)) => format!("{what} (at value{place}{rest}"),
        None => format!("{} (at value{place})", fault.text),
    };
    // Deep paths are cut, so that each level adds little.
    let limit = fault.limit;
    Fault { text: limits::cut(text, PLACE_BYTES_MAX).into(), limit }
}

/// Bytes of a message that names a place in a value.
const PLACE_BYTES_MAX: usize = 1_024;
