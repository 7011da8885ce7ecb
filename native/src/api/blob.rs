//! `Blob`: bytes that a script holds and passes on without having them in Luau's heap.
//!
//! What takes a blob's content leaves it empty; `tobuffer` ends it. The content is charged to the VM like its own memory.

use std::cell::{Ref, RefCell};
use std::ffi::c_int;
use std::ops::Deref;

use mlua::ffi::{self, lua_State};

use crate::call::{Call, Done, Fault, Named};
use crate::memory::{self, Charge, SPARE};
use crate::object::{self, Object, destructed, tag};
use crate::offload::Output;

/// Bytes outside Luau's heap.
pub struct Content {
    pub bytes: Box<[u8]>,
    /// Nothing if there are no bytes.
    charge: Option<Charge>,
}

impl Content {
    pub fn new(state: *mut lua_State, bytes: Vec<u8>) -> Result<Content, Fault> {
        let bytes = bytes.into_boxed_slice();
        let charge = if bytes.is_empty() { None } else { Some(Charge::new(state, bytes.len())?) };
        Ok(Content { bytes, charge })
    }

    pub fn into_vec(self) -> Vec<u8> {
        self.bytes.into_vec()
    }

    fn empty() -> Content {
        Content { bytes: Box::default(), charge: None }
    }
}

pub struct Blob {
    /// Nothing once it is destructed.
    content: RefCell<Option<Content>>,
}

impl Object for Blob {
    const TAG: c_int = tag::BLOB;
    const NAME: &'static std::ffi::CStr = c"Blob";
    const IS_TYPED: bool = false;
    const METHODS: &'static [Named] = &[(c"tobuffer", to_buffer), (c"drain", drain), (c"zeroize", zeroize)];
    const OPERATORS: &'static [Named] = &[(c"__len", len)];
}

impl Blob {
    /// Takes the content out and leaves the blob empty.
    pub fn take(&self) -> Result<Vec<u8>, Fault> {
        match self.content.borrow_mut().as_mut() {
            Some(content) => Ok(std::mem::replace(content, Content::empty()).into_vec()),
            None => Err(destructed()),
        }
    }

    /// The content, to look at.
    pub fn view(&self) -> Result<Ref<'_, [u8]>, Fault> {
        Ref::filter_map(self.content.borrow(), |content| content.as_ref().map(|c| &*c.bytes)).map_err(|_| destructed())
    }
}

/// Pushes a blob. Refused if the VM has no room for it.
///
/// # Safety
/// Inside a function that Luau calls.
pub unsafe fn push(state: *mut lua_State, bytes: Vec<u8>) -> Result<(), Fault> {
    let content = Content::new(state, bytes)?;
    // SAFETY: by the caller.
    unsafe { object::push(state, Blob { content: RefCell::new(Some(content)) }) };
    Ok(())
}

/// Ends a function with a blob as its result.
pub fn give(call: &Call, bytes: Vec<u8>) -> Done {
    // SAFETY: inside a function that Luau calls.
    unsafe { push(call.state, bytes)? };
    Ok(1)
}

/// A job's result that is a blob.
pub fn output(bytes: Vec<u8>) -> Output {
    Output::new(bytes.len(), |call| give(call, bytes))
}

/// The bytes of an argument that is a buffer, a string or a blob; a blob is left empty.
pub fn take(call: &Call, index: c_int) -> Result<Vec<u8>, Fault> {
    match call.object_if::<Blob>(index) {
        Some(blob) => blob.take(),
        None => Ok(plain(call, index)?.to_vec()),
    }
}

/// The same bytes to look at; a blob keeps them.
pub fn view(call: &Call, index: c_int) -> Result<View<'_>, Fault> {
    match call.object_if::<Blob>(index) {
        Some(blob) => blob.view().map(View::Blob),
        None => plain(call, index).map(View::Plain),
    }
}

fn plain(call: &Call, index: c_int) -> Result<&[u8], Fault> {
    match call.kind(index) {
        ffi::LUA_TBUFFER => call.buffer(index),
        ffi::LUA_TSTRING | ffi::LUA_TNUMBER => call.bytes(index),
        _ => Err(call.wrong(index, "buffer, string or Blob")),
    }
}

pub enum View<'a> {
    Plain(&'a [u8]),
    Blob(Ref<'a, [u8]>),
}

impl Deref for View<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            View::Plain(bytes) => bytes,
            View::Blob(bytes) => bytes,
        }
    }
}

// ---- what scripts call ----------------------------------------------------------------------------------

fn len(call: &Call) -> Done {
    let n = call.object::<Blob>(1)?.view()?.len();
    call.push_number(n as f64);
    Ok(1)
}

fn to_buffer(call: &Call) -> Done {
    let blob = call.object::<Blob>(1)?;
    let size = blob.view()?.len();
    // The content's own room is free once it is a buffer.
    let room = memory::room(call.state, SPARE) + size;
    if room < size + SPARE {
        return Err(format!("Blob size {size} exceeds available memory ({} bytes)", room.saturating_sub(SPARE)).into());
    }
    let content = blob.content.borrow_mut().take().ok_or_else(destructed)?;
    let bytes = content.bytes;
    drop(content.charge);
    call.push_buffer(&bytes);
    Ok(1)
}

fn drain(call: &Call) -> Done {
    drop(call.object::<Blob>(1)?.take()?);
    Ok(0)
}

/// Overwrites the content before it is let go of.
fn zeroize(call: &Call) -> Done {
    let mut bytes = call.object::<Blob>(1)?.take()?;
    bytes.fill(0);
    // Keeps the compiler from leaving the writes out.
    std::hint::black_box(&mut bytes);
    Ok(0)
}
