use proptest::prelude::*;
use serde::de::{MapAccess, SeqAccess, Visitor};

use super::*;

/// What serde_json finds, with names twice refused: the oracle for our scanner.
struct Oracle;

impl<'de> serde::Deserialize<'de> for Oracle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Oracle, D::Error> {
        deserializer.deserialize_any(OracleVisitor)
    }
}

struct OracleVisitor;

impl<'de> Visitor<'de> for OracleVisitor {
    type Value = Oracle;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Oracle, E> {
        Ok(Oracle)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Oracle, E> {
        Ok(Oracle)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Oracle, E> {
        Ok(Oracle)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Oracle, E> {
        Ok(Oracle)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Oracle, E> {
        Ok(Oracle)
    }
    fn visit_str<E>(self, _: &str) -> Result<Oracle, E> {
        Ok(Oracle)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Oracle, A::Error> {
        while items.next_element::<Oracle>()?.is_some() {}
        Ok(Oracle)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Oracle, A::Error> {
        let mut seen = HashSet::new();
        while let Some((name, Oracle)) = members.next_entry::<String, Oracle>()? {
            if !seen.insert(name) {
                return Err(A::Error::custom("twice"));
            }
        }
        Ok(Oracle)
    }
}

fn is_sound(text: &str) -> bool {
    let mut scanner = Scanner::new(text, usize::MAX);
    scanner.skip_value().and_then(|_| scanner.end()).is_ok()
}

#[track_caller]
fn same_as_the_oracle(text: &str) {
    match serde_json::from_str::<Oracle>(text) {
        Ok(Oracle) => assert!(is_sound(text), "refused {text:?}"),
        // Digits are never made a float here, so no number is too large.
        Err(error) if error.to_string().contains("out of range") => {}
        Err(error) => assert!(!is_sound(text), "accepted {text:?}: {error}"),
    }
}

#[test]
fn agrees_with_serde_json_on_odd_texts() {
    let numbers =
        "0 -0 00 01 -01 - + +1 1. .1 1.0 -1.5e10 1e 1e+ 1E-7 1e05 0x1 1_0 NaN Infinity -Infinity 1-1";
    let strings = r#""" "a "\" "\\" "\/" "\b\f\n\r\t" "\u00e4" "\u00E4" "\u00g0" "\u00" "\ud834\udd1e" "\ud834" "\udd1e" "\ud834\u0041" "\x" "\" "ä€𝄞" 'a'"#;
    let shapes = r#"{} [] {"a":1} {"a":1,} {,} [1,] [,1] [1;2] {"a"1} {"a":} {1:2} {"a":1,"a":2} {"a":{"b":1},"b":[{"b":2}]} {"a":1,"\u0061":2} [}] {] true false null nul True tru e"#;
    for text in [numbers, strings, shapes].into_iter().flat_map(str::split_ascii_whitespace) {
        same_as_the_oracle(text);
        same_as_the_oracle(&format!(" [ {text} ,\t{{ \"x\" : {text} }} ]\n"));
    }
    for text in ["", " ", "\"\t\"", "\"\u{1f}\"", "\"\u{7f}\u{2028}\"", "1 2", "{}{}", "1\u{0}", "\u{feff}1"]
    {
        same_as_the_oracle(text);
    }
}

#[test]
fn long_strings_stop_at_the_first_byte_that_ends_them() {
    for length in 0..40 {
        for stop in [b'"', b'\\', 0x00, 0x0A, 0x1F] {
            for filler in [b' ', b'#', b'!', b'[', b']', 0x7F, 0x80, 0xFF] {
                let mut bytes = vec![filler; length];
                bytes.push(stop);
                bytes.extend_from_slice(b"\"\\\"\\\"\\\"\\\"");
                assert_eq!(plain_bytes(&bytes), length, "{stop} after {length} times {filler}");
            }
        }
    }
}

#[test]
fn depth_is_bounded_and_costs_no_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert!(is_sound(&nested(DEPTH_MAX)));
        assert!(!is_sound(&nested(DEPTH_MAX + 1)));
        assert!(!is_sound(&nested(100_000)));
        assert!(!is_sound(&open.repeat(100_000)));
    }
}

#[test]
fn a_document_is_one_object_and_nothing_else() {
    let decode = |bytes: &[u8]| {
        super::decode::<Format>(Document::Head, bytes).map(|_| ()).map_err(|error| error.report())
    };
    assert_eq!(decode(b"{\"format\":1}\n"), Ok(()));
    assert_eq!(decode(b"{\"format\":1,\"later\":[{}]}\n"), Ok(()));
    for (bytes, says) in [
        (&b"\xEF\xBB\xBF{\"format\":1}\n"[..], "byte order mark"),
        (b"{\"format\":1}\r\n", "Windows line ends"),
        (b"{\"format\":1}\0\n", "more bytes after the end"),
        (b"{\"format\":1}{}\n", "more bytes after the end"),
        (b"{\"format\":1,\"format\":1}\n", "\"format\" twice"),
        (b"{\"format\":1,\"x\":{\"a\":1,\"a\":1}}\n", "\"a\" twice"),
        (b"[1]\n", "expected an object"),
        (b"\n", "expected an object"),
        (b"{}\n", "missing field `format`"),
        (b"{\"format\":\"1\"}\n", "invalid type"),
        (b"{\"format\":2}\n", "has format 2; this program reads format 1"),
        (b"{\"format\":1,\"x\":\"\xFF\"}\n", "not UTF-8"),
        (b"{\"format\":1}", "its last line has no end"),
        (b"", "its last line has no end"),
        (&vec![b' '; (64 << 10) + 1], "at most 65536"),
    ] {
        let error = decode(bytes).expect_err("refused");
        assert!(error.contains(says), "{says:?} is not in {error:?}");
    }
}

fn document() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?",
        any::<String>().prop_map(|s| serde_json::to_string(&s).expect("a string")),
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        let member = ("[a-c]{1,2}", inner.clone()).prop_map(|(name, value)| format!("\"{name}\" :{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn agrees_with_serde_json(text in document()) {
        same_as_the_oracle(&text);
    }

    #[test]
    fn agrees_with_serde_json_when_a_byte_is_changed(
        text in document(),
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(&b"\"\\{}[]:,0-.eEtn \n\x00u"[..]),
    ) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            same_as_the_oracle(text);
        }
    }
}
