//! Go's string literals, also with `|` and `/` as quotes, for regular expressions.

/// Takes off the quotes and resolves escapes; `None` where the literal isn't one, or isn't UTF-8
/// once resolved.
pub(super) fn unquote(literal: &str) -> Option<String> {
    let quote = literal.chars().next()?;
    let inner = literal.strip_prefix(quote)?.strip_suffix(quote)?;
    if !matches!(quote, '"' | '|' | '/') || inner.contains('\n') {
        return None;
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut rest, quote, &mut bytes)?,
            c if c == quote => return None,
            c => push(&mut bytes, c),
        }
    }
    String::from_utf8(bytes).ok()
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Resolves the escape sequence after a backslash. `\x` and octal give a byte, `\u` and `\U` a
/// character.
fn escape(rest: &mut std::str::Chars<'_>, quote: char, bytes: &mut Vec<u8>) -> Option<()> {
    match rest.next()? {
        'a' => bytes.push(0x07),
        'b' => bytes.push(0x08),
        'f' => bytes.push(0x0c),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(0x0b),
        '\\' => bytes.push(b'\\'),
        'x' => bytes.push(u8::try_from(digits(rest, 16, 2, 0)?).ok()?),
        'u' => push(bytes, char::from_u32(digits(rest, 16, 4, 0)?)?),
        'U' => push(bytes, char::from_u32(digits(rest, 16, 8, 0)?)?),
        c @ '0'..='7' => bytes.push(u8::try_from(digits(rest, 8, 2, c.to_digit(8)?)?).ok()?),
        c if c == quote => push(bytes, c),
        _ => return None,
    }
    Some(())
}

fn digits(rest: &mut std::str::Chars<'_>, base: u32, count: usize, first: u32) -> Option<u32> {
    (0..count).try_fold(first, |value, _| {
        let digit = rest.next()?.to_digit(base)?;
        value.checked_mul(base)?.checked_add(digit)
    })
}
