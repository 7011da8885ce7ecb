//! The one budgeted walker between Luau values and KhronosValues in msgpack (docs/values.md).
//!
//! Nothing changes silently: what has no counterpart is refused, with the place where it stands. Metamethods are never
//! invoked, so no script code runs here. Both directions may raise a Luau memory error and therefore run only inside
//! protected calls.

use std::borrow::Cow;

use crate::call::Fault;
use crate::limits;
use crate::walk::{self, Clock};

mod enter;
mod leave;
mod path;

pub use enter::{copy, push_list};
pub use leave::{Null, encode, encode_all};

/// The msgpack extensions of KhronosValue.
mod kind {
    pub const RAW_TEXT: i8 = 1;
    pub const BUFFER: i8 = 2;
    pub const VECTOR: i8 = 3;
    pub const INTERVAL: i8 = 4;
    pub const TIME_ZONE: i8 = 5;
    pub const LAZY_STRING_MAP: i8 = 6;
    pub const BOXED: i8 = 7;
    /// From here on from the host only.
    pub const LAZY_JSON: i8 = 8;
    pub const BLOB: i8 = 9;
    pub const OPAQUE_JSON: i8 = 10;
    pub const JSON: i8 = 11;
    pub const READ_ONLY: i8 = 12;
    pub const TIMESTAMP: i8 = -1;
}

/// Why a value does not cross.
pub struct Refusal {
    /// The limit that it breaches, if that is why.
    pub limit: Option<&'static str>,
    pub text: Cow<'static, str>,
    /// Where it stands in the value, innermost first, unless a limit is why.
    path: Vec<String>,
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Refusal { limit: None, text: text.into(), path: Vec::new() }
    }
}

impl From<&'static str> for Refusal {
    fn from(text: &'static str) -> Self {
        Refusal { limit: None, text: text.into(), path: Vec::new() }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Fault { text: refusal.text, limit: refusal.limit }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Refusal { limit: fault.limit, text: fault.text, path: Vec::new() }
    }
}

type Crossed<T> = Result<T, Refusal>;

pub const fn breach(limit: &'static str, text: &'static str) -> Refusal {
    Refusal { limit: Some(limit), text: Cow::Borrowed(text), path: Vec::new() }
}

const TOO_DEEP: Refusal = breach(limits::DEPTH, "the value is nested deeper than 64 levels, or contains itself (limit: depth)");
const TOO_MANY: Refusal = breach(limits::SIZE, walk::TOO_MANY);
const TOO_LONG: Refusal = breach(limits::SIZE, "the value is longer than 4 MiB (limit: size)");

struct Budget {
    nodes: usize,
    depth_max: usize,
    clock: Clock,
}

impl Budget {
    fn new() -> Self {
        Budget { nodes: walk::NODES_MAX, depth_max: walk::DEPTH_MAX, clock: Clock::default() }
    }

    fn spend(&mut self, depth: usize) -> Crossed<()> {
        if depth > self.depth_max {
            return Err(TOO_DEEP);
        }
        self.nodes = self.nodes.checked_sub(1).ok_or(TOO_MANY)?;
        Ok(())
    }
}
