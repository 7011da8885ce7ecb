//! Capabilities: flat lists of texts. One permits an operation if it is that text, or `*`.

use std::ops::Deref;
use std::rc::Rc;

use mlua::ffi::lua_State;

use crate::call::Fault;
use crate::memory::Charge;

/// The capabilities of a `ctx:with`: what its plugins ask for must be among them, and among the template's own.
#[derive(Clone)]
pub struct Narrowed(Rc<(Box<[Box<str>]>, Charge)>);

/// What one of them costs besides its text.
const CAP_BYTES: usize = 32;

impl Narrowed {
    pub fn new(state: *mut lua_State, caps: &[&str]) -> Result<Narrowed, Fault> {
        let bytes = caps.iter().map(|cap| CAP_BYTES + cap.len()).sum::<usize>();
        let charge = Charge::new(state, size_of::<Narrowed>() + bytes)?;
        Ok(Narrowed(Rc::new((caps.iter().copied().map(Box::from).collect(), charge))))
    }
}

impl Deref for Narrowed {
    type Target = [Box<str>];

    fn deref(&self) -> &[Box<str>] {
        &self.0.0
    }
}

pub fn permits(held: &[Box<str>], cap: &[u8]) -> bool {
    held.iter().any(|held| held.as_bytes() == cap || &**held == "*")
}

/// What a context may do: the template's capabilities, narrowed or not.
#[derive(Clone, Copy)]
pub struct Rights<'a> {
    pub template: &'a [Box<str>],
    pub narrowed: Option<&'a [Box<str>]>,
}

impl Rights<'_> {
    pub fn permit(&self, cap: &[u8]) -> bool {
        permits(self.template, cap) && self.narrowed.is_none_or(|narrowed| permits(narrowed, cap))
    }
}
