//! `TimeDelta`: a span of time, to the nanosecond.

use std::ffi::c_int;

use chrono::TimeDelta as Span;

use super::{DateTime, delta};
use crate::api::ints::i64_argument;
use crate::call::{Call, Done, Fault, Named};
use crate::object::{Object, tag};

#[derive(Clone, Copy)]
pub struct TimeDelta(pub Span);

impl Object for TimeDelta {
    const TAG: c_int = tag::TIME_DELTA;
    const NAME: &'static std::ffi::CStr = c"TimeDelta";
    const METHODS: &'static [Named] = &[(c"offset_string", offset_string)];
    const FIELDS: &'static [Named] = &[
        (c"nanos", |call| total_if(call, span(call, 1)?.num_nanoseconds())),
        (c"micros", |call| total_if(call, span(call, 1)?.num_microseconds())),
        (c"millis", |call| total_if(call, Some(span(call, 1)?.num_milliseconds()))),
        (c"seconds", |call| total_if(call, Some(span(call, 1)?.num_seconds()))),
        (c"minutes", |call| total_if(call, Some(span(call, 1)?.num_minutes()))),
        (c"hours", |call| total_if(call, Some(span(call, 1)?.num_hours()))),
        (c"days", |call| total_if(call, Some(span(call, 1)?.num_days()))),
        (c"weeks", |call| total_if(call, Some(span(call, 1)?.num_weeks()))),
        (c"as_secs", as_secs),
    ];
    const OPERATORS: &'static [Named] =
        &[(c"__add", add), (c"__sub", sub), (c"__eq", eq), (c"__lt", lt), (c"__le", le), (c"__tostring", tostring)];
}

/// The span of the `TimeDelta` at `index`.
pub fn span(call: &Call, index: c_int) -> Result<Span, Fault> {
    Ok(call.object::<TimeDelta>(index)?.0)
}

fn push(call: &Call, span: Span) -> Done {
    call.push_object(TimeDelta(span));
    Ok(1)
}

// ---- how they are made --------------------------------------------------------------------------------

pub fn weeks(call: &Call) -> Done {
    push(call, Span::try_weeks(i64_argument(call, 1)?).ok_or("Invalid number of weeks")?)
}

pub fn days(call: &Call) -> Done {
    push(call, Span::try_days(i64_argument(call, 1)?).ok_or("Invalid number of days")?)
}

pub fn hours(call: &Call) -> Done {
    push(call, Span::try_hours(i64_argument(call, 1)?).ok_or("Invalid number of hours")?)
}

pub fn minutes(call: &Call) -> Done {
    push(call, Span::try_minutes(i64_argument(call, 1)?).ok_or("Invalid number of minutes")?)
}

pub fn seconds(call: &Call) -> Done {
    push(call, Span::try_seconds(i64_argument(call, 1)?).ok_or("Invalid number of seconds")?)
}

pub fn millis(call: &Call) -> Done {
    push(call, Span::try_milliseconds(i64_argument(call, 1)?).ok_or("Invalid number of millis")?)
}

pub fn micros(call: &Call) -> Done {
    push(call, Span::microseconds(i64_argument(call, 1)?))
}

pub fn nanos(call: &Call) -> Done {
    push(call, Span::nanoseconds(i64_argument(call, 1)?))
}

// ---- what they tell -----------------------------------------------------------------------------------

fn total_if(call: &Call, total: Option<i64>) -> Done {
    match total {
        Some(total) => call.push_number(total as f64),
        None => call.push_nil(),
    }
    Ok(1)
}

fn as_secs(call: &Call) -> Done {
    call.push_number(span(call, 1)?.as_seconds_f64());
    Ok(1)
}

fn offset_string(call: &Call) -> Done {
    call.push_bytes(delta::offset_text(span(call, 1)?).as_bytes());
    Ok(1)
}

fn tostring(call: &Call) -> Done {
    call.push_bytes(delta::iso_text(span(call, 1)?).as_bytes());
    Ok(1)
}

// ---- operators ----------------------------------------------------------------------------------------

/// Both operands; one of them is a `TimeDelta`.
fn operands(call: &Call) -> Result<(Span, Span), Fault> {
    if call.object_if::<DateTime>(2).is_some() {
        return Err(call.bad(2, "a DateTime comes first: datetime + timedelta"));
    }
    Ok((span(call, 1)?, span(call, 2)?))
}

fn add(call: &Call) -> Done {
    let (a, b) = operands(call)?;
    push(call, a.checked_add(&b).ok_or("TimeDelta out of range")?)
}

fn sub(call: &Call) -> Done {
    let (a, b) = operands(call)?;
    push(call, a.checked_sub(&b).ok_or("TimeDelta out of range")?)
}

fn eq(call: &Call) -> Done {
    let (a, b) = operands(call)?;
    call.push_bool(a == b);
    Ok(1)
}

fn lt(call: &Call) -> Done {
    let (a, b) = operands(call)?;
    call.push_bool(a < b);
    Ok(1)
}

fn le(call: &Call) -> Done {
    let (a, b) = operands(call)?;
    call.push_bool(a <= b);
    Ok(1)
}
