//! Capabilities: flat lists of texts. One permits an operation if it is that text, or `*`.

use std::rc::Rc;

/// The capabilities of a `ctx:with`: what its plugins ask for must be among them, and among the template's own.
pub type Narrowed = Rc<[Box<str>]>;

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
