//! Values as text for people: strings in quotes, tables over several lines with sorted keys (luau-api 3.4).
//!
//! Metamethods are never invoked; addresses are those that `tostring` shows, which are no addresses.

use std::ffi::{CStr, c_int};
use std::fmt::Write;

use mlua::ffi::{self, lua_State};

use crate::call::Fault;
use crate::stack::bytes_at;
use crate::walk::{Budget, DEPTH_MAX, Entry, Key, entries, push_entry, sort};
use crate::{event, limits, marks};

/// Nobody reads more.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

struct Writer<'a> {
    state: *mut lua_State,
    out: &'a mut String,
    budget: &'a mut Budget,
}

/// Appends the text of the value at `index`. All that one call writes has one budget.
pub unsafe fn write(state: *mut lua_State, index: c_int, out: &mut String, budget: &mut Budget) -> Result<(), Fault> {
    let mut writer = Writer { state, out, budget };
    // SAFETY: by the caller, inside a function that Luau calls.
    unsafe { writer.value(ffi::lua_absindex(state, index)) }
}

impl Writer<'_> {
    unsafe fn value(&mut self, index: c_int) -> Result<(), Fault> {
        self.append("")?;
        let state = self.state;
        // SAFETY: as for `write`; what is borrowed of Luau stays on its stack.
        unsafe {
            match ffi::lua_type(state, index) {
                ffi::LUA_TNIL | ffi::LUA_TNONE => self.out.push_str("nil"),
                ffi::LUA_TBOOLEAN => self.out.push_str(if ffi::lua_toboolean(state, index) != 0 { "true" } else { "false" }),
                ffi::LUA_TNUMBER | ffi::LUA_TINTEGER | ffi::LUA_TVECTOR => self.plain(index),
                ffi::LUA_TSTRING => self.text(bytes_at(state, index))?,
                ffi::LUA_TTABLE => self.table(index)?,
                _ if marks::is_null(state, index) => self.out.push_str("null"),
                _ => self.address(index),
            }
        }
        Ok(())
    }

    /// What `tostring` says of a value without metamethods.
    unsafe fn plain(&mut self, index: c_int) {
        // SAFETY: as for `write`.
        unsafe {
            ffi::luaL_tolstring_(self.state, index, std::ptr::null_mut());
            self.out.push_str(&String::from_utf8_lossy(bytes_at(self.state, -1)));
            ffi::lua_settop(self.state, -2);
        }
    }

    /// In quotes; what cannot be seen is escaped. Bytes that are no UTF-8 are `b"..."`.
    fn text(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let text = std::str::from_utf8(bytes);
        if text.is_err() {
            self.out.push('b');
        }
        self.out.push('"');
        match text {
            Ok(text) => {
                let mut from = 0;
                for (at, c) in text.char_indices() {
                    if c.is_control() || c == '"' || c == '\\' {
                        self.append(&text[from..at])?;
                        from = at + c.len_utf8();
                        self.out.extend(c.escape_debug());
                    }
                }
                self.append(&text[from..])?;
            }
            Err(_) => {
                for byte in bytes {
                    self.append("")?;
                    let _ = write!(self.out, "{}", byte.escape_ascii());
                }
            }
        }
        self.out.push('"');
        Ok(())
    }

    fn append(&mut self, text: &str) -> Result<(), Fault> {
        if self.out.len() + text.len() > TEXT_BYTES_MAX {
            return Err(too_long());
        }
        self.out.push_str(text);
        Ok(())
    }

    /// `Type: 0x...`, the same for the same value.
    unsafe fn address(&mut self, index: c_int) {
        // SAFETY: as for `write`.
        unsafe {
            let name = CStr::from_ptr(ffi::luaL_typename(self.state, index)).to_string_lossy();
            let shown = ffi::lua_encodepointer(self.state, ffi::lua_topointer(self.state, index) as usize);
            let _ = write!(self.out, "{name}: 0x{shown:016x}");
        }
    }

    unsafe fn table(&mut self, index: c_int) -> Result<(), Fault> {
        let state = self.state;
        // SAFETY: as for `write`.
        unsafe {
            if self.budget.depth() >= DEPTH_MAX || self.budget.is_inside(state, index) {
                self.address(index);
                return Ok(());
            }
            event::complete(state, index);
            self.budget.enter(state, index)?;
            let mut all = entries(state, index, self.budget)?;
            sort(&mut all);
            let is_list = all.iter().enumerate().all(|(i, (key, _))| *key == Key::Number(i as f64 + 1.0));
            self.out.push('{');
            for entry in &all {
                self.entry(index, entry, is_list)?;
            }
            self.budget.leave();
            if !all.is_empty() {
                self.line();
            }
            self.out.push('}');
        }
        Ok(())
    }

    fn line(&mut self) {
        let _ = write!(self.out, "\n{:1$}", "", 2 * self.budget.depth());
    }

    unsafe fn entry(&mut self, index: c_int, (key, place): &Entry<'_>, is_list: bool) -> Result<(), Fault> {
        self.line();
        // SAFETY: as for `write`.
        unsafe {
            push_entry(self.state, index, *place);
            let value = ffi::lua_gettop(self.state);
            match key {
                _ if is_list => {}
                Key::Text(name) if is_name(name) => {
                    self.out.push_str(&String::from_utf8_lossy(name));
                    self.out.push_str(" = ");
                }
                Key::Text(name) => {
                    self.out.push('[');
                    self.text(name)?;
                    self.out.push_str("] = ");
                }
                _ => {
                    self.out.push('[');
                    match ffi::lua_type(self.state, value - 1) {
                        ffi::LUA_TTABLE => self.address(value - 1),
                        _ => self.value(value - 1)?,
                    }
                    self.out.push_str("] = ");
                }
            }
            self.value(value)?;
            ffi::lua_settop(self.state, value - 2);
        }
        self.out.push(',');
        Ok(())
    }
}

/// Whether a key needs no brackets.
fn is_name(key: &[u8]) -> bool {
    key.first().is_some_and(|c| c.is_ascii_alphabetic() || *c == b'_') && key.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_')
}

fn too_long() -> Fault {
    Fault::limit(limits::SIZE, "the text is longer than 1 MiB (limit: size)")
}
