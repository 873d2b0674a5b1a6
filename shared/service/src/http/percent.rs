//! Percent-encoding of paths and queries, strictly.

/// `None`: not encoded as it should be, or no UTF-8.
pub(super) fn decoded(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                bytes.push(u8::try_from(high << 4 | low).ok()?);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    // No name, key or word of ours has one; PostgreSQL takes none.
    (!text.contains('\0')).then_some(text)
}

/// One segment of a path.
pub fn encoded(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_encoded_rightly_is_decoded() {
        assert_eq!(decoded("a%2Fb%20c+d", false).as_deref(), Some("a/b c+d"));
        assert_eq!(decoded("a+b", true).as_deref(), Some("a b"));
        for wrong in ["%", "%2", "%zz", "%+1", "%ff", "%00", "a%C3"] {
            assert_eq!(decoded(wrong, false), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(text in "[^\0]*") {
            prop_assert_eq!(decoded(&encoded(&text), false), Some(text.clone()));
            prop_assert_eq!(decoded(&encoded(&text), true), Some(text));
        }
    }
}
