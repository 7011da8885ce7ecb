//! What there is to know of spans of time without Luau.

use std::fmt::Write;

use chrono::TimeDelta as Span;

/// The span as `+05:30`: sign, hours and minutes. What is less than a minute is dropped.
pub fn offset_text(span: Span) -> String {
    let minutes = span.num_minutes();
    let sign = if minutes < 0 { '-' } else { '+' };
    let minutes = minutes.unsigned_abs();
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

/// The span as ISO 8601 writes it, in seconds: `PT1.5S`; nothing is `P0D`.
pub fn iso_text(span: Span) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(text, "{span}");
    text
}

/// Seconds rounded down, and the nanoseconds from there.
pub fn parts(span: Span) -> (i64, u32) {
    let (seconds, nanos) = (span.num_seconds(), span.subsec_nanos());
    // Both have the sign of the span; the smallest is a few powers of ten away from the smallest number.
    if nanos < 0 { (seconds - 1, (nanos + 1_000_000_000) as u32) } else { (seconds, nanos as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_one_sign() {
        let texts = |minutes| offset_text(Span::minutes(minutes));
        assert_eq!([texts(330), texts(-330), texts(0), texts(-1), texts(6000)], ["+05:30", "-05:30", "+00:00", "-00:01", "+100:00"]);
        assert_eq!(offset_text(Span::seconds(-59)), "+00:00");
        assert_eq!(iso_text(Span::milliseconds(-1500)), "-PT1.5S");
        assert_eq!(iso_text(Span::zero()), "P0D");
    }

    #[test]
    fn parts_are_the_span() {
        for span in [Span::MIN, Span::MAX, Span::zero(), Span::nanoseconds(-1), Span::nanoseconds(i64::MIN), Span::milliseconds(-1500)] {
            let (seconds, nanos) = parts(span);
            assert_eq!(Span::new(seconds, nanos), Some(span));
            assert!(!offset_text(span).is_empty() && !iso_text(span).is_empty());
        }
        assert_eq!(parts(Span::milliseconds(-1500)), (-2, 500_000_000));
    }
}
