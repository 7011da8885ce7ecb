//! Host calls: what scripts ask of Python. The calling thread waits without a value, exactly like `coroutine.yield()`; it
//! goes on with the answer's values, or with its error raised where the script made the call.

use std::ffi::c_int;

use mlua::ffi;

use crate::call::{Call, Done, Function, Named, WAIT};
use crate::msgpack;
use crate::park;
use crate::scheduler;
use crate::thread::ThreadRef;
use crate::value::{self, Null};
use crate::wait::{CALLS_TOO_LARGE, Outgoing};

/// Asks for `name` with the `nargs` arguments from stack index `first` on: a native function ends with
/// `return host::ask(...)`. `narrowed` are the capabilities that the call must do with besides the template's.
pub fn ask(call: &Call, name: &str, narrowed: Option<&[Box<str>]>, first: c_int, nargs: c_int, null: Null) -> Done {
    scheduler::can_wait(call)?;
    let vm = scheduler::vm();
    if vm.is_check {
        return Err("a template that is being checked cannot call the host".into());
    }
    vm.may_wait(false)?;
    // SAFETY: the running thread of the current VM, and arguments that are on its stack.
    unsafe {
        let Some(origin) = vm.origin(call.state) else {
            return Err("this thread belongs to no request".into());
        };
        if vm.is_outdated(&origin) {
            return Err("this version of the template has been replaced".into());
        }
        let mut out = Vec::with_capacity(128);
        msgpack::array(&mut out, 5);
        msgpack::uint(&mut out, origin.request);
        msgpack::str(&mut out, &origin.held.template.name);
        msgpack::str(&mut out, name);
        match narrowed {
            None => msgpack::nil(&mut out),
            Some(caps) => {
                msgpack::array(&mut out, caps.len());
                caps.iter().for_each(|cap| msgpack::str(&mut out, cap));
            }
        }
        msgpack::array(&mut out, nargs.max(0) as usize);
        value::encode_all(call.state, first, nargs, null, &mut out)?;
        if !vm.has_room_for_call(out.len()) {
            return Err(CALLS_TOO_LARGE.into());
        }
        if let Some(request) = vm.requests.borrow_mut().get_mut(&origin.request) {
            request.count_call(name);
        }
        drop(origin);
        ffi::lua_settop(call.state, 0);
        let thread = ThreadRef::running(call.state);
        vm.wait_for_call(thread, Outgoing::HostCall(out), None);
    }
    Ok(WAIT)
}

/// The same, but `function` gets the results and gives those of the native function.
pub fn ask_then(call: &Call, name: &str, first: c_int, nargs: c_int, function: Function) -> Done {
    ask(call, name, None, first, nargs, Null::Refused)?;
    park::then(call, function)
}

/// `host(name, ...)`, for tests of the engine itself.
pub const TEST_HOOK: Named = (c"host", |call| ask(call, call.text(1)?, None, 2, call.count() - 1, Null::Refused));
