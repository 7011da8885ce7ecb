//! `DateTime`: an instant in a time zone, to the nanosecond.

use std::ffi::c_int;

use chrono::{Datelike, Timelike};
use chrono_tz::OffsetComponents;

use super::moment::{self, Moment};
use super::{TimeDelta, Timezone, timedelta, timezone};
use crate::call::{Call, Done, Fault, Named};
use crate::object::{Object, tag};

#[derive(Clone, Copy)]
pub struct DateTime(pub Moment);

impl Object for DateTime {
    const TAG: c_int = tag::DATE_TIME;
    const NAME: &'static std::ffi::CStr = c"DateTime";
    const METHODS: &'static [Named] = &[(c"with_timezone", with_timezone), (c"format", format), (c"duration_since", duration_since)];
    const FIELDS: &'static [Named] = &[
        (c"year", |call| number(call, |at| at.year().into())),
        (c"month", |call| number(call, |at| at.month().into())),
        (c"day", |call| number(call, |at| at.day().into())),
        (c"hour", |call| number(call, |at| at.hour().into())),
        (c"minute", |call| number(call, |at| at.minute().into())),
        (c"second", |call| number(call, |at| at.second().into())),
        (c"timestamp_seconds", |call| number(call, |at| at.timestamp())),
        (c"timestamp_millis", |call| number(call, |at| at.timestamp_millis())),
        // These two are parts of the second, whatever their names say: templates know them so.
        (c"timestamp_micros", |call| number(call, |at| at.timestamp_subsec_micros().into())),
        (c"timestamp_nanos", |call| number(call, |at| at.timestamp_subsec_nanos().into())),
        (c"timezone", zone),
        (c"base_offset", base_offset),
        (c"dst_offset", dst_offset),
    ];
    const OPERATORS: &'static [Named] =
        &[(c"__add", add), (c"__sub", sub), (c"__eq", eq), (c"__lt", lt), (c"__le", le), (c"__tostring", tostring)];
}

const OUT_OF_RANGE: &str = "DateTime out of range";

/// The moment of the `DateTime` at `index`.
fn moment(call: &Call, index: c_int) -> Result<Moment, Fault> {
    Ok(call.object::<DateTime>(index)?.0)
}

fn push(call: &Call, moment: Option<Moment>) -> Done {
    call.push_object(DateTime(moment.ok_or(OUT_OF_RANGE)?));
    Ok(1)
}

// ---- what they tell -----------------------------------------------------------------------------------

fn number(call: &Call, of: fn(&Moment) -> i64) -> Done {
    call.push_number(of(&moment(call, 1)?) as f64);
    Ok(1)
}

fn zone(call: &Call) -> Done {
    call.push_object(Timezone(moment(call, 1)?.timezone()));
    Ok(1)
}

fn base_offset(call: &Call) -> Done {
    call.push_object(TimeDelta(moment(call, 1)?.offset().base_utc_offset()));
    Ok(1)
}

fn dst_offset(call: &Call) -> Done {
    call.push_object(TimeDelta(moment(call, 1)?.offset().dst_offset()));
    Ok(1)
}

fn tostring(call: &Call) -> Done {
    call.push_bytes(moment(call, 1)?.to_rfc3339().as_bytes());
    Ok(1)
}

fn format(call: &Call) -> Done {
    let text = moment::format(moment(call, 1)?, call.text(2)?)?;
    call.push_bytes(text.as_bytes());
    Ok(1)
}

fn with_timezone(call: &Call) -> Done {
    push(call, moment::at(moment(call, 1)?.naive_utc(), timezone::zone(call, 2)?))
}

fn duration_since(call: &Call) -> Done {
    let since = moment(call, 1)?.signed_duration_since(moment(call, 2)?);
    call.push_object(TimeDelta(since));
    Ok(1)
}

// ---- operators ----------------------------------------------------------------------------------------

fn add(call: &Call) -> Done {
    push(call, moment::plus(moment(call, 1)?, timedelta::span(call, 2)?))
}

fn sub(call: &Call) -> Done {
    let from = moment(call, 1)?;
    if call.object_if::<DateTime>(2).is_some() {
        return Err(call.bad(2, "the time between two DateTimes is a:duration_since(b)"));
    }
    push(call, moment::minus(from, timedelta::span(call, 2)?))
}

fn eq(call: &Call) -> Done {
    call.push_bool(moment(call, 1)? == moment(call, 2)?);
    Ok(1)
}

fn lt(call: &Call) -> Done {
    call.push_bool(moment(call, 1)? < moment(call, 2)?);
    Ok(1)
}

fn le(call: &Call) -> Done {
    call.push_bool(moment(call, 1)? <= moment(call, 2)?);
    Ok(1)
}
