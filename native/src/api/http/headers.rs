//! `Headers`: names, in lower case, and their values. What the host does not send is refused when it is set.

use std::cell::RefCell;
use std::ffi::{CStr, c_int};

use mlua::ffi::lua_State;

use crate::call::{Call, Done, Fault, Named};
use crate::memory::Charge;
use crate::object::{Object, tag};

/// What the host sends at most: headers, and their bytes in all.
const COUNT_MAX: usize = 128;
const BYTES_MAX: usize = 32_768;

/// The names and values of one message, in their order; a name may come again.
#[derive(Clone, Default)]
pub struct List(pub Vec<(String, Vec<u8>)>);

impl List {
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// What the list holds outside Luau's heap, about.
    pub fn weight(&self) -> usize {
        self.bytes() + self.0.capacity() * size_of::<(String, Vec<u8>)>()
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Each name once, with its values joined as HTTP joins them.
    fn joined(&self) -> Vec<(&str, Vec<u8>)> {
        let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
        for (name, value) in &self.0 {
            match all.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => {
                    values.extend_from_slice(b", ");
                    values.extend_from_slice(value);
                }
                None => all.push((name, value.clone())),
            }
        }
        all
    }
}

pub struct Headers {
    list: RefCell<List>,
    charge: RefCell<Option<Charge>>,
}

impl Headers {
    pub fn new(state: *mut lua_State, list: List) -> Result<Headers, Fault> {
        let charge = RefCell::new(Some(Charge::new(state, list.weight())?));
        Ok(Headers { list: RefCell::new(list), charge })
    }

    pub fn list(&self) -> List {
        self.list.borrow().clone()
    }

    /// Puts a changed list in the place of the old one.
    fn replace(&self, state: *mut lua_State, list: List) -> Result<(), Fault> {
        self.charge.replace(Some(Charge::new(state, list.weight())?));
        self.list.replace(list);
        Ok(())
    }
}

impl Object for Headers {
    const TAG: c_int = tag::HEADERS;
    const NAME: &'static CStr = c"Headers";
    const METHODS: &'static [Named] =
        &[(c"get", get), (c"set", set), (c"remove", remove), (c"headers_str", headers_str), (c"headers_bytes", headers_bytes)];
}

pub fn new(call: &Call) -> Done {
    call.push_object(Headers::new(call.state, List::default())?);
    Ok(1)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The name at `index`, in lower case.
fn name(call: &Call, index: c_int) -> Result<String, Fault> {
    let name = call.bytes(index)?;
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return Err(call.bad(index, "a header's name is expected"));
    }
    Ok(String::from_utf8_lossy(name).to_ascii_lowercase())
}

fn not_text(name: &str) -> Fault {
    format!("the header {name:?} has a value that is not ASCII: see headers_bytes").into()
}

/// A value that a script can take as a text.
fn visible(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b'\t' | 0x20..0x7f))
}

fn get(call: &Call) -> Done {
    let name = name(call, 2)?;
    let headers = call.object::<Headers>(1)?.list.borrow();
    match headers.values(&name).next() {
        Some(value) if !visible(value) => return Err(not_text(&name)),
        Some(value) => call.push_bytes(value),
        None => call.push_nil(),
    }
    Ok(1)
}

fn set(call: &Call) -> Done {
    let headers = call.object::<Headers>(1)?;
    let name = name(call, 2)?;
    let value = call.bytes(3)?;
    if value.iter().any(|byte| matches!(byte, 0x7f | 0..0x20) && *byte != b'\t') {
        return Err(call.bad(3, "a header's value has no line breaks or other control characters"));
    }
    let mut list = headers.list();
    let place = list.0.iter().position(|(known, _)| *known == name);
    list.0.retain(|(known, _)| *known != name);
    list.0.insert(place.unwrap_or(list.0.len()), (name, value.to_vec()));
    if list.0.len() > COUNT_MAX || list.bytes() > BYTES_MAX {
        return Err(format!("a message has at most {COUNT_MAX} headers of {BYTES_MAX} bytes in all").into());
    }
    headers.replace(call.state, list)?;
    Ok(0)
}

fn remove(call: &Call) -> Done {
    let name = name(call, 2)?;
    let headers = call.object::<Headers>(1)?;
    let mut list = headers.list();
    list.0.retain(|(known, _)| *known != name);
    headers.replace(call.state, list)?;
    Ok(0)
}

fn headers_str(call: &Call) -> Done {
    let list = call.object::<Headers>(1)?.list();
    let all = list.joined();
    if let Some((name, _)) = all.iter().find(|(_, value)| !visible(value)) {
        return Err(not_text(name));
    }
    push_map(call, &all, |value| call.push_bytes(value))
}

fn headers_bytes(call: &Call) -> Done {
    let list = call.object::<Headers>(1)?.list();
    push_map(call, &list.joined(), |value| call.push_buffer(value))
}

fn push_map(call: &Call, all: &[(&str, Vec<u8>)], push: impl Fn(&[u8])) -> Done {
    call.push_table(0, all.len());
    for (name, value) in all {
        call.push_bytes(name.as_bytes());
        push(value);
        call.set_pair(-3);
    }
    Ok(1)
}
