//! The answers of a store, as far as they are read: elements and their texts. Attributes, which none of them needs, are passed
//! over; whatever is no such document is refused.

use syncdata_formats::error::{Error, Kind, Result};

/// Deeper than any answer goes.
const DEPTH_MAX: usize = 16;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub name: String,
    /// Without that of the elements in it.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    pub(super) fn parse(bytes: &[u8]) -> Result<Element> {
        let text = std::str::from_utf8(bytes).ok();
        text.and_then(document)
            .ok_or_else(|| Error::new(Kind::Io, "the store's answer is no XML that could be read"))
    }

    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of a child; empty where there is none.
    pub(super) fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.as_str())
    }
}

fn document(text: &str) -> Option<Element> {
    // The one that holds the document's own.
    let mut open = vec![Element::default()];
    let mut rest = text.trim_start_matches('\u{feff}');
    while let Some((before, tag_on)) = rest.split_once('<') {
        open.last_mut()?.text.push_str(&unescaped(before)?);
        if let Some(comment) = tag_on.strip_prefix("!--") {
            rest = comment.split_once("-->")?.1;
            continue;
        }
        let (tag, after) = tag_on.split_once('>')?;
        rest = after;
        if tag.starts_with('?') {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            let closed = open.pop()?;
            if closed.name != name.trim_end() {
                return None;
            }
            open.last_mut()?.children.push(closed);
            continue;
        }
        let (tag, is_whole) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let name = tag.split_ascii_whitespace().next()?;
        let is_name =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':' | b'.'));
        if !is_name || open.len() > DEPTH_MAX {
            return None;
        }
        let element = Element { name: name.to_owned(), ..Element::default() };
        if is_whole {
            open.last_mut()?.children.push(element);
        } else {
            open.push(element);
        }
    }
    let mut root = open.pop()?;
    let is_whole = open.is_empty() && rest.trim().is_empty() && root.children.len() == 1;
    is_whole.then(|| root.children.pop())?
}

fn unescaped(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, entity_on)) = rest.split_once('&') {
        plain.push_str(before);
        let (entity, after) = entity_on.split_once(';')?;
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let number = number.strip_prefix('#')?;
                let number = match number.strip_prefix('x') {
                    Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(number)?
            }
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn elements_are_found_with_their_texts() {
        let text = "<?xml version=\"1.0\"?>\n<!-- > --><List xmlns=\"http://x/\"><Name>a&amp;b&#39;&#x41;</Name>\
            <Empty/><Contents><Key>k1</Key></Contents><Contents><Key>k2</Key></Contents></List>\n";
        let list = Element::parse(text.as_bytes()).expect("XML");
        assert_eq!((list.name.as_str(), list.text_of("Name")), ("List", "a&b'A"));
        let keys: Vec<&str> = list.all("Contents").map(|contents| contents.text_of("Key")).collect();
        assert_eq!(keys, ["k1", "k2"]);
        assert_eq!((list.text_of("Empty"), list.text_of("None")), ("", ""));
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let deep = "<a>".repeat(100) + &"</a>".repeat(100);
        for text in [
            "",
            "plain",
            "<a>",
            "</a>",
            "<a></b>",
            "<a/><b/>",
            "<a>&none;</a>",
            "<a>&#xD800;</a>",
            "<a",
            "<>x</>",
            &deep,
        ] {
            assert!(Element::parse(text.as_bytes()).is_err(), "accepted {text:?}");
        }
        assert!(Element::parse(b"<a>\xff</a>").is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[<>/a&;#x!? -]{0,40}") {
            let _ = Element::parse(text.as_bytes());
        }
    }
}
