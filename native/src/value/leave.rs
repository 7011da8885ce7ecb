//! Luau to msgpack.

use std::ffi::{CStr, c_int};
use std::ptr;

use mlua::ffi::{self, lua_State};

use super::{Budget, Crossed, Refusal, TOO_LONG, TOO_MANY, breach, kind};
use crate::api::blob::Blob;
use crate::api::datetime::{DateTime, TimeDelta, Timezone};
use crate::api::ints::{I64, U64};
use crate::api::lazy::Lazy;
use crate::event;
use crate::limits::{self, cut};
use crate::marks;
use crate::msgpack::{self, Item, Reader};
use crate::object::{Object, tag};
use crate::stack::{EXACT, buffer_at, bytes_at, whole};
use crate::string_map::StringMap;
use crate::walk::{BYTES_MAX, NODES_MAX};

/// Appends the value at `index` to `out`.
pub unsafe fn encode(state: *mut lua_State, index: c_int, out: &mut Vec<u8>) -> Crossed<()> {
    unsafe { encode_all(state, ffi::lua_absindex(state, index), 1, Null::Refused, out) }
}

/// What becomes of `interop.null`: it is no KhronosValue, but the null of a call that takes JSON.
#[derive(Clone, Copy, PartialEq)]
pub enum Null {
    Refused,
    Nil,
}

/// Values that one host call may take.
const ARGS_MAX: c_int = 256;
const TOO_MANY_ARGS: Refusal = breach(limits::SIZE, "a host call has more than 256 arguments (limit: size)");

/// Appends `n` values from `first` on, all within one value's bounds. What moves is taken from the script's objects only
/// when all of them have crossed.
pub unsafe fn encode_all(state: *mut lua_State, first: c_int, n: c_int, null: Null, out: &mut Vec<u8>) -> Crossed<()> {
    if n > ARGS_MAX {
        return Err(TOO_MANY_ARGS);
    }
    let mut taken = Vec::new();
    unsafe {
        let limit = out.len() + BYTES_MAX;
        let mut walk = Walk { state, limit, null, out, budget: Budget::new(), taken: &mut taken };
        for index in first..first + n {
            walk.value(index, 0).map_err(Refusal::with_path)?;
        }
        for object in taken {
            object.empty(state)?;
        }
    }
    Ok(())
}

/// An object whose content has crossed. It stays where it is: the values that are encoded hold it.
enum Taken {
    Map(*const Lazy),
    Blob(*const Blob),
}

impl Taken {
    unsafe fn empty(self, state: *mut lua_State) -> Crossed<()> {
        match self {
            // SAFETY: by the caller, the object is alive.
            Taken::Map(lazy) => unsafe { (*lazy).replace_map(StringMap::empty(state)?) },
            // SAFETY: as above.
            Taken::Blob(blob) => drop(unsafe { (*blob).take()? }),
        }
        Ok(())
    }
}

struct Walk<'a> {
    state: *mut lua_State,
    out: &'a mut Vec<u8>,
    limit: usize,
    null: Null,
    budget: Budget,
    taken: &'a mut Vec<Taken>,
}

impl Walk<'_> {
    fn room(&self, more: usize) -> Crossed<()> {
        if self.out.len() + more > self.limit { Err(TOO_LONG) } else { Ok(()) }
    }

    fn ext(&mut self, kind: i8, bytes: &[u8]) -> Crossed<()> {
        self.room(bytes.len())?;
        msgpack::ext(self.out, kind, bytes);
        Ok(())
    }

    unsafe fn value(&mut self, index: c_int, depth: usize) -> Crossed<()> {
        self.budget.spend(depth)?;
        self.room(16)?;
        let state = self.state;
        unsafe {
            match ffi::lua_type(state, index) {
                ffi::LUA_TNIL | ffi::LUA_TNONE => msgpack::nil(self.out),
                ffi::LUA_TBOOLEAN => msgpack::bool(self.out, ffi::lua_toboolean(state, index) != 0),
                ffi::LUA_TNUMBER => {
                    let n = ffi::lua_tonumber(state, index);
                    match whole(n) {
                        Some(n) => msgpack::int(self.out, n),
                        None => msgpack::float(self.out, n),
                    }
                }
                ffi::LUA_TINTEGER => msgpack::int(self.out, ffi::lua_tointeger64(state, index, ptr::null_mut())),
                ffi::LUA_TSTRING => {
                    let text = bytes_at(state, index);
                    self.room(text.len())?;
                    match std::str::from_utf8(text) {
                        Ok(text) => msgpack::str(self.out, text),
                        Err(_) => msgpack::ext(self.out, kind::RAW_TEXT, text),
                    }
                }
                ffi::LUA_TBUFFER => self.ext(kind::BUFFER, buffer_at(state, index).unwrap_or_default())?,
                ffi::LUA_TVECTOR => {
                    let v = ffi::lua_tovector(state, index);
                    let mut bytes = [0; 12];
                    for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                        chunk.copy_from_slice(&(*v.add(i)).to_be_bytes());
                    }
                    self.ext(kind::VECTOR, &bytes)?;
                }
                ffi::LUA_TTABLE => self.table(index, depth)?,
                ffi::LUA_TUSERDATA => self.object(index)?,
                ffi::LUA_TLIGHTUSERDATA if marks::is_null(state, index) && self.null == Null::Nil => msgpack::nil(self.out),
                ffi::LUA_TLIGHTUSERDATA if marks::is_null(state, index) => {
                    return Err("interop.null cannot leave the script: nil is what other values call null".into());
                }
                other => {
                    let name = CStr::from_ptr(ffi::lua_typename(state, other));
                    return Err(format!("a {} cannot leave the script", name.to_string_lossy()).into());
                }
            }
        }
        Ok(())
    }

    unsafe fn object(&mut self, index: c_int) -> Crossed<()> {
        let state = self.state;
        unsafe {
            match ffi::lua_userdatatag(state, index) {
                tag::LAZY => {
                    let lazy = own::<Lazy>(state, index);
                    let Some(map) = lazy.string_map() else {
                        return Err("a Lazy cannot leave the script: its data can".into());
                    };
                    self.ext(kind::LAZY_STRING_MAP, map.packed())?;
                    self.taken.push(Taken::Map(lazy));
                }
                tag::I64 => msgpack::int(self.out, own::<I64>(state, index).0),
                tag::U64 => msgpack::ext(self.out, kind::BOXED, &own::<U64>(state, index).0.to_be_bytes()),
                tag::BLOB => {
                    let blob = own::<Blob>(state, index);
                    self.ext(kind::BUFFER, &blob.view()?)?;
                    self.taken.push(Taken::Blob(blob));
                }
                tag::TIME_DELTA => self.ext(kind::INTERVAL, &own::<TimeDelta>(state, index).to_wire())?,
                tag::TIME_ZONE => self.ext(kind::TIME_ZONE, own::<Timezone>(state, index).to_wire())?,
                tag::DATE_TIME => self.ext(kind::TIMESTAMP, &own::<DateTime>(state, index).to_wire()?)?,
                _ => return Err(format!("{} cannot leave the script", named_type(state, index)).into()),
            }
        }
        Ok(())
    }

    unsafe fn table(&mut self, index: c_int, depth: usize) -> Crossed<()> {
        let state = self.state;
        unsafe {
            self.budget.clock.tick()?;
            ffi::lua_rawcheckstack(state, 4);
            event::complete(state, index);
            let shape = shape(state, index)?;
            if shape.list {
                if shape.items > self.budget.nodes {
                    return Err(TOO_MANY);
                }
                msgpack::array(self.out, shape.items);
                for i in 1..=shape.items {
                    ffi::lua_rawgeti_(state, index, i as c_int);
                    self.value(ffi::lua_gettop(state), depth + 1).map_err(|refusal| refusal.under_item(i))?;
                    ffi::lua_settop(state, -2);
                }
                return Ok(());
            }
            msgpack::map(self.out, shape.entries);
            let mut iter = 0;
            loop {
                iter = ffi::lua_rawiter(state, index, iter);
                if iter < 0 {
                    return Ok(());
                }
                let value = ffi::lua_gettop(state);
                self.key(value - 1, depth + 1)?;
                self.value(value, depth + 1).map_err(|refusal| refusal.under(state, value - 1))?;
                ffi::lua_settop(state, value - 2);
            }
        }
    }

    unsafe fn key(&mut self, index: c_int, depth: usize) -> Crossed<()> {
        unsafe {
            // 0 and -0 are one key.
            if ffi::lua_type(self.state, index) == ffi::LUA_TNUMBER && ffi::lua_tonumber(self.state, index) == 0.0 {
                self.budget.spend(depth)?;
                self.room(1)?;
                msgpack::int(self.out, 0);
                return Ok(());
            }
            let start = self.out.len();
            self.value(index, depth).map_err(|refusal| refusal.under(self.state, index))?;
            // Back in Luau such a key would be a number, which is another key.
            if matches!(ffi::lua_type(self.state, index), ffi::LUA_TUSERDATA | ffi::LUA_TINTEGER)
                && let Ok(Item::Int(n)) = Reader::new(&self.out[start..]).item()
                && n.unsigned_abs() <= EXACT
            {
                return Err(format!("the key {n} must be a number to leave the script").into());
            }
        }
        Ok(())
    }
}

/// The object at `index`, which has its type's tag.
unsafe fn own<'a, T: Object>(state: *mut lua_State, index: c_int) -> &'a T {
    // SAFETY: by the caller; a tag belongs to one type (`object.rs`).
    unsafe { &*ffi::lua_touserdatatagged(state, index, T::TAG).cast::<T>() }
}

/// Scripts name types too (`newproxy`).
const TYPE_BYTES_MAX: usize = 64;

/// What `typeof` says of the userdata at `index`, with its article.
unsafe fn named_type(state: *mut lua_State, index: c_int) -> String {
    unsafe {
        let top = ffi::lua_gettop(state);
        ffi::lua_rawcheckstack(state, 2);
        let mut name = "userdata".to_string();
        if ffi::lua_getmetatable(state, index) != 0 && ffi::lua_rawgetfield(state, -1, c"__type".as_ptr()) == ffi::LUA_TSTRING {
            name = cut(String::from_utf8_lossy(bytes_at(state, -1)).into_owned(), TYPE_BYTES_MAX);
        }
        ffi::lua_settop(state, top);
        let article = if name.starts_with(['A', 'E', 'I', 'O']) { "an" } else { "a" };
        format!("{article} {name}")
    }
}

/// What the keys of a table say about it.
struct Shape {
    entries: usize,
    /// A list, of so many items.
    list: bool,
    items: usize,
}

/// A list has the keys 1 to n, or the array metatable: then places may be empty.
unsafe fn shape(state: *mut lua_State, index: c_int) -> Crossed<Shape> {
    unsafe {
        let marked = marks::is_array(state, index);
        let (mut entries, mut items, mut last) = (0usize, 0usize, 0f64);
        let (mut first, mut named) = (false, false);
        let mut iter = 0;
        loop {
            iter = ffi::lua_rawiter(state, index, iter);
            if iter < 0 {
                break;
            }
            entries += 1;
            let key = if ffi::lua_type(state, -2) == ffi::LUA_TNUMBER { ffi::lua_tonumber(state, -2) } else { 0.0 };
            if key >= 1.0 && key.fract() == 0.0 {
                items += 1;
                last = last.max(key);
                first |= key == 1.0;
            } else {
                named |= ffi::lua_type(state, -2) != ffi::LUA_TNUMBER;
            }
            ffi::lua_settop(state, -3);
            if entries > NODES_MAX {
                return Err(TOO_MANY);
            }
        }
        let dense = entries > 0 && items == entries && last == entries as f64;
        if !marked && first && named {
            return Err("a table mixes list items and named fields".into());
        }
        if marked && items != entries {
            return Err("a table with the array metatable has keys that are no places of a list".into());
        }
        if marked && last > NODES_MAX as f64 {
            return Err(TOO_MANY);
        }
        Ok(Shape { entries, list: dense || marked, items: last as usize })
    }
}
