//! The bot's own user: told by Python when it is known, read by scripts as `ctx.current_user`.

use std::sync::{Arc, Mutex, PoisonError};

use mlua::ffi;

use crate::call::{Call, Done};
use crate::isolate::{self, slot};
use crate::json;
use crate::scheduler;

/// The user's JSON, as Discord sent it.
#[derive(Default)]
pub struct CurrentUser(Mutex<Option<Arc<[u8]>>>);

impl CurrentUser {
    pub fn set(&self, json: &[u8]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(json.into());
    }

    fn get(&self) -> Option<Arc<[u8]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Pushes the user as a table, which is the isolate's own and the same one each time.
pub fn push(call: &Call) -> Done {
    // SAFETY: the running thread; a memory error unwinds past the text, which is freed then.
    unsafe {
        isolate::push_slot(call.state, slot::CURRENT_USER);
        if !call.is_nil(-1) {
            return Ok(1);
        }
        let Some(text) = scheduler::vm().shared.user.get() else {
            return Err("the bot's own user is not known yet: Discord has not said who it is".into());
        };
        json::push_text(call.state, json::LAZY, &text)?;
        if ffi::lua_type(call.state, -1) == ffi::LUA_TTABLE {
            isolate::set_slot(call.state, slot::CURRENT_USER);
        }
    }
    Ok(1)
}
