//! `@antiraid/interop`: null, the mark of arrays, and the VM's memory.

use crate::api::Library;
use crate::call::{Call, Done};
use crate::{marks, memory, scheduler};

pub static LIBRARY: Library = Library {
    name: c"@antiraid/interop",
    functions: &[(c"memusage", memusage), (c"memory_limit", memory_limit)],
    values: add_marks,
    luau: None,
};

fn add_marks(call: &Call) {
    marks::push_null(call.state);
    call.set_field(-2, c"null");
    marks::push_array_metatable(call.state);
    call.set_field(-2, c"array_metatable");
}

fn memusage(call: &Call) -> Done {
    // SAFETY: the running VM.
    call.push_number(unsafe { memory::heap_bytes(call.state) });
    Ok(1)
}

fn memory_limit(call: &Call) -> Done {
    call.push_number(scheduler::vm().limits.vm_memory_bytes as f64);
    Ok(1)
}
