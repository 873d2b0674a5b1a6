//! What the quarantine keeps of a record's values: themselves, or hashes of them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;
use syncdata_formats::error::{Context as _, Error, Result};
use syncdata_service::{hmac, small_file};

/// Of a key that was made here, with room for one that was put there by hand.
const KEY_BYTES_MAX: usize = 64;
/// What becomes of the values of a record.
#[derive(Clone, Debug)]
pub enum Values {
    Plain,
    /// The key lies in that file; it is made when it is needed first.
    Hashed {
        key_file: PathBuf,
    },
}

impl Values {
    /// The record with a hash in place of each value, if they are hashed. `None` when that is not possible: then nothing
    /// of it is kept, for a note that cannot be made would hold up every table.
    pub(super) fn hashed(&self, record: &str) -> Option<String> {
        let Values::Hashed { key_file } = self else { return None };
        let hashed = key(key_file).and_then(|key| hash(record, &key));
        hashed
            .inspect_err(|error| {
                tracing::warn!(error = %error.one_line(), "a record is not kept: its values cannot be hashed");
            })
            .ok()
    }
}

/// As `apply::poison` writes it.
#[derive(Deserialize)]
struct Parts<'a> {
    table: String,
    op: String,
    #[serde(borrow, default)]
    data: BTreeMap<String, &'a RawValue>,
    #[serde(borrow, default)]
    old_keys: BTreeMap<String, &'a RawValue>,
}

fn hash(record: &str, key: &[u8]) -> Result<String> {
    let parts: Parts<'_> = serde_json::from_str(record)
        .map_err(|error| Error::bad_input("a record", "what was found").caused_by(error))?;
    let mut document = serde_json::json!({"table": parts.table, "op": parts.op});
    for (name, fields) in [("data", parts.data), ("old_keys", parts.old_keys)] {
        let mut hashed = serde_json::Map::new();
        for (column, value) in fields {
            // Half of the digits tell values apart as well.
            let digits = hmac::sha256_hex(key, value.get().as_bytes())?;
            let hash = match value.get() {
                "null" => serde_json::Value::Null,
                _ => format!("hmac-sha256:{}", &digits[..32]).into(),
            };
            hashed.insert(column, hash);
        }
        if !hashed.is_empty() {
            document[name] = hashed.into();
        }
    }
    Ok(document.to_string())
}

/// Reads the key, or makes one. Whoever reads the database alone cannot try values until a hash fits.
fn key(file: &Path) -> Result<Vec<u8>> {
    if !file.exists() {
        let making = || format!("making the key {}", file.display());
        let folder = file.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).context(making)?;
        let mut made = tempfile::NamedTempFile::new_in(folder).context(making)?;
        made.write_all(&hmac::new_key()?).context(making)?;
        made.as_file().sync_all().context(making)?;
        match made.persist_noclobber(file) {
            Err(error) if error.error.kind() != ErrorKind::AlreadyExists => {
                return Err(error.error).context(making);
            }
            _ => {}
        }
    }
    small_file::read_own(file, KEY_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_equal_values_and_nothing_else() {
        let record = r#"{"table":"users","op":"UPDATE","data":{"id":7,"name":"Ann","note":null,"nick":"Ann"},"old_keys":{"id":7}}"#;
        let hashed = hash(record, b"key").expect("a record");
        assert!(!hashed.contains("Ann"), "{hashed}");
        let document: serde_json::Value = serde_json::from_str(&hashed).expect("JSON");
        assert_eq!(document["data"]["name"], document["data"]["nick"]);
        assert_eq!(document["data"]["id"], document["old_keys"]["id"]);
        assert_ne!(document["data"]["id"], document["data"]["name"]);
        assert_eq!((&document["table"], &document["op"]), (&"users".into(), &"UPDATE".into()));
        assert!(document["data"]["note"].is_null());
        assert_ne!(hash(record, b"another").expect("a record"), hashed);
    }

    #[test]
    fn the_key_is_made_once_and_is_ours_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("state/quarantine.key");
        let made = key(&file).expect("it is made");
        assert_eq!((made.len(), key(&file).expect("it is read")), (32, made));
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}
