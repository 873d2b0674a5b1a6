//! Words about what went wrong, as our tables can hold them. They quote names and records of the archive, which may have
//! what no column of text takes: a NUL, characters that the database's encoding has not, more bytes than are reasonable.
//! A note that cannot be written would hold up every table for ever.

use std::fmt::Write as _;

use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::GenericClient;

/// Of a reason; names are at most 63 bytes in PostgreSQL, and in an archive as long as somebody made them.
const WORDS_BYTES_MAX: usize = 64 << 10;

/// Of a record. PostgreSQL takes sixteen times as much in a column, but it takes several times the memory to bring it there.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 20;

/// The words, as far as they can be kept.
pub(crate) async fn words(client: &impl GenericClient, text: &str) -> Result<String> {
    let mut end = text.len().min(WORDS_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let ending = if end < text.len() { "..." } else { "" };
    let text = format!("{}{ending}", text[..end].replace('\0', "\\u0000"));
    Ok(if takes(client, &text).await? { text } else { ascii(&text) })
}

/// A JSON document with the same meaning; `None`: it is too long.
pub(super) async fn document(client: &impl GenericClient, json: &str) -> Result<Option<String>> {
    if json.len() > RECORD_BYTES_MAX {
        return Ok(None);
    }
    Ok(Some(if takes(client, json).await? { json.to_owned() } else { ascii(json) }))
}

/// Whether the database has all of its characters.
async fn takes(client: &impl GenericClient, text: &str) -> Result<bool> {
    if text.is_ascii() {
        return Ok(true);
    }
    let encoding = "SELECT pg_catalog.current_setting('server_encoding') IN ('UTF8', 'SQL_ASCII')";
    let row = client.query_one(encoding, &[]).await;
    Ok(row.context(|| "asking for the database's encoding".to_owned())?.get(0))
}

/// Every other character as JSON escapes it.
pub(super) fn ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(escaped, "\\u{unit:04x}").expect("a String takes all");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_means_the_same_in_ascii() {
        for text in ["plain", "5 €", "\u{1F600} \\ \" ü"] {
            let json = serde_json::to_string(text).expect("a string");
            let plain = ascii(&json);
            assert!(plain.is_ascii(), "{plain}");
            assert_eq!(serde_json::from_str::<String>(&plain).ok().as_deref(), Some(text));
        }
    }
}
