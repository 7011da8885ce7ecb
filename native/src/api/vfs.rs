//! `Vfs`: a tree of files that a script can require from. Trees are stacked into others; none is ever changed.

use std::ffi::{CStr, c_int};
use std::rc::Rc;
use std::sync::Arc;

use mlua::ffi::lua_State;

use super::lazy::{Lazy, Opaque};
use crate::call::{Call, Done, Fault, Named};
use crate::memory::Charge;
use crate::object::{Object, tag};
use crate::string_map::StringMap;
use crate::vfs::{self, LAYERS_MAX, Layer};
use crate::{limits, modules, scheduler};

/// Entries that one overlay is made of.
const ENTRIES_MAX: c_int = 64;
/// Files that one overlay may add; making a layer of so many takes some milliseconds.
const FILES_MAX: usize = 10_000;
const ID_BYTES_MAX: usize = 512;

pub struct Vfs {
    files: Arc<vfs::Vfs>,
    /// What its layers cost, as far as scripts have made them; overlays share it with what they lie over.
    charges: Vec<Rc<Charge>>,
}

impl Object for Vfs {
    const TAG: c_int = tag::VFS;
    const NAME: &'static CStr = c"Vfs";
    const METHODS: &'static [Named] = &[(c"createrequirefunction", create_require_function)];
}

/// The functions of `typesext.Vfs`.
pub const FUNCTIONS: &[Named] = &[(c"newoverlay", new_overlay)];

/// `Vfs.newoverlay(entries)`: the first entry lies on top. String maps are copied.
fn new_overlay(call: &Call) -> Done {
    call.table(1)?;
    let n = call.length(1);
    if n > ENTRIES_MAX {
        return Err(call.bad(1, format!("at most {ENTRIES_MAX} entries are allowed, it has {n}")));
    }
    let mut layers = Vec::new();
    let mut charges: Vec<Rc<Charge>> = Vec::new();
    let mut files = 0;
    for place in 1..=n {
        call.push_item(1, place);
        if let Some(under) = call.object_if::<Vfs>(-1) {
            layers.extend(under.files.layers().iter().cloned());
            for charge in &under.charges {
                if !charges.iter().any(|held| Rc::ptr_eq(held, charge)) {
                    charges.push(charge.clone());
                }
            }
        } else {
            let map = string_map(call, place)?;
            files += map.len();
            if files > FILES_MAX {
                return Err(Fault::limit(limits::SIZE, format!("the overlay adds more than {FILES_MAX} files (limit: size)")));
            }
            let files = map.pairs().map(|(path, text)| (path, text.as_bytes()));
            let (layer, charge) = Layer::charged(files, |bytes| Charge::new(call.state, bytes))?;
            // A stack leaves out what is empty: so its charges are no more than its layers.
            if !layer.is_empty() {
                charges.push(Rc::new(charge));
                layers.push(layer);
            }
        }
        call.set_top(1);
        if layers.len() > LAYERS_MAX * ENTRIES_MAX as usize {
            return Err(format!("the overlay has more than {LAYERS_MAX} layers").into());
        }
    }
    let files = vfs::Vfs::new(layers)?;
    call.push_object(Vfs { files, charges });
    Ok(1)
}

/// The string map on top, which is one of the entries.
fn string_map(call: &Call, place: c_int) -> Result<Rc<StringMap>, Fault> {
    let held = match (call.object_if::<Lazy>(-1), call.object_if::<Opaque>(-1)) {
        (Some(lazy), _) => lazy.string_map(),
        (_, Some(opaque)) => opaque.string_map(),
        _ => return Err(call.bad(1, format!("entry {place} is no Vfs and no string map"))),
    };
    held.ok_or_else(|| call.bad(1, format!("entry {place} is not cast to a string map")))
}

/// `vfs:createrequirefunction(id, globals)`: modules run with the globals, and are shared by functions of the same id
/// and globals.
fn create_require_function(call: &Call) -> Done {
    let vfs = call.object::<Vfs>(1)?;
    let id = call.bytes(2)?;
    if id.len() > ID_BYTES_MAX {
        return Err(call.bad(2, format!("an id has at most {ID_BYTES_MAX} bytes")));
    }
    call.table(3)?;
    // SAFETY: inside a function that Luau calls, with a table at index 3 and the owner of the charges at index 1.
    unsafe { modules::push_require(call.state, vfs.files.clone(), id, 3, 1) };
    Ok(1)
}

/// Pushes `{Builtins, TemplatingTypes, BuiltinsPatches}`, the trees that the engine's tenants have in common.
///
/// # Safety
/// Inside a function that Luau calls.
pub unsafe fn push_exposed(state: *mut lua_State) -> Result<(), Fault> {
    let call = Call { state };
    let layers = &scheduler::vm().limits.layers;
    call.push_table(0, 3);
    for (name, layer) in [(c"Builtins", &layers.builtins), (c"TemplatingTypes", &layers.library), (c"BuiltinsPatches", &layers.patches)] {
        call.push_object(Vfs { files: vfs::Vfs::new([layer.clone()])?, charges: Vec::new() });
        call.set_field(-2, name);
    }
    call.freeze(-1);
    Ok(())
}
