//! `@antiraid/datetime`: spans of time, time zones, and instants in them.
//!
//! What a script can do wrong is checked in `moment` and `delta`, which know nothing of Luau: beyond them no sum, no
//! conversion and no text can be out of range. `timedelta`, `timezone` and `instant` show them to scripts, `wire` lets
//! them cross.

use chrono::NaiveDateTime;
use chrono_tz::Tz;

use crate::api::Library;
use crate::call::{Call, Done};

mod delta;
mod instant;
mod moment;
mod timedelta;
mod timezone;
mod wire;

pub use instant::DateTime;
pub use timedelta::TimeDelta;
pub use timezone::Timezone;

pub static LIBRARY: Library = Library {
    name: c"@antiraid/datetime",
    functions: &[
        (c"new", new),
        (c"timedelta_weeks", timedelta::weeks),
        (c"timedelta_days", timedelta::days),
        (c"timedelta_hours", timedelta::hours),
        (c"timedelta_minutes", timedelta::minutes),
        (c"timedelta_seconds", timedelta::seconds),
        (c"timedelta_millis", timedelta::millis),
        (c"timedelta_micros", timedelta::micros),
        (c"timedelta_nanos", timedelta::nanos),
    ],
    values: add_utc,
    luau: None,
};

fn add_utc(call: &Call) {
    call.push_object(Timezone(Tz::UTC));
    call.set_field(-2, c"UTC");
}

/// `datetime.new(name)`: the time zone of that name.
fn new(call: &Call) -> Done {
    let zone = moment::zone(call.text(1)?).ok_or("runtime error: Invalid timezone")?;
    call.push_object(Timezone(zone));
    Ok(1)
}

/// The present in UTC, in whole milliseconds like `os.clock`.
fn present() -> NaiveDateTime {
    let now = chrono::Utc::now();
    chrono::DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now).naive_utc()
}
