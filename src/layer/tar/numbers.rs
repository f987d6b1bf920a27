//! Numbers and texts in header fields.

use super::Time;

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A numeric field: base-256 where the first bit says so, else octal. `None`: neither, or too large.
pub(super) fn numeric(field: &[u8]) -> Option<i64> {
    if field.first().is_some_and(|first| first & 0x80 != 0) { base256(field) } else { octal(field) }
}

fn base256(field: &[u8]) -> Option<i64> {
    // Two's complement: a negative number is the complement of a non-negative one.
    let invert = if field[0] & 0x40 != 0 { 0xff } else { 0 };
    let mut value: u64 = 0;
    for (index, byte) in field.iter().enumerate() {
        let digit = (byte ^ invert) & if index == 0 { 0x7f } else { 0xff };
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(digit);
    }
    let value = i64::try_from(value).ok()?;
    Some(if invert == 0 { value } else { !value })
}

/// An octal field with spaces and NULs around it; empty is zero.
pub(super) fn octal(field: &[u8]) -> Option<i64> {
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !padding(byte)) else { return Some(0) };
    let end = field.iter().rposition(|byte| !padding(byte)).map_or(start, |last| last + 1);
    let digits = text(&field[start..end]);
    let value = digits.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'7' => Some(value.checked_mul(8)? | u64::from(byte - b'0')),
        _ => None,
    })?;
    // A number of 64 bits wraps around in the readers that this one has to agree with; no entry
    // needs it, so it is refused.
    i64::try_from(value).ok()
}

/// A decimal number with an optional sign, as in PAX records.
pub(super) fn decimal(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional fraction, cut to nanoseconds.
pub(super) fn time(value: &[u8]) -> Option<Time> {
    let point = value.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&value[..point], &value[point + 1..]),
        None => (value, &[][..]),
    };
    let seconds = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0, |sum, place| {
        sum * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'))
    });
    if whole.starts_with(b"-") && nanoseconds > 0 {
        let seconds = seconds.checked_sub(1)?;
        return Some(Time { seconds, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Some(Time { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_fields_are_octal_or_base_256() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"12\x003", Some(0o12)),
            (b"777777777777777777777", Some(i64::MAX)),
            (b"1777777777777777777777", None),
            (b"9", None),
            (b"-1", None),
            (b"0x1f", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
        ];
        for (field, expected) in cases {
            assert_eq!(numeric(field), *expected, "{field:?}");
        }
    }

    #[test]
    fn pax_times_keep_nanoseconds_and_may_be_negative() {
        let at = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        let cases: &[(&[u8], Option<Time>)] = &[
            (b"1350244992", at(1_350_244_992, 0)),
            (b"1350244992.", at(1_350_244_992, 0)),
            (b"1350244992.3", at(1_350_244_992, 300_000_000)),
            (b"1350244992.0239600001", at(1_350_244_992, 23_960_000)),
            (b"-1", at(-1, 0)),
            (b"-1.25", at(-2, 750_000_000)),
            (b"-0.25", at(-1, 750_000_000)),
            (b"", None),
            (b".5", None),
            (b"1.-5", None),
            (b"1 ", None),
            (b"99999999999999999999", None),
        ];
        for (value, expected) in cases {
            assert_eq!(time(value), *expected, "{value:?}");
        }
    }
}
