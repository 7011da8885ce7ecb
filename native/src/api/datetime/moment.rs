//! Instants in a time zone, without Luau. Every one comes from `at`, which promises that its local time is one that
//! chrono can hold: much of chrono panics, or writes nonsense, where it is not.

use std::fmt::{self, Write};

use chrono::format::{DelayedFormat, Item, Numeric, StrftimeItems};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;

pub type Moment = DateTime<Tz>;

/// How long a format and what it makes may be.
pub const FORMAT_BYTES_MAX: usize = 64 << 10;

/// The zone of an IANA name, or of one of the short names that people use.
pub fn zone(name: &str) -> Option<Tz> {
    match name {
        "IST" => Some(Tz::Asia__Kolkata),
        "PST" | "PDT" => Some(Tz::America__Los_Angeles),
        "EDT" => Some(Tz::America__New_York),
        _ => name.parse().ok(),
    }
}

/// An instant, given in UTC, in a zone.
pub fn at(utc: NaiveDateTime, zone: Tz) -> Option<Moment> {
    let offset = zone.offset_from_utc_datetime(&utc);
    utc.checked_add_offset(offset.fix())?;
    Some(DateTime::from_naive_utc_and_offset(utc, offset))
}

pub fn plus(moment: Moment, span: TimeDelta) -> Option<Moment> {
    at(moment.naive_utc().checked_add_signed(span)?, moment.timezone())
}

pub fn minus(moment: Moment, span: TimeDelta) -> Option<Moment> {
    at(moment.naive_utc().checked_sub_signed(span)?, moment.timezone())
}

/// A date and a time as they are read off a calendar and a clock.
pub fn civil([year, month, day, hour, minute, second]: [i64; 6]) -> Option<NaiveDateTime> {
    let small = |n: i64| u32::try_from(n).ok();
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, small(month)?, small(day)?)?;
    date.and_hms_opt(small(hour)?, small(minute)?, small(second)?)
}

/// The instants, in UTC, at which clocks of a zone show a time: none where they skip it, two where they show it twice.
pub fn instants(local: NaiveDateTime, zone: Tz) -> Option<(Moment, Option<Moment>)> {
    let found = zone.from_local_datetime(&local);
    let utc = |moment: Moment| at(moment.naive_utc(), Tz::UTC);
    let (first, last) = (utc(found.earliest()?)?, utc(found.latest()?)?);
    Some((first, (first != last).then_some(last)))
}

/// The day of `now` at a time; the fraction of its second is kept.
pub fn on_day_of(now: NaiveDateTime, [hour, minute, second]: [i64; 3]) -> Option<NaiveDateTime> {
    let small = |n: i64| u32::try_from(n).ok();
    Some(now.date().and_time(NaiveTime::from_hms_nano_opt(small(hour)?, small(minute)?, small(second)?, now.nanosecond())?))
}

/// Reads RFC 3339. A leap second is the second after it, as for all clocks that count seconds since 1970.
pub fn parse(text: &str, zone: Tz) -> Result<Moment, String> {
    let read = DateTime::parse_from_rfc3339(text).map_err(|e| e.to_string())?.naive_utc();
    let over = read.nanosecond() / 1_000_000_000;
    let whole = read.with_nanosecond(read.nanosecond() % 1_000_000_000);
    let utc = whole.and_then(|utc| utc.checked_add_signed(TimeDelta::seconds(over.into())));
    utc.and_then(|utc| at(utc, zone)).ok_or_else(|| "input is out of range".into())
}

/// Text of a bounded length.
struct Bounded {
    text: String,
    full: bool,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.full = self.text.len() + part.len() > FORMAT_BYTES_MAX;
        if self.full {
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}

/// The moment as a strftime format tells.
pub fn format(moment: Moment, spec: &str) -> Result<String, String> {
    let mut out = Bounded { text: String::new(), full: spec.len() > FORMAT_BYTES_MAX };
    let local = moment.naive_local();
    let century = local.year().div_euclid(100);
    // chrono writes centuries of two digits only.
    let items = StrftimeItems::new(spec).map(move |item| match item {
        Item::Numeric(Numeric::YearDiv100, _) if !(0..100).contains(&century) => Item::OwnedLiteral(century.to_string().into()),
        other => other,
    });
    let written = match out.full {
        true => Err(fmt::Error),
        false => DelayedFormat::new_with_offset(Some(local.date()), Some(local.time()), moment.offset(), items).write_to(&mut out),
    };
    match written {
        Ok(()) => Ok(out.text),
        Err(_) if out.full => Err(format!("Invalid format: it, or what it makes, is longer than {FORMAT_BYTES_MAX} bytes")),
        Err(_) => Err("Invalid format: it has a specifier that is not known".into()),
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::{OffsetComponents, TZ_VARIANTS};

    use super::*;

    /// Numbers of all sizes, the same in each run.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> i64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 as i64) >> (self.0 >> 32 & 63)
        }
    }

    const EXTREMES: [i64; 9] = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX, i64::MAX - 1, i32::MIN as i64, u32::MAX as i64];
    const SPECS: &str = "%A%B%C%D%F%G%H%I%M%P%R%S%T%U%V%W%X%Y%Z%a%b%h%c%d%e%f%g%j%k%l%m%n%p%q%r%s%t%u%v%w%x%y%z%+%:z%::z%:::z%.f%.3f%.6f%.9f%3f%6f%9f%%%-Y%_Y%-C%-s%_s%-j";

    fn use_it(moment: Moment, span: TimeDelta) {
        assert!(format(moment, SPECS).is_ok(), "{moment:?}");
        assert!(!moment.to_rfc3339().is_empty());
        assert_eq!(moment.timestamp_millis() as f64 as i64, moment.timestamp_millis(), "exact as a number");
        assert_eq!(
            moment.offset().base_utc_offset() + moment.offset().dst_offset(),
            TimeDelta::seconds(moment.offset().fix().local_minus_utc().into())
        );
        if let Some(later) = plus(moment, span) {
            assert_eq!(later.signed_duration_since(moment), span);
            assert_eq!(minus(later, span), Some(moment));
        }
        minus(moment, span);
        let (first, last) = instants(moment.naive_local(), moment.timezone()).expect("it was read off this clock");
        assert!(first == moment || last == Some(moment), "{moment:?}");
        assert!(last.is_none_or(|last| first < last));
    }

    #[test]
    fn no_instant_and_no_zone_panics() {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let edges = [NaiveDateTime::MIN, NaiveDateTime::MAX];
        for zone in TZ_VARIANTS {
            for n in 0..40 {
                let seconds = EXTREMES.get(n).copied().unwrap_or_else(|| numbers.next());
                // The 200 years in which clocks were changed most.
                let seconds = if n % 2 == 0 { seconds } else { seconds % 3_155_760_000 };
                let span = TimeDelta::new(numbers.next(), numbers.next().rem_euclid(1_000_000_000) as u32).unwrap_or(TimeDelta::MAX);
                let instant = DateTime::from_timestamp(seconds, numbers.next().rem_euclid(1_000_000_000) as u32);
                if let Some(moment) = instant.and_then(|instant| at(instant.naive_utc(), zone)) {
                    use_it(moment, span);
                }
            }
            for edge in edges {
                for span in [TimeDelta::MIN, TimeDelta::MAX, TimeDelta::nanoseconds(1), TimeDelta::hours(14)] {
                    at(edge, zone).into_iter().for_each(|moment| use_it(moment, span));
                    instants(edge, zone);
                    on_day_of(edge, [23, 59, 59]).and_then(|local| instants(local, zone));
                }
            }
        }
    }

    #[test]
    fn every_name_of_an_offset_can_be_written() {
        const STEP: i64 = 45 * 86_400;
        for zone in TZ_VARIANTS {
            for n in -1_500..1_500 {
                let moment = DateTime::from_timestamp(n * STEP, 0).and_then(|instant| at(instant.naive_utc(), zone)).unwrap();
                assert!(format(moment, "%Z").is_ok());
            }
        }
    }

    #[test]
    fn no_clock_panics() {
        let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
        for _ in 0..20_000 {
            let mut any = [0; 6].map(|_| EXTREMES[numbers.next().rem_euclid(9) as usize]);
            any[..2].copy_from_slice(&[numbers.next() % 300_000, numbers.next() % 14]);
            civil(any);
            if let Some(local) = civil([any[0], 1 + any[1].abs() % 12, 1, 0, 0, 0]) {
                instants(local, Tz::Pacific__Apia);
                at(local, Tz::America__New_York);
            }
        }
    }

    #[test]
    fn formats_are_bounded() {
        let moment = at(DateTime::UNIX_EPOCH.naive_utc(), Tz::UTC).unwrap();
        for long in ["%c".repeat(FORMAT_BYTES_MAX / 2), "%.f".repeat(FORMAT_BYTES_MAX), "x".repeat(FORMAT_BYTES_MAX + 1)] {
            assert!(format(moment, &long).unwrap_err().contains("longer than 65536 bytes"));
        }
        assert_eq!(format(moment, &"%.f".repeat(FORMAT_BYTES_MAX / 3)), Ok(String::new()));
        for bad in ["%", "%Q", "%-", "%#z", "%#Y", "%-A", "%-c", "%5Y", "%.4f", "%99999999999999d", "%:", "%::", "%é"] {
            assert!(format(moment, bad).unwrap_err().contains("not known"), "{bad}");
        }
    }

    #[test]
    fn centuries_of_far_years_are_numbers() {
        let far = civil([123_456, 1, 1, 0, 0, 0]).and_then(|utc| at(utc, Tz::UTC)).unwrap();
        assert_eq!(format(far, "%C %Y %y").unwrap(), "1234 +123456 56");
    }

    #[test]
    fn leap_seconds_are_the_next_second() {
        let read = parse("2016-12-31T23:59:60.25Z", Tz::UTC).unwrap();
        assert_eq!(read.to_rfc3339(), "2017-01-01T00:00:00.250+00:00");
        assert!(parse("2016-12-31 nonsense", Tz::UTC).is_err());
    }
}
