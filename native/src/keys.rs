//! What the events of a VM had in common: the strings of their keys, and the sizes of their objects and lists.

use std::cell::Cell;
use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::json::{bytes_at, push_str};
use crate::marks;

const PLACES: usize = 256;
/// Where the list has the array metatable.
const ARRAY: c_int = PLACES as c_int + 1;
const KEY_BYTES_MAX: usize = 32;

/// The strings of keys, and how large the objects and lists below each were the last time.
pub struct Keys {
    /// Registry slot of a list that holds the strings of `held` at the same places, and after them the array metatable.
    pub list: c_int,
    held: [Cell<(*const u8, usize)>; PLACES],
    pub fields: [Cell<u8>; PLACES],
    pub items: [Cell<u8>; PLACES],
}

impl Keys {
    /// Inside a protected call.
    pub unsafe fn new(state: *mut lua_State) -> Box<Keys> {
        // SAFETY: by the caller; nothing is owned here before the last call that may raise.
        let list = unsafe {
            ffi::lua_rawcheckstack(state, 2);
            ffi::lua_createtable(state, ARRAY, 0);
            marks::push_array_metatable(state);
            ffi::lua_rawseti_(state, -2, ARRAY);
            let list = ffi::lua_ref(state, -1);
            ffi::lua_settop(state, -2);
            list
        };
        Box::new(Keys {
            list,
            held: [const { Cell::new((std::ptr::null(), 0)) }; PLACES],
            fields: [const { Cell::new(0) }; PLACES],
            items: [const { Cell::new(0) }; PLACES],
        })
    }

    /// Pushes the array metatable; the list is at `list` on the stack.
    pub unsafe fn push_array_metatable(state: *mut lua_State, list: c_int) {
        // SAFETY: by the caller.
        unsafe { ffi::lua_rawgeti_(state, list, ARRAY) };
    }

    /// The place of a key: from its length, its first bytes and its last one.
    pub fn place(key: &[u8]) -> usize {
        let mut first = [0; 8];
        let n = key.len().min(8);
        first[..n].copy_from_slice(&key[..n]);
        let last = key.last().copied().unwrap_or(0);
        let mixed = (u64::from_le_bytes(first) ^ (u64::from(last) << 32) ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as usize
    }

    /// Pushes the string of a key; the list is at `list` on the stack.
    pub unsafe fn push(&self, state: *mut lua_State, list: c_int, key: &[u8]) -> usize {
        let place = Self::place(key);
        let (known, bytes) = self.held[place].get();
        // SAFETY: by the caller. The list keeps the string that `held` points into; Luau's strings stay where they are.
        unsafe {
            if bytes == key.len() && !known.is_null() && std::slice::from_raw_parts(known, bytes) == key {
                ffi::lua_rawgeti_(state, list, place as c_int + 1);
                return place;
            }
            push_str(state, key);
            if key.len() <= KEY_BYTES_MAX {
                ffi::lua_pushvalue(state, -1);
                ffi::lua_rawseti_(state, list, place as c_int + 1);
                self.held[place].set((bytes_at(state, -1).as_ptr(), key.len()));
            }
        }
        place
    }
}

/// Notes how many there were.
pub fn remember(size: &Cell<u8>, n: c_int) {
    size.set(u8::try_from(n).unwrap_or(u8::MAX));
}
