//! What the events of a VM had in common: the strings of their keys, and the sizes of their objects and lists.

use std::cell::Cell;
use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::marks;
use crate::stack::{bytes_at, push_str};

const PLACES: usize = 256;
/// Places for whole texts, by the names of their events.
const NAMES: usize = 64;
const NAME_SHIFT: u32 = 64 - NAMES.ilog2();
/// Where the list has the array metatable.
const ARRAY: c_int = PLACES as c_int + 1;
const KEY_BYTES_MAX: usize = 32;

/// Places that a key may lie at, side by side: fifty keys share two hundred places without one driving another out.
const WAYS: usize = 4;

/// A key's string in Luau's heap, with its length and some of its bits.
#[derive(Clone, Copy)]
struct Key {
    bytes: *const u8,
    length: u32,
    bits: u32,
}

const NO_KEY: Key = Key { bytes: std::ptr::null(), length: 0, bits: 0 };

/// The strings of keys, and how large the objects and lists below each were the last time.
pub struct Keys {
    /// Registry slot of a list that holds the strings of `held` at the same places, and after them the array metatable.
    pub list: c_int,
    held: [Cell<Key>; PLACES],
    /// Which of the places of a full set the next new key takes.
    next: Cell<usize>,
    pub fields: [Cell<u8>; PLACES + NAMES],
    pub items: [Cell<u8>; PLACES + NAMES],
    /// How large the last text was: what the first one of a name is taken to be.
    last: Cell<u8>,
}

fn eight(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap_or_default())
}

fn four(bytes: &[u8]) -> u64 {
    u64::from(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
}

/// Bits of a key: of its length, its first bytes and its last ones.
fn bits_of(key: &[u8]) -> u64 {
    let n = key.len();
    let some = match n {
        8.. => eight(&key[..8]) ^ eight(&key[n - 8..]).rotate_left(23),
        4..8 => four(&key[..4]) | four(&key[n - 4..]) << 32,
        1..4 => u64::from(key[0]) | u64::from(key[n / 2]) << 8 | u64::from(key[n - 1]) << 16,
        0 => 0,
    };
    (some ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether two texts of the same length are equal; for short ones, without a call.
fn same(a: &[u8], b: &[u8]) -> bool {
    let n = b.len();
    if !(8..=KEY_BYTES_MAX).contains(&n) || a.len() != n {
        return a == b;
    }
    let mut at = 0;
    while at + 8 < n {
        if eight(&a[at..at + 8]) != eight(&b[at..at + 8]) {
            return false;
        }
        at += 8;
    }
    eight(&a[n - 8..]) == eight(&b[n - 8..])
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
            held: [const { Cell::new(NO_KEY) }; PLACES],
            next: Cell::new(0),
            fields: [const { Cell::new(0) }; PLACES + NAMES],
            items: [const { Cell::new(0) }; PLACES + NAMES],
            last: Cell::new(0),
        })
    }

    /// Pushes the array metatable; the list is at `list` on the stack.
    pub unsafe fn push_array_metatable(state: *mut lua_State, list: c_int) {
        // SAFETY: by the caller.
        unsafe { ffi::lua_rawgeti_(state, list, ARRAY) };
    }

    /// The place for a text of this name.
    pub fn place(&self, name: &[u8]) -> usize {
        let place = PLACES + (bits_of(name) >> NAME_SHIFT) as usize;
        match self.fields[place].get() {
            0 => self.fields[place].set(self.last.get()),
            fields => self.last.set(fields),
        }
        place
    }

    /// Pushes the string of a key; the list is at `list` on the stack.
    pub unsafe fn push(&self, state: *mut lua_State, list: c_int, key: &[u8]) -> usize {
        let bits = bits_of(key);
        let set = (bits >> 56) as usize & !(WAYS - 1);
        let mut free = None;
        // SAFETY: by the caller. The list keeps the strings that `held` points into; Luau's strings stay where they are.
        unsafe {
            for place in set..set + WAYS {
                let held = self.held[place].get();
                if held.bytes.is_null() {
                    free = Some(place);
                    break;
                }
                if held.bits == bits as u32
                    && held.length as usize == key.len()
                    && same(std::slice::from_raw_parts(held.bytes, key.len()), key)
                {
                    ffi::lua_rawgeti_(state, list, place as c_int + 1);
                    return place;
                }
            }
            let place = free.unwrap_or_else(|| {
                self.next.set(self.next.get().wrapping_add(1));
                set + self.next.get() % WAYS
            });
            push_str(state, key);
            if key.len() <= KEY_BYTES_MAX {
                ffi::lua_pushvalue(state, -1);
                ffi::lua_rawseti_(state, list, place as c_int + 1);
                self.held[place].set(Key { bytes: bytes_at(state, -1).as_ptr(), length: key.len() as u32, bits: bits as u32 });
            }
            place
        }
    }
}

/// Notes how many there were.
pub fn remember(size: &Cell<u8>, n: c_int) {
    size.set(u8::try_from(n).unwrap_or(u8::MAX));
}
