//! The forms in which spans, zones and instants cross (docs/values.md). A form that is no such value is refused.

use chrono::{DateTime as Instant, TimeDelta as Span};
use chrono_tz::Tz;

use super::{DateTime, TimeDelta, Timezone, delta, moment};

const BAD_SIZE: &str = "an extension has the wrong size";
const BAD_YEAR: &str = "a DateTime outside the years 1 to 9999 does not cross";

/// The seconds of the years 1 to 9999: the other forms of a value have no more.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl TimeDelta {
    /// Seconds rounded down, and the nanoseconds from there.
    pub fn to_wire(self) -> [u8; 12] {
        let (seconds, nanos) = delta::parts(self.0);
        let mut all = [0; 12];
        all[..8].copy_from_slice(&seconds.to_be_bytes());
        all[8..].copy_from_slice(&nanos.to_be_bytes());
        all
    }

    pub fn from_wire(bytes: &[u8]) -> Result<Self, &'static str> {
        let (seconds, nanos) = bytes.split_first_chunk().ok_or(BAD_SIZE)?;
        let nanos = u32::from_be_bytes(nanos.try_into().map_err(|_| BAD_SIZE)?);
        Ok(TimeDelta(Span::new(i64::from_be_bytes(*seconds), nanos).ok_or("an interval is out of range")?))
    }
}

impl Timezone {
    pub fn to_wire(self) -> &'static [u8] {
        self.0.name().as_bytes()
    }

    pub fn from_wire(name: &[u8]) -> Result<Self, String> {
        let zone = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        Ok(Timezone(zone.ok_or_else(|| format!("the time zone {:?} is not known", String::from_utf8_lossy(name)))?))
    }
}

impl DateTime {
    /// msgpack's timestamp, in the shortest of its three sizes.
    pub fn to_wire(self) -> Result<Vec<u8>, &'static str> {
        let (seconds, nanos) = (self.0.timestamp(), self.0.timestamp_subsec_nanos());
        if !SECONDS.contains(&seconds) {
            return Err(BAD_YEAR);
        }
        Ok(match (u32::try_from(seconds), u64::try_from(seconds)) {
            (Ok(seconds), _) if nanos == 0 => seconds.to_be_bytes().into(),
            (_, Ok(seconds)) if seconds < 1 << 34 => (u64::from(nanos) << 34 | seconds).to_be_bytes().into(),
            _ => [&nanos.to_be_bytes()[..], &seconds.to_be_bytes()].concat(),
        })
    }

    /// In UTC.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, &'static str> {
        let (seconds, nanos) = timestamp(bytes).ok_or(BAD_SIZE)?;
        let known = SECONDS.contains(&seconds) && nanos < 1_000_000_000;
        let instant = Instant::from_timestamp(seconds, nanos).filter(|_| known).ok_or(BAD_YEAR)?;
        Ok(DateTime(moment::at(instant.naive_utc(), Tz::UTC).ok_or(BAD_YEAR)?))
    }
}

/// Seconds and nanoseconds of msgpack's timestamp, in any of its three sizes.
fn timestamp(bytes: &[u8]) -> Option<(i64, u32)> {
    Some(match bytes.len() {
        4 => (u32::from_be_bytes(bytes.try_into().ok()?).into(), 0),
        8 => {
            let n = u64::from_be_bytes(bytes.try_into().ok()?);
            ((n & 0x3_ffff_ffff) as i64, (n >> 34) as u32)
        }
        12 => (i64::from_be_bytes(bytes[4..].try_into().ok()?), u32::from_be_bytes(bytes[..4].try_into().ok()?)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(seconds: i64, nanos: u32) -> DateTime {
        DateTime(moment::at(Instant::from_timestamp(seconds, nanos).unwrap().naive_utc(), Tz::Asia__Tokyo).unwrap())
    }

    #[test]
    fn what_crosses_comes_back() {
        let seconds = [*SECONDS.start(), -1, 0, u32::MAX.into(), 1 << 32, (1 << 34) - 1, 1 << 34, *SECONDS.end()];
        for (at, size) in seconds.into_iter().zip([12, 12, 4, 4, 8, 8, 12, 12]) {
            assert_eq!(instant(at, 0).to_wire().unwrap().len(), size);
            for nanos in [0, 1, 999_999_999] {
                let again = DateTime::from_wire(&instant(at, nanos).to_wire().unwrap()).unwrap().0;
                assert_eq!((again, again.timezone()), (instant(at, nanos).0, Tz::UTC));
            }
        }
        for span in [Span::MIN, Span::MAX, Span::nanoseconds(-1), Span::zero()] {
            assert_eq!(TimeDelta::from_wire(&TimeDelta(span).to_wire()).unwrap().0, span);
        }
        assert_eq!(Timezone::from_wire(Timezone(Tz::EST5EDT).to_wire()).unwrap().0, Tz::EST5EDT);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for seconds in [*SECONDS.start() - 1, *SECONDS.end() + 1] {
            assert_eq!(instant(seconds, 0).to_wire(), Err(BAD_YEAR));
        }
        let long = |nanos: u32, seconds: i64| [&nanos.to_be_bytes()[..], &seconds.to_be_bytes()].concat();
        for (nanos, seconds) in [(0, i64::MIN), (0, i64::MAX), (1_000_000_000, 0), (u32::MAX, 0)] {
            assert!(DateTime::from_wire(&long(nanos, seconds)).is_err());
        }
        assert!(DateTime::from_wire(&u64::MAX.to_be_bytes()).is_err());
        for size in 0..20 {
            let bytes = vec![0xff; size];
            assert!(TimeDelta::from_wire(&bytes).is_err() && Timezone::from_wire(&bytes).is_err());
            assert!(size == 4 || DateTime::from_wire(&bytes).is_err());
        }
    }
}
