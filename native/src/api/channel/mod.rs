//! `@antiraid/channel`: how threads of a template hand values to each other, at once (`OneshotChannel`) or after a time
//! (`DelayChannel`).
//!
//! Native rather than Luau, for a step that changes a channel must not be preempted half-way. Values stay in Luau tables
//! that belong to the channels, and pass by reference.

use crate::api::Library;
use crate::api::datetime::TimeDelta;
use crate::call::{Call, Fault};

mod delay;
mod heap;
mod oneshot;

pub use oneshot::new as oneshot;

pub static LIBRARY: Library = Library {
    name: c"@antiraid/channel",
    functions: &[(c"OneshotChannel", oneshot::new), (c"selectoneshots", oneshot::select), (c"DelayChannel", delay::new)],
    values: |_| {},
    luau: None,
};

/// The seconds of a `TimeDelta`.
fn seconds(call: &Call, index: std::ffi::c_int) -> Result<f64, Fault> {
    let span = call.object::<TimeDelta>(index)?.0;
    Ok(span.num_seconds() as f64 + f64::from(span.subsec_nanos()) / 1e9)
}
