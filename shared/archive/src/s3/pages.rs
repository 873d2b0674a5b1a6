//! What a store lists below a prefix, page by page: a thousand names each.

use hyper::Method;
use syncdata_formats::error::{Error, Kind, Result};

use super::client::Client;
use super::request::{Request, decoded};
use super::xml::Element;

/// A thousand names a page: a hundred million are no archive, but a store that goes round in a circle.
const PAGES_MAX: usize = 100_000;

/// Names without the prefix; `None` stands for one that is no text or lies elsewhere.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// With their sizes.
    pub files: Vec<(Option<String>, u64)>,
    /// With the slash at their ends.
    pub folders: Vec<Option<String>>,
}

/// Of one page, and how the next one is asked for.
pub(super) struct Page {
    pub names: Names,
    next: Option<String>,
}

impl Page {
    fn ask(client: &mut Client, prefix: &str, from: &From<'_>, names_max: u32) -> Result<Page> {
        let mut request = Request::new(Method::GET, None)
            .query("list-type", "2")
            .query("delimiter", "/")
            .query("encoding-type", "url")
            .query("max-keys", names_max.to_string())
            .query("prefix", prefix);
        match from {
            From::Begin => {}
            From::After(name) => request = request.query("start-after", format!("{prefix}{name}")),
            From::Token(token) => request = request.query("continuation-token", token.clone()),
        }
        let doing = || format!("listing {prefix}");
        let said = client.ask(&request)?.map_err(|refusal| refusal.error(&doing()))?;
        let list = Element::parse(&said.document).map_err(|error| error.context(doing()))?;
        Page::read(&list, prefix)
            .ok_or_else(|| Error::new(Kind::Io, format!("{}: the store's answer is no listing", doing())))
    }

    fn read(list: &Element, prefix: &str) -> Option<Page> {
        if list.name != "ListBucketResult" {
            return None;
        }
        let is_encoded = list.text_of("EncodingType") == "url";
        let name = |text: &str| {
            let text = if is_encoded { decoded(text)? } else { text.to_owned() };
            // One that is not below the prefix was not asked for.
            text.strip_prefix(prefix).map(str::to_owned)
        };
        let mut names = Names::default();
        for contents in list.all("Contents") {
            let size = contents.text_of("Size").trim().parse().ok()?;
            names.files.push((name(contents.text_of("Key")), size));
        }
        for folder in list.all("CommonPrefixes") {
            names.folders.push(name(folder.text_of("Prefix")));
        }
        let next = match list.text_of("IsTruncated") {
            "true" => {
                Some(list.text_of("NextContinuationToken").to_owned()).filter(|token| !token.is_empty())
            }
            _ => None,
        };
        if list.text_of("IsTruncated") == "true" && next.is_none() {
            return None;
        }
        Some(Page { names, next })
    }
}

enum From<'a> {
    Begin,
    After(&'a str),
    Token(String),
}

/// All of them, or those after a name.
pub(super) fn all(client: &mut Client, prefix: &str, after: Option<&str>) -> Result<Names> {
    let mut from = after.map_or(From::Begin, From::After);
    let mut all = Names::default();
    for _ in 0..PAGES_MAX {
        let page = Page::ask(client, prefix, &from, 1000)?;
        all.files.extend(page.names.files);
        all.folders.extend(page.names.folders);
        match page.next {
            None => return Ok(all),
            Some(token) => from = From::Token(token),
        }
    }
    Err(Error::new(Kind::Io, format!("listing {prefix}: the store finds no end")))
}

/// Whether anything is below the prefix. Some tools make an object for a folder itself.
pub(super) fn is_any(client: &mut Client, prefix: &str) -> Result<bool> {
    let page = Page::ask(client, prefix, &From::Begin, 2)?;
    let is_below = |(name, _): &(Option<String>, u64)| name.as_deref() != Some("");
    Ok(page.names.files.iter().any(is_below) || !page.names.folders.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_names_below_its_prefix_and_says_whether_there_is_another() {
        let text = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
            <NextContinuationToken>t</NextContinuationToken>\
            <Contents><Key>p/a%2Bb</Key><Size>6</Size></Contents><Contents><Key>p/x+y</Key><Size>0</Size></Contents>\
            <Contents><Key>elsewhere</Key><Size>1</Size></Contents>\
            <CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes></ListBucketResult>";
        let list = Element::parse(text.as_bytes()).expect("XML");
        let page = Page::read(&list, "p/").expect("a page");
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(page.names.files, [(some("a+b"), 6), (some("x y"), 0), (None, 1)]);
        assert_eq!((page.names.folders, page.next), (vec![some("d/")], some("t")));
        for text in ["<Other/>", "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"] {
            let list = Element::parse(text.as_bytes()).expect("XML");
            assert!(Page::read(&list, "").is_none(), "accepted {text}");
        }
    }
}
