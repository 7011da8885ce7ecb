//! Times of msgpack and their texts.

/// Seconds and nanoseconds of msgpack's timestamp, in any of its three sizes.
pub fn timestamp(v: &[u8]) -> Option<(i64, u32)> {
    Some(match v.len() {
        4 => (u32::from_be_bytes(v.try_into().ok()?).into(), 0),
        8 => {
            let n = u64::from_be_bytes(v.try_into().ok()?);
            ((n & 0x3_ffff_ffff) as i64, (n >> 34) as u32)
        }
        12 => (i64::from_be_bytes(v[4..].try_into().ok()?), u32::from_be_bytes(v[..4].try_into().ok()?)),
        _ => return None,
    })
}

/// Writes a UTC time as RFC 3339 with 0, 3, 6 or 9 digits after the point; gives the length.
pub fn rfc3339(seconds: i64, nanos: u32, out: &mut [u8; 48]) -> Option<usize> {
    use std::io::Write;
    // Days to a civil date, counting years from March (Howard Hinnant's method).
    let days = seconds.div_euclid(86_400).checked_add(719_468)?;
    let of_day = seconds.rem_euclid(86_400);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(0..=9_999).contains(&year) || nanos >= 1_000_000_000 {
        return None;
    }
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let mut rest = &mut out[..];
    write!(rest, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}").ok()?;
    match nanos {
        0 => write!(rest, "Z"),
        n if n % 1_000_000 == 0 => write!(rest, ".{:03}Z", n / 1_000_000),
        n if n % 1_000 == 0 => write!(rest, ".{:06}Z", n / 1_000),
        n => write!(rest, ".{n:09}Z"),
    }
    .ok()?;
    let left = rest.len();
    Some(48 - left)
}
