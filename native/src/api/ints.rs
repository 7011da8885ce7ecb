//! `I64` and `U64`: integers of 64 bits, which Luau's numbers cannot all hold. They wrap around like the machine's.

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use crate::call::{Call, Done, Fault, Named};
use crate::object::{self, Object, tag};
use crate::stack::EXACT;

#[derive(Clone, Copy)]
pub struct I64(pub i64);
#[derive(Clone, Copy)]
pub struct U64(pub u64);

impl Object for I64 {
    const TAG: c_int = tag::I64;
    const NAME: &'static CStr = c"I64";
    const IS_TYPED: bool = false;
    const METHODS: &'static [Named] = &[
        (c"to_u64", to_u64),
        (c"to_i64", to_i64),
        (c"to_ne_bytes", to_ne_bytes::<I64>),
        (c"to_le_bytes", to_le_bytes::<I64>),
        (c"to_be_bytes", to_be_bytes::<I64>),
        (c"from_ne_bytes", from_ne_bytes::<I64>),
        (c"from_le_bytes", from_le_bytes::<I64>),
        (c"from_be_bytes", from_be_bytes::<I64>),
    ];
    const OPERATORS: &'static [Named] = &operators::<I64>();
}

impl Object for U64 {
    const TAG: c_int = tag::U64;
    const NAME: &'static CStr = c"U64";
    const IS_TYPED: bool = false;
    const METHODS: &'static [Named] = &[
        (c"to_i64", to_i64),
        (c"to_u64", to_u64),
        (c"to_ne_bytes", to_ne_bytes::<U64>),
        (c"to_le_bytes", to_le_bytes::<U64>),
        (c"to_be_bytes", to_be_bytes::<U64>),
        (c"from_ne_bytes", from_ne_bytes::<U64>),
        (c"from_le_bytes", from_le_bytes::<U64>),
        (c"from_be_bytes", from_be_bytes::<U64>),
    ];
    const OPERATORS: &'static [Named] = &operators::<U64>();
}

const fn operators<T: Int>() -> [Named; 12] {
    [
        (c"__add", |call| result::<T>(call, |a, b| Some(a.wrapping_add(b)))),
        (c"__sub", |call| result::<T>(call, |a, b| Some(a.wrapping_sub(b)))),
        (c"__mul", |call| result::<T>(call, |a, b| Some(a.wrapping_mul(b)))),
        (c"__div", |call| result::<T>(call, i128::checked_div)),
        (c"__idiv", |call| result::<T>(call, i128::checked_div)),
        (c"__mod", |call| result::<T>(call, i128::checked_rem)),
        (c"__pow", pow::<T>),
        (c"__unm", |call| push(call, T::of(-call.object::<T>(1)?.wide()))),
        (c"__eq", |call| answer(call, call.object::<T>(1)?.wide() == call.object::<T>(2)?.wide())),
        (c"__lt", |call| answer(call, call.object::<T>(1)?.wide() < call.object::<T>(2)?.wide())),
        (c"__le", |call| answer(call, call.object::<T>(1)?.wide() <= call.object::<T>(2)?.wide())),
        (c"__tostring", to_string::<T>),
    ]
}

// ---- arguments and results ----------------------------------------------------------------------------

/// Either type: what can be done to it in 128 bits and cut to 64.
pub trait Int: Object + Copy {
    fn wide(self) -> i128;
    /// The lowest 64 bits.
    fn of(wide: i128) -> Self;
    fn argument(call: &Call, index: c_int) -> Result<Self, Fault>;
}

impl Int for I64 {
    fn wide(self) -> i128 {
        self.0.into()
    }
    fn of(wide: i128) -> Self {
        I64(wide as i64)
    }
    fn argument(call: &Call, index: c_int) -> Result<Self, Fault> {
        i64_argument(call, index).map(I64)
    }
}

impl Int for U64 {
    fn wide(self) -> i128 {
        self.0.into()
    }
    fn of(wide: i128) -> Self {
        U64(wide as u64)
    }
    fn argument(call: &Call, index: c_int) -> Result<Self, Fault> {
        u64_argument(call, index).map(U64)
    }
}

/// A whole number, its decimal text, an `I64`, a `U64` or an integer of Luau's own type, if it is in the range of `I64`.
pub fn i64_argument(call: &Call, index: c_int) -> Result<i64, Fault> {
    let found = whole(call, index)?.and_then(|n| i64::try_from(n).ok());
    found.ok_or_else(|| call.bad(index, "a whole number of 64 bits is expected"))
}

/// The same in the range of `U64`.
pub fn u64_argument(call: &Call, index: c_int) -> Result<u64, Fault> {
    let found = whole(call, index)?.and_then(|n| u64::try_from(n).ok());
    found.ok_or_else(|| call.bad(index, "a whole number of 64 bits that is not negative is expected"))
}

/// The longest text of a whole number, with zeros in front: reading one takes a step per digit, and there may be many.
const TEXT_BYTES_MAX: usize = 64;

fn decimal(text: &[u8]) -> Option<i128> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What stands for a whole number, if it is one. Numbers that are too large for both types stay so as `i128`.
fn whole(call: &Call, index: c_int) -> Result<Option<i128>, Fault> {
    Ok(match call.kind(index) {
        ffi::LUA_TNUMBER => Some(call.number(index)?).filter(|n| n.fract() == 0.0).map(|n| n as i128),
        ffi::LUA_TSTRING => Some(call.bytes(index)?).filter(|text| text.len() <= TEXT_BYTES_MAX).and_then(decimal),
        // SAFETY: it is such an integer.
        ffi::LUA_TINTEGER => Some(unsafe { ffi::lua_tointeger64(call.state, index, std::ptr::null_mut()) }.into()),
        _ => match (call.object_if::<I64>(index), call.object_if::<U64>(index)) {
            (Some(n), _) => Some(n.wide()),
            (_, Some(n)) => Some(n.wide()),
            _ => return Err(call.wrong(index, "a whole number")),
        },
    })
}

fn push<T: Object>(call: &Call, value: T) -> Done {
    call.push_object(value);
    Ok(1)
}

fn answer(call: &Call, value: bool) -> Done {
    call.push_bool(value);
    Ok(1)
}

/// Pushes an integer: as a number where that is exact, else as an `I64`.
pub unsafe fn push_integer(state: *mut lua_State, n: i64) {
    // SAFETY: by the caller, inside a protected call with room for a value.
    unsafe {
        if n.unsigned_abs() <= EXACT {
            ffi::lua_pushnumber(state, n as f64);
        } else {
            object::push(state, I64(n));
        }
    }
}

// ---- arithmetic ---------------------------------------------------------------------------------------

/// Either operand may be what a constructor takes.
fn result<T: Int>(call: &Call, operation: fn(i128, i128) -> Option<i128>) -> Done {
    let (a, b) = (T::argument(call, 1)?, T::argument(call, 2)?);
    let wide = operation(a.wide(), b.wide()).ok_or("attempt to divide an integer by zero")?;
    push(call, T::of(wide))
}

fn pow<T: Int>(call: &Call) -> Done {
    let base = T::argument(call, 1)?.wide();
    let exponent = u64_argument(call, 2)?;
    let exponent = u32::try_from(exponent).map_err(|_| call.bad(2, "an exponent is less than 2^32"))?;
    push(call, T::of(base.wrapping_pow(exponent)))
}

fn to_string<T: Int>(call: &Call) -> Done {
    call.push_bytes(call.object::<T>(1)?.wide().to_string().as_bytes());
    Ok(1)
}

fn to_i64(call: &Call) -> Done {
    push(call, I64(i64_argument(call, 1)?))
}

fn to_u64(call: &Call) -> Done {
    push(call, U64(u64_argument(call, 1)?))
}

// ---- bytes --------------------------------------------------------------------------------------------

fn to_ne_bytes<T: Int>(call: &Call) -> Done {
    push_bytes(call, (call.object::<T>(1)?.wide() as u64).to_ne_bytes())
}

fn to_le_bytes<T: Int>(call: &Call) -> Done {
    push_bytes(call, (call.object::<T>(1)?.wide() as u64).to_le_bytes())
}

fn to_be_bytes<T: Int>(call: &Call) -> Done {
    push_bytes(call, (call.object::<T>(1)?.wide() as u64).to_be_bytes())
}

fn from_ne_bytes<T: Int>(call: &Call) -> Done {
    push(call, T::of(u64::from_ne_bytes(eight::<T>(call)?).into()))
}

fn from_le_bytes<T: Int>(call: &Call) -> Done {
    push(call, T::of(u64::from_le_bytes(eight::<T>(call)?).into()))
}

fn from_be_bytes<T: Int>(call: &Call) -> Done {
    push(call, T::of(u64::from_be_bytes(eight::<T>(call)?).into()))
}

fn push_bytes(call: &Call, bytes: [u8; 8]) -> Done {
    call.push_table(8, 0);
    for (place, byte) in (1..).zip(bytes) {
        call.push_number(byte.into());
        call.set_item(-2, place);
    }
    Ok(1)
}

/// The eight bytes in a table, for `n.from_le_bytes(bytes)` and for `n:from_le_bytes(bytes)`.
fn eight<T: Object>(call: &Call) -> Result<[u8; 8], Fault> {
    let index = if call.object_if::<T>(1).is_some() { 2 } else { 1 };
    call.table(index)?;
    if call.length(index) != 8 {
        return Err(call.bad(index, "a list of 8 bytes is expected"));
    }
    let mut bytes = [0; 8];
    for (place, byte) in (1..).zip(&mut bytes) {
        call.push_item(index, place);
        *byte = call.integer(-1, 0, 255).map_err(|_| call.bad(index, "a list of 8 bytes is expected"))? as u8;
        call.set_top(call.top() - 1);
    }
    Ok(bytes)
}
