//! The safe face of native functions: arguments are read without raising, results are pushed, errors are values.
//!
//! A native function is a plain Rust function from a `Call`; `trampoline` is the one C function behind all of them. It
//! raises what the function returned as an error after everything that the function owned is gone. Pushing may raise an
//! out-of-memory error past the function: destructors run then, as `panic = "unwind"` and the `C-unwind` ABI promise.
//!
//! SAFETY, for the whole file: a `Call` exists only while Luau calls the function on a running thread of the current VM.
//! Bytes and objects borrowed from it stay on its stack, which nothing shrinks while the call borrows them. The compiler
//! sees none of this: where a method names an index, the function has seen to it that the value is there, and is a table
//! where one is named.

use std::borrow::Cow;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::object::{self, Object};
use crate::scheduler;
use crate::stack::{self, bytes_at, push_str};
use crate::{limits, park};

/// Why a native function fails: what the script gets as the error, and the limit that is breached, if that is why.
#[derive(Debug)]
pub struct Fault {
    pub text: Cow<'static, str>,
    pub limit: Option<&'static str>,
}

impl From<&'static str> for Fault {
    fn from(text: &'static str) -> Self {
        Fault { text: text.into(), limit: None }
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Fault { text: text.into(), limit: None }
    }
}

impl Fault {
    pub fn limit(limit: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Fault { text: text.into(), limit: Some(limit) }
    }

    /// The same fault, with what it befell before it: `what: text`.
    pub fn of(self, what: impl std::fmt::Display) -> Self {
        Fault { text: format!("{what}: {}", self.text).into(), ..self }
    }
}

/// How a native function ends: the number of results on top of the stack, or `WAIT`.
pub type Done = Result<c_int, Fault>;
pub type Function = fn(&Call) -> Done;
/// A name and what is behind it.
pub type Named = (&'static CStr, Function);

/// The function has arranged for its thread to be woken: what it is woken with is its result.
pub const WAIT: c_int = -1;
/// The function has parked its thread (`park.rs`): another function goes on when it is woken.
pub const THEN: c_int = -2;

pub struct Call {
    pub state: *mut lua_State,
}

impl Call {
    // ---- arguments ------------------------------------------------------------------------------------

    /// How many arguments there are.
    pub fn count(&self) -> c_int {
        unsafe { ffi::lua_gettop(self.state) }
    }

    /// The Luau type at `index`; `LUA_TNONE` past the last argument.
    pub fn kind(&self, index: c_int) -> c_int {
        unsafe { ffi::lua_type(self.state, index) }
    }

    /// Whether the argument is absent or nil.
    pub fn is_nil(&self, index: c_int) -> bool {
        self.kind(index) <= ffi::LUA_TNIL
    }

    /// The error for an argument of the wrong type.
    pub fn wrong(&self, index: c_int, expected: &str) -> Fault {
        self.bad(index, format!("{expected} expected, got {}", self.kind_name(index)))
    }

    /// What `typeof` says of the value at `index`.
    pub fn kind_name(&self, index: c_int) -> Cow<'_, str> {
        match self.kind(index) {
            ffi::LUA_TNONE => Cow::Borrowed("nothing"),
            _ => unsafe { CStr::from_ptr(ffi::luaL_typename(self.state, index)).to_string_lossy() },
        }
    }

    /// The error for an argument that cannot be used.
    pub fn bad(&self, index: c_int, why: impl std::fmt::Display) -> Fault {
        let mut frame: ffi::lua_Debug = unsafe { std::mem::zeroed() };
        let known = unsafe { ffi::lua_getinfo(self.state, 0, c"n".as_ptr(), &raw mut frame) } != 0 && !frame.name.is_null();
        let name = if known { unsafe { CStr::from_ptr(frame.name) } } else { c"function" };
        // All methods are called by one function of their type. Luau keeps the name that was called for it.
        let method = if name == c"namecall" { unsafe { ffi::lua_namecallatom(self.state, ptr::null_mut()) } } else { ptr::null() };
        let name = if method.is_null() { name } else { unsafe { CStr::from_ptr(method) } }.to_string_lossy();
        format!("bad argument #{index} to '{name}' ({why})").into()
    }

    /// A string's bytes; numbers count as their text.
    pub fn bytes(&self, index: c_int) -> Result<&[u8], Fault> {
        match self.kind(index) {
            ffi::LUA_TSTRING => {}
            ffi::LUA_TNUMBER => unsafe {
                ffi::lua_tolstring(self.state, index, ptr::null_mut());
            },
            _ => return Err(self.wrong(index, "string")),
        }
        Ok(unsafe { bytes_at(self.state, index) })
    }

    /// A string that is UTF-8.
    pub fn text(&self, index: c_int) -> Result<&str, Fault> {
        std::str::from_utf8(self.bytes(index)?).map_err(|_| self.bad(index, "the string is not UTF-8"))
    }

    /// A number; texts count as theirs.
    pub fn number(&self, index: c_int) -> Result<f64, Fault> {
        let mut is_number = 0;
        let n = unsafe { ffi::lua_tonumberx(self.state, index, &raw mut is_number) };
        if is_number == 0 { Err(self.wrong(index, "number")) } else { Ok(n) }
    }

    /// A number without its fraction, between two bounds.
    pub fn integer(&self, index: c_int, min: i64, max: i64) -> Result<i64, Fault> {
        let n = self.number(index)?.trunc();
        if n >= min as f64 && n <= max as f64 {
            return Ok(n as i64);
        }
        Err(self.bad(index, format!("a number from {min} to {max} is expected")))
    }

    /// The argument's truth: absent is false.
    pub fn truth(&self, index: c_int) -> bool {
        unsafe { ffi::lua_toboolean(self.state, index) != 0 }
    }

    pub fn table(&self, index: c_int) -> Result<(), Fault> {
        if self.kind(index) == ffi::LUA_TTABLE { Ok(()) } else { Err(self.wrong(index, "table")) }
    }

    /// The bytes of a buffer.
    pub fn buffer(&self, index: c_int) -> Result<&[u8], Fault> {
        unsafe { stack::buffer_at(self.state, index) }.ok_or_else(|| self.wrong(index, "buffer"))
    }

    /// The object of a type at `index`. What changes in it sits in cells.
    pub fn object<T: Object>(&self, index: c_int) -> Result<&T, Fault> {
        self.object_if(index).ok_or_else(|| self.wrong(index, &T::NAME.to_string_lossy()))
    }

    /// The same, where other types are allowed as well.
    pub fn object_if<T: Object>(&self, index: c_int) -> Option<&T> {
        unsafe { (ffi::lua_touserdatatagged(self.state, index, T::TAG) as *const T).as_ref() }
    }

    // ---- the stack ------------------------------------------------------------------------------------

    pub fn top(&self) -> c_int {
        self.count()
    }

    /// Removes what is above the first `n` values.
    pub fn set_top(&self, n: c_int) {
        unsafe { ffi::lua_settop(self.state, n) }
    }

    pub fn push_nil(&self) {
        unsafe { ffi::lua_pushnil(self.state) }
    }

    pub fn push_bool(&self, v: bool) {
        unsafe { ffi::lua_pushboolean(self.state, v.into()) }
    }

    pub fn push_number(&self, v: f64) {
        unsafe { ffi::lua_pushnumber(self.state, v) }
    }

    pub fn push_bytes(&self, v: &[u8]) {
        unsafe { push_str(self.state, v) }
    }

    /// A copy of the value at `index`.
    pub fn push_value(&self, index: c_int) {
        unsafe { ffi::lua_pushvalue(self.state, index) }
    }

    pub fn push_buffer(&self, v: &[u8]) {
        unsafe { stack::push_buffer(self.state, v) }
    }

    pub fn push_object<T: Object>(&self, value: T) {
        unsafe { object::push(self.state, value) }
    }

    /// A new table with room for so many items and fields.
    pub fn push_table(&self, items: usize, fields: usize) {
        unsafe { ffi::lua_createtable(self.state, items as c_int, fields as c_int) }
    }

    /// Moves the value on top into a field of the table at `index`. Runs no metamethod.
    pub fn set_field(&self, index: c_int, name: &CStr) {
        unsafe { ffi::lua_rawsetfield(self.state, index, name.as_ptr()) }
    }

    /// Moves the value on top to a place of the table at `index`. Runs no metamethod.
    pub fn set_item(&self, index: c_int, place: c_int) {
        unsafe { ffi::lua_rawseti_(self.state, index, place) }
    }

    /// Moves the key and the value on top into the table at `index`. Runs no metamethod.
    pub fn set_pair(&self, index: c_int) {
        unsafe { ffi::lua_rawset(self.state, index) }
    }

    /// Pushes a field of the table at `index`; gives its type. Runs no metamethod.
    pub fn push_field(&self, index: c_int, name: &CStr) -> c_int {
        unsafe { ffi::lua_rawgetfield(self.state, index, name.as_ptr()) }
    }

    /// Pushes an item of the table at `index`; gives its type. Runs no metamethod.
    pub fn push_item(&self, index: c_int, place: c_int) -> c_int {
        unsafe { ffi::lua_rawgeti_(self.state, index, place) }
    }

    /// The length of the table, string or object at `index`, without metamethods.
    pub fn length(&self, index: c_int) -> c_int {
        unsafe { ffi::lua_objlen_(self.state, index) }
    }

    /// Moves the value on top to the place `index` of the stack.
    pub fn replace(&self, index: c_int) {
        unsafe { ffi::lua_replace(self.state, index) }
    }

    /// Makes the table at `index` read-only.
    pub fn freeze(&self, index: c_int) {
        unsafe { ffi::lua_setreadonly(self.state, index, 1) }
    }

    /// Pushes the table of Luau values that belongs to the object at `index`, made at its first use. What it holds lives
    /// as long as the object; a value in it that refers back to the object keeps both until the VM goes.
    pub fn push_values(&self, index: c_int) {
        unsafe { object::push_values(self.state, index) }
    }

    /// Gives the object on top, which has no values yet, those of another object: the table at `values`.
    pub fn share_values(&self, values: c_int) {
        unsafe { object::share_values(self.state, values) }
    }

    /// Empties the table at `index`.
    pub fn clear(&self, index: c_int) {
        unsafe { ffi::lua_cleartable(self.state, index) }
    }

    /// The sequence of strings at `index`, which must be a list of at most `max` of them, with `bytes_max` bytes in all:
    /// one string may stand in many places.
    pub fn texts(&self, index: c_int, max: usize, bytes_max: usize) -> Result<Vec<&str>, Fault> {
        self.table(index)?;
        let n = self.length(index);
        if n as usize > max {
            return Err(self.bad(index, format!("at most {max} items are allowed, it has {n}")));
        }
        let mut all = Vec::with_capacity(n as usize);
        let mut left = bytes_max;
        for place in 1..=n {
            let kind = self.push_item(index, place);
            // The list keeps its strings alive.
            let bytes = if kind == ffi::LUA_TSTRING { unsafe { Some(bytes_at(self.state, -1)) } } else { None };
            self.set_top(self.top() - 1);
            let expected = || self.bad(index, "a list of strings is expected");
            let bytes = bytes.ok_or_else(expected)?;
            let too_long = || Fault::limit(limits::SIZE, format!("a list of strings is longer than {bytes_max} bytes (limit: size)"));
            left = left.checked_sub(bytes.len()).ok_or_else(too_long)?;
            all.push(std::str::from_utf8(bytes).map_err(|_| expected())?);
        }
        Ok(all)
    }
}

/// The C function behind all native functions; its upvalue 1 is the Rust function.
unsafe extern "C-unwind" fn trampoline(state: *mut lua_State) -> c_int {
    unsafe {
        let function = ffi::lua_tolightuserdata(state, ffi::lua_upvalueindex(1));
        run(state, as_function(function))
    }
}

/// A function pointer that `push_pointer` has pushed.
pub unsafe fn as_function(pointer: *mut c_void) -> Function {
    // SAFETY: by the caller; only `push_pointer` makes such pointers, and scripts cannot reach upvalues.
    unsafe { std::mem::transmute::<*mut c_void, Function>(pointer) }
}

pub unsafe fn push_pointer(state: *mut lua_State, function: Function) {
    unsafe { ffi::lua_pushlightuserdata(state, function as *mut c_void) }
}

/// Calls a native function for Luau.
pub unsafe fn run(state: *mut lua_State, function: Function) -> c_int {
    match function(&Call { state }) {
        Ok(WAIT) => unsafe {
            ffi::lua_settop(state, 0);
            ffi::lua_yield(state, 0)
        },
        Ok(THEN) => unsafe { ffi::lua_yield(state, 0) },
        Ok(n) => n,
        Err(fault) => unsafe { raise(state, fault) },
    }
}

/// Raises the fault as a Luau error. Nothing else that owns memory may be alive in the caller.
pub unsafe fn raise(state: *mut lua_State, fault: Fault) -> ! {
    unsafe {
        push_fault(state, fault);
        ffi::lua_error(state)
    }
}

/// Pushes the fault's text, and notes which limit is breached.
unsafe fn push_fault(state: *mut lua_State, fault: Fault) {
    if let (Some(vm), true) = (scheduler::current(), fault.limit.is_some()) {
        vm.breach.set(fault.limit);
    }
    unsafe {
        ffi::lua_rawcheckstack(state, 1);
        push_str(state, fault.text.as_bytes());
    }
}

/// Pushes a native function as Luau sees it.
pub unsafe fn push_function(state: *mut lua_State, (name, function): Named) {
    unsafe {
        push_pointer(state, function);
        ffi::lua_pushcclosurek(state, trampoline, name.as_ptr(), 1, Some(park::go_on));
    }
}

/// Pushes a table of native functions with room for `more` fields.
pub unsafe fn push_functions(state: *mut lua_State, functions: &[Named], more: usize) {
    unsafe {
        ffi::lua_createtable(state, 0, (functions.len() + more) as c_int);
        for function in functions {
            push_function(state, *function);
            ffi::lua_rawsetfield(state, -2, function.0.as_ptr());
        }
    }
}
