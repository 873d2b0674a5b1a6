//! Numbers in JSON, which are found and never computed with: values stay the digits that PostgreSQL printed.

/// How many bytes the number has that stands at the start of `text`. What follows it is the caller's to judge.
/// `Err`: there is no number, and at this byte a digit is missing.
pub fn length(text: &[u8]) -> Result<usize, usize> {
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let some_digits = |from: usize| match digits(from) {
        0 => Err(from),
        count => Ok(from + count),
    };
    let start = usize::from(text.first() == Some(&b'-'));
    // No digit comes after a zero in front: it would be the next thing, and nothing may stand there.
    let mut at = if text.get(start) == Some(&b'0') { start + 1 } else { some_digits(start)? };
    if text.get(at) == Some(&b'.') {
        at = some_digits(at + 1)?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        at = some_digits(at + 1 + sign)?;
    }
    Ok(at)
}

/// Whether the whole text is one number.
pub fn is_number(text: &str) -> bool {
    length(text.as_bytes()) == Ok(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tells_where_a_number_ends() {
        for (text, found) in [
            ("0", Ok(1)),
            ("-0", Ok(2)),
            ("12,", Ok(2)),
            ("01", Ok(1)),
            ("1.50}", Ok(4)),
            ("-1.5e+10 ", Ok(8)),
            ("1E5", Ok(3)),
            ("1ee", Err(2)),
            ("", Err(0)),
            ("-", Err(1)),
            (".5", Err(0)),
            ("1.", Err(2)),
            ("1.e5", Err(2)),
            ("1e", Err(2)),
            ("1e-", Err(3)),
            ("+1", Err(0)),
            ("NaN", Err(0)),
        ] {
            assert_eq!(length(text.as_bytes()), found, "{text:?}");
        }
        for text in ["01", "1 ", " 1", "", "1,", "0x1", "Infinity"] {
            assert!(!is_number(text), "accepted {text:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in "[-+.eE0-9]{0,8}") {
            let parsed: Result<Box<serde_json::value::RawValue>, _> = serde_json::from_str(&text);
            prop_assert_eq!(is_number(&text), parsed.is_ok(), "{}", text);
        }
    }
}
