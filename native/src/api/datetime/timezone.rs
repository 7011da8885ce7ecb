//! `Timezone`: a time zone by its IANA name, and the ways from clocks to instants.

use std::ffi::c_int;

use chrono::{DateTime as Instant, NaiveDateTime, Utc};
use chrono_tz::Tz;

use super::{DateTime, moment, present};
use crate::api::ints::i64_argument;
use crate::call::{Call, Done, Fault, Named};
use crate::object::{Object, tag};

#[derive(Clone, Copy)]
pub struct Timezone(pub Tz);

impl Object for Timezone {
    const TAG: c_int = tag::TIME_ZONE;
    const NAME: &'static std::ffi::CStr = c"Timezone";
    const METHODS: &'static [Named] = &[
        (c"fromString", from_string),
        (c"utcToTz", utc_to_tz),
        (c"tzToUtc", tz_to_utc),
        (c"timeUtcToTz", time_utc_to_tz),
        (c"timeTzToUtc", time_tz_to_utc),
        (c"now", now),
        (c"fromTime", |call| from_count(call, |n| Instant::from_timestamp(n, 0))),
        (c"fromTimeMillis", |call| from_count(call, Instant::from_timestamp_millis)),
        (c"fromTimeMicros", |call| from_count(call, Instant::from_timestamp_micros)),
        (c"fromTimeNanos", |call| from_count(call, |n| Some(Instant::from_timestamp_nanos(n)))),
    ];
    const FIELDS: &'static [Named] = &[(c"name", name)];
    const OPERATORS: &'static [Named] = &[(c"__eq", eq), (c"__tostring", name)];
}

const INVALID_DATE: &str = "Invalid date";
const INVALID_TIME: &str = "Invalid time";

/// The zone of the `Timezone` at `index`.
pub fn zone(call: &Call, index: c_int) -> Result<Tz, Fault> {
    Ok(call.object::<Timezone>(index)?.0)
}

fn push(call: &Call, moment: moment::Moment) -> Done {
    call.push_object(DateTime(moment));
    Ok(1)
}

fn name(call: &Call) -> Done {
    call.push_bytes(zone(call, 1)?.name().as_bytes());
    Ok(1)
}

fn eq(call: &Call) -> Done {
    call.push_bool(zone(call, 1)? == zone(call, 2)?);
    Ok(1)
}

// ---- instants -----------------------------------------------------------------------------------------

fn now(call: &Call) -> Done {
    let zone = zone(call, 1)?;
    push(call, moment::at(present(), zone).ok_or(INVALID_TIME)?)
}

fn from_string(call: &Call) -> Done {
    let zone = zone(call, 1)?;
    let read = moment::parse(call.text(2)?, zone).map_err(|why| format!("runtime error: {INVALID_DATE}: {why}"))?;
    push(call, read)
}

/// The instant so many units after 1970.
fn from_count(call: &Call, instant: fn(i64) -> Option<Instant<Utc>>) -> Done {
    let (zone, count) = (zone(call, 1)?, i64_argument(call, 2)?);
    let found = instant(count).and_then(|found| moment::at(found.naive_utc(), zone));
    push(call, found.ok_or("Invalid time (might exceed bounds?)")?)
}

// ---- clocks -------------------------------------------------------------------------------------------

/// The whole numbers from argument 2 on. The first, a year, may be negative.
fn numbers<const N: usize>(call: &Call) -> Result<[i64; N], Fault> {
    let mut all = [0; N];
    for (i, n) in all.iter_mut().enumerate() {
        let (min, max) = if N == 6 && i == 0 { (i32::MIN.into(), i32::MAX.into()) } else { (0, u32::MAX.into()) };
        *n = call.integer(i as c_int + 2, min, max)?;
    }
    Ok(all)
}

fn utc_to_tz(call: &Call) -> Done {
    let zone = zone(call, 1)?;
    let found = moment::civil(numbers(call)?).and_then(|utc| moment::at(utc, zone));
    push(call, found.ok_or(INVALID_DATE)?)?;
    // A time in UTC is one instant.
    call.push_nil();
    Ok(2)
}

fn tz_to_utc(call: &Call) -> Done {
    let zone = zone(call, 1)?;
    let found = moment::civil(numbers(call)?).and_then(|local| moment::instants(local, zone));
    let (first, second) = found.ok_or(INVALID_DATE)?;
    let all = call.truth(8);
    push(call, first)?;
    match second.filter(|_| all) {
        Some(second) => call.push_object(DateTime(second)),
        None => call.push_nil(),
    }
    Ok(2)
}

fn time_utc_to_tz(call: &Call) -> Done {
    let zone = zone(call, 1)?;
    let found = moment::on_day_of(present(), numbers(call)?).and_then(|utc| moment::at(utc, zone));
    push(call, found.ok_or(INVALID_TIME)?)
}

fn time_tz_to_utc(call: &Call) -> Done {
    let zone = zone(call, 1)?;
    let today: Option<NaiveDateTime> = moment::at(present(), zone).map(|now| now.naive_local());
    let time = numbers(call)?;
    let found = today.and_then(|today| moment::on_day_of(today, time)).and_then(|local| moment::instants(local, zone));
    push(call, found.ok_or(INVALID_TIME)?.0)
}
