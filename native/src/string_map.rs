//! Texts by texts, such as the files of a template, outside Luau's heap: kept in the form in which they cross the engine's
//! border, a msgpack map, so that crossing is a copy. Never changed once made, so it can be shared.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fmt;

use mlua::ffi::{self, lua_State};
use rustc_hash::FxHashSet;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::call::Fault;
use crate::limits;
use crate::memory::Charge;
use crate::msgpack::{self, Reader};
use crate::stack::{bytes_at, push_str};
use crate::walk::BYTES_MAX;

/// What a map costs besides its texts.
const OVERHEAD_BYTES: usize = 64;

pub struct StringMap {
    packed: Box<[u8]>,
    _charge: Charge,
}

fn too_large(why: &'static str) -> Fault {
    Fault::limit(limits::SIZE, why)
}

const TOO_LONG: &str = "the string map is longer than 4 MiB (limit: size)";
const TOO_MANY: &str = "the string map has more than 10,000 entries (limit: size)";
/// So many entries take about 10 ms wherever they are walked.
const ENTRIES_MAX: usize = 10_000;

impl StringMap {
    /// The map with these bytes, which must be those of one map from texts to texts.
    pub fn read(state: *mut lua_State, packed: &[u8]) -> Result<StringMap, Fault> {
        let mut reader = Reader::new(packed);
        let n = reader.map()?;
        if n > ENTRIES_MAX {
            return Err(too_large(TOO_MANY));
        }
        let mut keys = FxHashSet::default();
        for _ in 0..n {
            if !keys.insert(reader.text()?) {
                return Err("a string map has a key twice".into());
            }
            reader.text()?;
        }
        if !reader.is_empty() {
            return Err("bytes follow a string map".into());
        }
        Self::charged(state, packed.into())
    }

    /// The map of these pairs.
    fn write<'a>(state: *mut lua_State, n: usize, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<StringMap, Fault> {
        if n > ENTRIES_MAX {
            return Err(too_large(TOO_MANY));
        }
        let mut packed = Vec::new();
        msgpack::map(&mut packed, n);
        for (key, text) in pairs {
            if packed.len() + key.len() + text.len() + 10 > BYTES_MAX {
                return Err(too_large(TOO_LONG));
            }
            msgpack::str(&mut packed, key);
            msgpack::str(&mut packed, text);
        }
        Self::charged(state, packed.into())
    }

    fn charged(state: *mut lua_State, packed: Box<[u8]>) -> Result<StringMap, Fault> {
        let charge = Charge::new(state, packed.len() + OVERHEAD_BYTES)?;
        Ok(StringMap { packed, _charge: charge })
    }

    pub fn empty(state: *mut lua_State) -> Result<StringMap, Fault> {
        Self::write(state, 0, std::iter::empty())
    }

    /// The map that the table at `index` is; its keys in order.
    pub fn of_table(state: *mut lua_State, index: c_int) -> Result<StringMap, Fault> {
        let mut pairs = Vec::new();
        // SAFETY: inside a function that Luau calls, with room for two values. The table keeps the texts alive.
        unsafe {
            let index = ffi::lua_absindex(state, index);
            let (mut iter, mut bytes) = (0, 0);
            loop {
                iter = ffi::lua_rawiter(state, index, iter);
                if iter < 0 {
                    break;
                }
                // Before they are looked at: one long text may stand in all places.
                bytes += text_bytes(state, -2) + text_bytes(state, -1);
                if bytes > BYTES_MAX {
                    return Err(too_large(TOO_LONG));
                }
                let pair = (text_at(state, -2, "key")?, text_at(state, -1, "value")?);
                pairs.push(pair);
                ffi::lua_settop(state, -3);
                if pairs.len() > ENTRIES_MAX {
                    return Err(too_large(TOO_MANY));
                }
            }
        }
        pairs.sort_unstable();
        Self::write(state, pairs.len(), pairs.into_iter())
    }

    /// The map that a JSON object of texts is.
    pub fn of_json(state: *mut lua_State, text: &[u8]) -> Result<StringMap, Fault> {
        if text.len() > BYTES_MAX {
            return Err(too_large(TOO_LONG));
        }
        let mut parser = serde_json::Deserializer::from_slice(text);
        let pairs = parser.deserialize_map(Pairs).and_then(|pairs| parser.end().map(|()| pairs));
        let pairs = pairs.map_err(|e| match e.to_string() {
            text if text.starts_with(TOO_MANY) => too_large(TOO_MANY),
            text => format!("Failed to convert to a string map: {text}").into(),
        })?;
        Self::write(state, pairs.len(), pairs.iter().map(|(key, text)| (key.as_str(), text.as_str())))
    }

    /// Its msgpack form.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    pub fn len(&self) -> usize {
        Reader::new(&self.packed).map().unwrap_or(0)
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut reader = Reader::new(&self.packed);
        // What is there has been read or written by this file: it ends where the bytes end.
        let n = reader.map().unwrap_or(0);
        (0..n).map_while(move |_| Some((reader.text().ok()?, reader.text().ok()?)))
    }

    /// Pushes it as a table; may raise.
    pub unsafe fn push(&self, state: *mut lua_State) {
        // SAFETY: by the caller, inside a protected call.
        unsafe {
            ffi::lua_rawcheckstack(state, 4);
            ffi::lua_createtable(state, 0, self.len() as c_int);
            for (key, text) in self.pairs() {
                push_str(state, key.as_bytes());
                push_str(state, text.as_bytes());
                ffi::lua_rawset(state, -3);
            }
        }
    }
}

/// Reads an object of texts, with a bound on its entries, those of equal keys included.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = BTreeMap::new();
        for _ in 0..ENTRIES_MAX {
            match map.next_entry()? {
                Some((key, text)) => pairs.insert(key, text),
                None => return Ok(pairs),
            };
        }
        match map.next_entry::<String, String>()? {
            Some(_) => Err(A::Error::custom(TOO_MANY)),
            None => Ok(pairs),
        }
    }
}

/// How long the text at `index` is; nothing for another value.
unsafe fn text_bytes(state: *mut lua_State, index: c_int) -> usize {
    // SAFETY: by the caller, a live state with a value at `index`.
    unsafe { if ffi::lua_type(state, index) == ffi::LUA_TSTRING { ffi::lua_objlen(state, index) } else { 0 } }
}

/// The text at `index`; it lives as long as a table holds it.
unsafe fn text_at<'a>(state: *mut lua_State, index: c_int, what: &str) -> Result<&'a str, Fault> {
    // SAFETY: by the caller, a live state with a value at `index`.
    unsafe {
        let kind = ffi::lua_type(state, index);
        if kind != ffi::LUA_TSTRING {
            let name = std::ffi::CStr::from_ptr(ffi::lua_typename(state, kind)).to_string_lossy();
            return Err(format!("Failed to convert to a string map: a {what} is a {name}, not a string").into());
        }
        std::str::from_utf8(bytes_at(state, index)).map_err(|_| format!("Failed to convert to a string map: a {what} is not UTF-8").into())
    }
}
