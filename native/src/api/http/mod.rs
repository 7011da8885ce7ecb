//! `ctx.HTTPClient`: requests as objects, sent by the host (`http.send`), which decides where they may go.
//!
//! No capability is needed, as in the reference; the operator's list of domains and the rate limit bind every template.

use mlua::ffi::lua_State;

use crate::api;

mod headers;
mod request;
mod response;
mod url;

/// Pushes the read-only table behind `ctx.HTTPClient`, one per VM.
///
/// # Safety
/// Inside a function that Luau calls.
pub unsafe fn push(state: *mut lua_State) {
    // SAFETY: by the caller.
    unsafe {
        let functions = &[(c"new_request", request::new as _), (c"new_headers", headers::new as _), (c"new_url", url::new as _)];
        api::push_kept(state, c"pytw.http", functions);
    }
}
