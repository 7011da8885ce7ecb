//! `Lazy` and `Opaque`: what the host gives a script without making Luau values of it first.
//!
//! The `data` of a `Lazy` is made when it is first read and then stays the same table. Answers of the host hold JSON text
//! until then; a string map holds its texts until it crosses the border again, which empties it. An `Opaque` has no
//! members: it can be cast and laid into an overlay only.

use std::cell::{Ref, RefCell};
use std::ffi::{CStr, c_int};
use std::rc::Rc;

use mlua::ffi::{self, lua_State};

use crate::call::{Call, Done, Fault, Named};
use crate::json;
use crate::memory::Charge;
use crate::object::{Object, destructed, tag};
use crate::string_map::StringMap;

/// JSON text outside Luau's heap.
pub struct Json {
    text: Box<[u8]>,
    _charge: Charge,
}

impl Json {
    pub fn new(state: *mut lua_State, text: &[u8]) -> Result<Json, Fault> {
        let charge = Charge::new(state, text.len())?;
        Ok(Json { text: text.into(), _charge: charge })
    }
}

enum Content {
    Json(Json),
    Map(Rc<StringMap>),
    /// A table or another value, kept as `data` in the object's Luau values.
    Value,
    /// Moved out.
    Nothing,
}

pub struct Lazy(RefCell<Content>);
pub struct Opaque(RefCell<Content>);

/// Where the value of a `Lazy` is kept.
const DATA: &CStr = c"data";

impl Object for Lazy {
    const TAG: c_int = tag::LAZY;
    const NAME: &'static CStr = c"Lazy";
    const FIELDS: &'static [Named] = &[(DATA, data)];
}

impl Object for Opaque {
    const TAG: c_int = tag::OPAQUE;
    const NAME: &'static CStr = c"Opaque";
}

impl Lazy {
    pub fn json(json: Json) -> Lazy {
        Lazy(RefCell::new(Content::Json(json)))
    }

    pub fn map(map: StringMap) -> Lazy {
        Lazy(RefCell::new(Content::Map(Rc::new(map))))
    }

    /// The string map in it, if it is one.
    pub fn string_map(&self) -> Option<Rc<StringMap>> {
        string_map(&self.0.borrow())
    }

    /// Leaves an empty string map.
    pub fn replace_map(&self, map: StringMap) {
        self.0.replace(Content::Map(Rc::new(map)));
    }
}

impl Opaque {
    pub fn json(json: Json) -> Opaque {
        Opaque(RefCell::new(Content::Json(json)))
    }

    /// The string map in it, if it is one.
    pub fn string_map(&self) -> Option<Rc<StringMap>> {
        string_map(&self.0.borrow())
    }
}

fn string_map(content: &Content) -> Option<Rc<StringMap>> {
    match content {
        Content::Map(map) => Some(map.clone()),
        _ => None,
    }
}

/// `lazy.data`.
fn data(call: &Call) -> Done {
    let lazy = call.object::<Lazy>(1)?;
    call.push_values(1);
    let values = call.top();
    if call.push_field(values, DATA) != ffi::LUA_TNIL {
        return Ok(1);
    }
    // SAFETY: inside a function that Luau calls. What is borrowed is not changed meanwhile: no script runs.
    unsafe {
        match &*lazy.0.borrow() {
            Content::Json(json) => json::push_text(call.state, json::LAZY, &json.text).map_err(unreadable)?,
            Content::Map(map) => map.push(call.state),
            Content::Value => return Ok(1),
            Content::Nothing => return Err(destructed()),
        }
    }
    call.push_value(-1);
    call.set_field(values, DATA);
    let parsed = matches!(*lazy.0.borrow(), Content::Json(_));
    if parsed {
        lazy.0.replace(Content::Value);
    }
    Ok(1)
}

/// What is wrong with JSON of the host.
pub fn unreadable(fault: Fault) -> Fault {
    fault.of("the host's JSON is not readable")
}

/// `typesext.castlazyvaluetolazymap(lazy)`: takes an answer of the host and gives the string map that it is.
pub fn cast_lazy(call: &Call) -> Done {
    let lazy = call.object::<Lazy>(1)?;
    call.push_values(1);
    let made = call.push_field(-1, DATA) == ffi::LUA_TTABLE;
    let is_value = matches!(*lazy.0.borrow(), Content::Value);
    let map = match is_value {
        true if made => Rc::new(StringMap::of_table(call.state, -1)?),
        true => return Err("Failed to convert to a string map: the data is not a table".into()),
        false => cast(call, lazy.0.borrow())?,
    };
    lazy.0.replace(Content::Nothing);
    call.set_top(1);
    call.push_values(1);
    call.push_nil();
    call.set_field(-2, DATA);
    call.push_object(Lazy(RefCell::new(Content::Map(map))));
    Ok(1)
}

/// `typesext.castopaquevaluetopaquemap(opaque)`: the same for what cannot be looked into.
pub fn cast_opaque(call: &Call) -> Done {
    let opaque = call.object::<Opaque>(1)?;
    let map = cast(call, opaque.0.borrow())?;
    opaque.0.replace(Content::Nothing);
    call.push_object(Opaque(RefCell::new(Content::Map(map))));
    Ok(1)
}

fn cast(call: &Call, content: Ref<Content>) -> Result<Rc<StringMap>, Fault> {
    match &*content {
        Content::Json(json) => Ok(Rc::new(StringMap::of_json(call.state, &json.text)?)),
        Content::Map(map) => Ok(map.clone()),
        Content::Value | Content::Nothing => Err(destructed()),
    }
}

/// `typesext.newlazystringmap(table)`.
pub fn new_lazy_string_map(call: &Call) -> Done {
    call.table(1)?;
    call.push_object(Lazy::map(StringMap::of_table(call.state, 1)?));
    Ok(1)
}
