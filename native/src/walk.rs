//! What walks over a script's tables have in common: their budget, and the order of a table's keys.

use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use mlua::ffi::{self, lua_State};

use crate::call::Fault;
use crate::limits;
use crate::stack::bytes_at;

// The bounds of one value, whichever way it goes and in whatever form (docs/values.md).
pub const DEPTH_MAX: usize = 64;
/// So many empty tables take about 10 ms.
pub const NODES_MAX: usize = 100_000;
pub const BYTES_MAX: usize = 4 << 20;

pub const TOO_MANY: &str = "the value has more than 100,000 parts (limit: size)";
const TOO_DEEP: &str = "the value is nested deeper than 64 levels (limit: depth)";
const TOO_SLOW: &str = "the value takes longer than 50 ms to walk: it has huge tables that are almost empty (limit: unbreakable)";

/// How long a walk may last. Only tables with many empty places can make it longer than the other bounds allow: walking
/// over them costs, and one table may stand in many places.
const TIME_MAX: Duration = Duration::from_millis(50);
/// The clock is read before every so many tables: one table of a full VM takes about a millisecond.
const TABLES_PER_LOOK: u32 = 8;

/// The time of one walk.
#[derive(Default)]
pub struct Clock {
    tables: u32,
    end: Option<Instant>,
}

impl Clock {
    /// Before each table's places are walked.
    pub fn tick(&mut self) -> Result<(), Fault> {
        self.tables += 1;
        if self.tables.is_multiple_of(TABLES_PER_LOOK) {
            let now = Instant::now();
            if now > *self.end.get_or_insert(now + TIME_MAX) {
                return Err(Fault::limit(limits::UNBREAKABLE, TOO_SLOW));
            }
        }
        Ok(())
    }
}

pub struct Budget {
    nodes: usize,
    clock: Clock,
    /// The tables that the walk is in.
    path: Vec<*const c_void>,
}

impl Budget {
    pub fn new() -> Self {
        Budget { nodes: NODES_MAX, clock: Clock::default(), path: Vec::new() }
    }

    /// So many more values.
    pub fn spend(&mut self, nodes: usize) -> Result<(), Fault> {
        match self.nodes.checked_sub(nodes) {
            Some(left) => {
                self.nodes = left;
                Ok(())
            }
            None => Err(Fault::limit(limits::SIZE, TOO_MANY)),
        }
    }

    /// Whether the walk is in the table at `index` already.
    pub unsafe fn is_inside(&self, state: *mut lua_State, index: c_int) -> bool {
        // SAFETY: by the caller, a live state.
        self.path.contains(&unsafe { ffi::lua_topointer(state, index) })
    }

    pub fn depth(&self) -> usize {
        self.path.len()
    }

    /// Enters the table at `index`; `leave` follows.
    pub unsafe fn enter(&mut self, state: *mut lua_State, index: c_int) -> Result<(), Fault> {
        if self.path.len() >= DEPTH_MAX {
            return Err(Fault::limit(limits::DEPTH, TOO_DEEP));
        }
        self.clock.tick()?;
        // SAFETY: by the caller, a live state; for what a level of the walk pushes.
        unsafe {
            ffi::lua_rawcheckstack(state, 8);
            self.path.push(ffi::lua_topointer(state, index));
        }
        Ok(())
    }

    pub fn leave(&mut self) {
        self.path.pop();
    }
}

/// A key of a table. Strings are the table's own: it keeps them, and nothing changes it during a walk.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub enum Key<'a> {
    Number(f64),
    Text(&'a [u8]),
    Other,
}

/// A key, and where `push_entry` finds it again.
pub type Entry<'a> = (Key<'a>, c_int);

/// The keys of the table at `index`, in the table's own order. Each counts as a part of the value, with what it leads to.
pub unsafe fn entries<'a>(state: *mut lua_State, index: c_int, budget: &mut Budget) -> Result<Vec<Entry<'a>>, Fault> {
    let mut all = Vec::new();
    let mut iter = 0;
    loop {
        // SAFETY: by the caller, a live state; `enter` has made room.
        unsafe {
            iter = ffi::lua_rawiter(state, index, iter);
            if iter < 0 {
                return Ok(all);
            }
            let key = match ffi::lua_type(state, -2) {
                ffi::LUA_TNUMBER => Key::Number(ffi::lua_tonumber(state, -2)),
                ffi::LUA_TSTRING => Key::Text(bytes_at(state, -2)),
                _ => Key::Other,
            };
            ffi::lua_settop(state, -3);
            budget.spend(1)?;
            all.push((key, iter));
        }
    }
}

/// Numbers first, then texts, then the rest in the table's own order.
pub fn sort(entries: &mut [Entry]) {
    entries.sort_by(|(a, _), (b, _)| match (a, b) {
        (Key::Number(a), Key::Number(b)) => a.total_cmp(b),
        (Key::Text(a), Key::Text(b)) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    });
}

fn rank(key: &Key) -> u8 {
    match key {
        Key::Number(_) => 0,
        Key::Text(_) => 1,
        Key::Other => 2,
    }
}

/// Pushes the key and the value of an entry.
pub unsafe fn push_entry(state: *mut lua_State, index: c_int, place: c_int) {
    // SAFETY: by the caller; the entry is where the first walk found it.
    unsafe { ffi::lua_rawiter(state, index, place - 1) };
}
