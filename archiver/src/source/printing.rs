//! How the text that a type's output function made stands in our files: as JSON.

use std::borrow::Cow;

use syncdata_formats::number;

/// How a value of a type travels: the OIDs are fixed in PostgreSQL's catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Printing {
    Boolean,
    Number,
    Text,
}

impl Printing {
    pub(super) fn of(type_oid: u32) -> Printing {
        match type_oid {
            16 => Printing::Boolean,
            // int8, int2, int4, oid, float4, float8, numeric
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => Printing::Number,
            _ => Printing::Text,
        }
    }

    pub(super) fn json(self, text: &str) -> Cow<'_, str> {
        match (self, text) {
            (Printing::Boolean, "t") => Cow::Borrowed("true"),
            (Printing::Boolean, "f") => Cow::Borrowed("false"),
            // NaN and the infinities are none for JSON.
            (Printing::Number, text) if number::is_number(text) => Cow::Borrowed(text),
            _ => Cow::Owned(quoted(text)),
        }
    }
}

/// The JSON text of a string, escaped as PostgreSQL itself does it.
pub(super) fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        json.push_str(&text[from..at]);
        from = at + 1;
        match byte {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            8 => json.push_str("\\b"),
            12 => json.push_str("\\f"),
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            b'\t' => json.push_str("\\t"),
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                json.push_str("\\u00");
                json.push(char::from(HEX[usize::from(other >> 4)]));
                json.push(char::from(HEX[usize::from(other & 15)]));
            }
        }
    }
    json.push_str(&text[from..]);
    json.push('"');
    json
}
