//! Host objects: Rust values that scripts hold as userdata of a named type, with methods, fields and operators.
//!
//! A type is set up in a VM when the VM first makes an object of it, so that a VM pays for what it uses only. What an
//! object owns outside Luau's heap is charged to the VM (`memory::Charge`).
//!
//! SAFETY, for the whole file: called inside functions that Luau calls. A tag belongs to one Rust type; only `push` makes
//! userdata with it, and its destructor is set before the first one is made.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use mlua::ffi::{self, lua_State};

use crate::call::{self, Fault, Named};
use crate::park;
use crate::stack::push_weak;

/// The tags of all userdata of this crate; Luau knows 0 to 127, mlua uses the first ones.
pub mod tag {
    use std::ffi::c_int;
    // What is no `Object`.
    pub const ISOLATE: c_int = 20;
    pub const CTX: c_int = 21;
    pub const FILES: c_int = 26;

    pub const LAZY: c_int = 30;
    pub const OPAQUE: c_int = 31;
    pub const BLOB: c_int = 32;
    pub const VFS: c_int = 33;
    pub const I64: c_int = 34;
    pub const U64: c_int = 35;
    pub const DATE_TIME: c_int = 36;
    pub const TIME_DELTA: c_int = 37;
    pub const TIME_ZONE: c_int = 38;
    pub const TAR_ARCHIVE: c_int = 39;
    pub const URL: c_int = 41;
    pub const HEADERS: c_int = 42;
    pub const REQUEST: c_int = 43;
    pub const RESPONSE: c_int = 44;
    /// Objects whose type is written in Luau (`api::object`), such as `Chunk`.
    pub const LUAU: c_int = 45;
    pub const SUB_CONTEXT: c_int = 46;
    pub const KV: c_int = 47;
    pub const GLOBAL_KV: c_int = 48;
    pub const BUCKET: c_int = 49;
    pub const DISCORD: c_int = 50;
    pub const RUNTIME: c_int = 51;
    pub const ONESHOT: c_int = 60;
    pub const SELECTION: c_int = 61;
    pub const DELAY: c_int = 62;
    pub const KEY_HANDLE: c_int = 63;
}

/// A type of objects. What changes in an object sits in cells.
pub trait Object: Sized + 'static {
    const TAG: c_int;
    /// What `typeof` and, without an operator of its own, `tostring` give.
    const NAME: &'static CStr;
    /// Whether `typeof` tells the name; if not, it says "userdata".
    const IS_TYPED: bool = true;
    /// Called as `object:name(...)`, with the object as argument 1.
    const METHODS: &'static [Named] = &[];
    /// Read as `object.name`, with the object as argument 1.
    const FIELDS: &'static [Named] = &[];
    /// Assigned as `object.name = v`, with the object as argument 1 and the value as argument 2.
    const SETTERS: &'static [Named] = &[];
    /// Metamethods besides those that follow from the above, such as `__add`, `__eq`, `__len`, `__tostring`.
    const OPERATORS: &'static [Named] = &[];
}

/// Place of the weak table from objects to their Luau values in the metatable of a type.
const VALUES: c_int = 1;

unsafe extern "C" fn drop_object<T>(_state: *mut lua_State, data: *mut c_void) {
    // SAFETY: `push` has written a T there; Luau calls this once.
    unsafe { ptr::drop_in_place(data.cast::<T>()) }
}

/// Pushes an object.
pub unsafe fn push<T: Object>(state: *mut lua_State, value: T) {
    const { assert!(align_of::<T>() <= 8, "Luau aligns userdata to 8 bytes") };
    unsafe {
        ffi::lua_rawcheckstack(state, 8);
        push_metatable::<T>(state);
        let data = ffi::lua_newuserdatatagged(state, size_of::<T>(), T::TAG).cast::<T>();
        data.write(value);
        ffi::lua_insert(state, -2);
        ffi::lua_setmetatable(state, -2);
    }
}

/// Pushes the metatable of a type, made at its first use in this VM.
unsafe fn push_metatable<T: Object>(state: *mut lua_State) {
    unsafe {
        ffi::lua_getuserdatametatable(state, T::TAG);
        if ffi::lua_type(state, -1) != ffi::LUA_TNIL {
            return;
        }
        ffi::lua_settop(state, -2);
        ffi::lua_setuserdatadtor(state, T::TAG, Some(drop_object::<T>));
        let of = Type {
            name: T::NAME,
            is_typed: T::IS_TYPED,
            methods: T::METHODS,
            fields: T::FIELDS,
            setters: T::SETTERS,
            operators: T::OPERATORS,
        };
        make_metatable(state, &of);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_setuserdatametatable(state, T::TAG);
    }
}

/// What a metatable is made of.
pub struct Type {
    pub name: &'static CStr,
    /// Whether `typeof` gives the name, and not "userdata".
    pub is_typed: bool,
    pub methods: &'static [Named],
    pub fields: &'static [Named],
    pub setters: &'static [Named],
    pub operators: &'static [Named],
}

/// Pushes the metatable of a type.
pub unsafe fn make_metatable(state: *mut lua_State, of: &Type) {
    unsafe {
        ffi::lua_createtable(state, 1, 8 + of.operators.len() as c_int);
        ffi::lua_pushstring_(state, of.name.as_ptr());
        if of.is_typed {
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawsetfield(state, -3, c"__type".as_ptr());
        }
        ffi::lua_pushcclosurek(state, type_name, c"tostring".as_ptr(), 1, None);
        ffi::lua_rawsetfield(state, -2, c"__tostring".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_rawsetfield(state, -2, c"__metatable".as_ptr());
        call::push_functions(state, of.methods, 0);
        push_pointers(state, of.fields);
        ffi::lua_pushcclosurek(state, index, c"index".as_ptr(), 2, Some(park::go_on));
        ffi::lua_rawsetfield(state, -2, c"__index".as_ptr());
        push_pointers(state, of.methods);
        ffi::lua_pushcclosurek(state, namecall, c"namecall".as_ptr(), 1, Some(park::go_on));
        ffi::lua_rawsetfield(state, -2, c"__namecall".as_ptr());
        if of.setters.is_empty() {
            ffi::lua_pushcclosurek(state, no_assignment, c"newindex".as_ptr(), 0, None);
        } else {
            push_pointers(state, of.setters);
            ffi::lua_pushcclosurek(state, newindex, c"newindex".as_ptr(), 1, None);
        }
        ffi::lua_rawsetfield(state, -2, c"__newindex".as_ptr());
        for operator in of.operators {
            call::push_function(state, *operator);
            ffi::lua_rawsetfield(state, -2, operator.0.as_ptr());
        }
    }
}

/// `tostring`: upvalue 1 is the type's name.
unsafe extern "C-unwind" fn type_name(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        1
    }
}

/// Raises the error for the name at index 2.
unsafe fn unknown_field(state: *mut lua_State) -> ! {
    unsafe {
        let name = ffi::luaL_tolstring_(state, 2, ptr::null_mut());
        ffi::luaL_error(state, c"attempt to get an unknown field '%s'".as_ptr(), name)
    }
}

unsafe extern "C-unwind" fn no_assignment(state: *mut lua_State) -> c_int {
    unsafe {
        let name = ffi::luaL_tolstring_(state, 2, ptr::null_mut());
        ffi::luaL_error(state, c"attempt to set an unknown field '%s'".as_ptr(), name)
    }
}

/// Pushes a table from names to the pointers of native functions.
pub unsafe fn push_pointers(state: *mut lua_State, functions: &[Named]) {
    unsafe {
        ffi::lua_createtable(state, 0, functions.len() as c_int);
        for (name, function) in functions {
            call::push_pointer(state, *function);
            ffi::lua_rawsetfield(state, -2, name.as_ptr());
        }
    }
}

/// `object.name`: upvalue 1 holds the methods, upvalue 2 the pointers of the fields.
unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 2);
        ffi::lua_pushvalue(state, 2);
        if ffi::lua_rawget(state, ffi::lua_upvalueindex(2)) == ffi::LUA_TLIGHTUSERDATA {
            let field = call::as_function(ffi::lua_tolightuserdata(state, 3));
            ffi::lua_settop(state, 1);
            return call::run(state, field);
        }
        ffi::lua_pushvalue(state, 2);
        if ffi::lua_rawget(state, ffi::lua_upvalueindex(1)) != ffi::LUA_TNIL {
            return 1;
        }
        unknown_field(state)
    }
}

/// `object:name(...)`: upvalue 1 holds the pointers of the methods.
pub unsafe extern "C-unwind" fn namecall(state: *mut lua_State) -> c_int {
    unsafe {
        let name = ffi::lua_namecallatom(state, ptr::null_mut());
        let name = if name.is_null() { c"" } else { CStr::from_ptr(name) };
        ffi::lua_rawcheckstack(state, 4);
        if ffi::lua_rawgetfield(state, ffi::lua_upvalueindex(1), name.as_ptr()) == ffi::LUA_TLIGHTUSERDATA {
            let method = call::as_function(ffi::lua_tolightuserdata(state, -1));
            ffi::lua_settop(state, -2);
            return call::run(state, method);
        }
        ffi::luaL_error(state, c"runtime error: Method `%s` not found".as_ptr(), name.as_ptr())
    }
}

/// `object.name = v`: upvalue 1 holds the pointers of the setters.
unsafe extern "C-unwind" fn newindex(state: *mut lua_State) -> c_int {
    unsafe {
        ffi::lua_settop(state, 3);
        ffi::lua_pushvalue(state, 2);
        if ffi::lua_rawget(state, ffi::lua_upvalueindex(1)) != ffi::LUA_TLIGHTUSERDATA {
            return no_assignment(state);
        }
        let setter = call::as_function(ffi::lua_tolightuserdata(state, 4));
        ffi::lua_settop(state, 3);
        ffi::lua_remove(state, 2);
        call::run(state, setter)
    }
}

/// Pushes the table of values that belongs to the userdata at `index`, made at its first use.
pub unsafe fn push_values(state: *mut lua_State, index: c_int) {
    unsafe {
        ffi::lua_rawcheckstack(state, 6);
        let object = ffi::lua_absindex(state, index);
        let metatable = push_all_values(state, object);
        ffi::lua_pushvalue(state, object);
        if ffi::lua_rawget(state, metatable + 1) != ffi::LUA_TTABLE {
            ffi::lua_settop(state, metatable + 1);
            ffi::lua_createtable(state, 0, 1);
            ffi::lua_pushvalue(state, object);
            ffi::lua_pushvalue(state, -2);
            ffi::lua_rawset(state, metatable + 1);
        }
        ffi::lua_replace(state, metatable);
        ffi::lua_settop(state, metatable);
    }
}

/// Pushes the metatable of the userdata at `object`, whose place it gives, and the table from objects to their values.
unsafe fn push_all_values(state: *mut lua_State, object: c_int) -> c_int {
    unsafe {
        ffi::lua_getmetatable(state, object);
        let metatable = ffi::lua_gettop(state);
        if ffi::lua_rawgeti_(state, metatable, VALUES) != ffi::LUA_TTABLE {
            ffi::lua_settop(state, metatable);
            push_weak(state, c"k", 0);
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawseti_(state, metatable, VALUES);
        }
        metatable
    }
}

/// Gives the userdata on top, which has no values yet, those of another object: the table at `values`.
pub unsafe fn share_values(state: *mut lua_State, values: c_int) {
    unsafe {
        ffi::lua_rawcheckstack(state, 6);
        let object = ffi::lua_gettop(state);
        push_all_values(state, object);
        ffi::lua_pushvalue(state, object);
        ffi::lua_pushvalue(state, values);
        ffi::lua_rawset(state, -3);
        ffi::lua_settop(state, object);
    }
}

/// The error for an object whose content was taken out of it.
pub fn destructed() -> Fault {
    "userdata has been destructed".into()
}

/// `members(object)`: the names of its methods and fields, for the tests that hold native/types to them.
pub const TEST_HOOK: Named = (c"members", |call| {
    let state = call.state;
    call.push_table(0, 0);
    // SAFETY: walks the upvalues of `__index`, which `make_metatable` has made of tables.
    unsafe {
        if ffi::lua_getmetatable(state, 1) == 0 {
            return Ok(1);
        }
        ffi::lua_rawgetfield(state, -1, c"__index".as_ptr());
        let (names, index) = (2, ffi::lua_gettop(state));
        for upvalue in 1..=2 {
            if ffi::lua_getupvalue(state, index, upvalue).is_null() || ffi::lua_type(state, -1) != ffi::LUA_TTABLE {
                continue;
            }
            ffi::lua_pushnil(state);
            while ffi::lua_next(state, -2) != 0 {
                ffi::lua_settop(state, -2);
                ffi::lua_pushvalue(state, -1);
                ffi::lua_rawseti_(state, names, ffi::lua_objlen_(state, names) + 1);
            }
        }
        ffi::lua_settop(state, names);
    }
    Ok(1)
});
