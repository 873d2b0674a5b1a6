//! archive.json: who owns this archive. Written once, before anything else.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::document::Document;
use crate::error::Result;
use crate::json;
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveIdentity {
    pub format: u64,
    #[serde(deserialize_with = "json::one_spelling")]
    pub archive_id: Uuid,
    pub source: IdentitySource,
    pub created_at: Timestamp,
    pub archiver: String,
}

/// The one database and slot whose changes this archive takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentitySource {
    pub system_identifier: String,
    pub database: String,
    pub slot: String,
}

impl ArchiveIdentity {
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<ArchiveIdentity> {
        json::decode(Document::Identity, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::FORMAT;
    use crate::manifest::sample::{archive_id, ts};

    fn identity() -> ArchiveIdentity {
        ArchiveIdentity {
            format: FORMAT,
            archive_id: archive_id(),
            source: IdentitySource {
                system_identifier: "7300000000000000001".into(),
                database: "app \"ä\"".into(),
                slot: "syncdata_slot".into(),
            },
            created_at: ts("2026-02-05T10:00:00Z"),
            archiver: "0.1.0".into(),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(ArchiveIdentity::decode(&identity().encode()).ok(), Some(identity()));
    }

    #[test]
    fn refuses_what_is_not_one() {
        let sound = String::from_utf8(identity().encode()).expect("UTF-8");
        for (text, says) in [
            (sound.replace("\"format\":1", "\"format\":2"), "archive.json has format 2"),
            (sound.replace("\"slot\"", "\"slot\":\"a\",\"slot\""), "\"slot\" twice"),
            (sound.replace("\"slot\"", "\"plug\""), "missing field `slot`"),
            (sound.replace("6f1c2f0e-", "6f1c2f0e"), "cannot be read: invalid group count"),
            (sound.replace("6f1c", "6F1C"), "is not written \"6f1c2f0e-"),
            (sound.replace("T10:00:00Z", "t10:00:00.0z"), "is not written \"2026-02-05T10:00:00Z\""),
            (sound.replace('\n', "\r\n"), "Windows line ends"),
            (format!("\u{feff}{sound}"), "byte order mark"),
            (format!("{sound}{sound}"), "more bytes after the end"),
        ] {
            let error = ArchiveIdentity::decode(text.as_bytes()).expect_err(says).report();
            assert!(error.contains(says), "{says:?} is not in {error}");
        }
        for length in 0..sound.len() {
            assert!(ArchiveIdentity::decode(&sound.as_bytes()[..length]).is_err(), "accepted {length} bytes");
        }
    }

    /// Any other byte is refused, or it changed a fact: then this archive is not the one that checkpoints, manifests
    /// and the source know, and whoever compares them refuses it.
    #[test]
    fn no_flipped_byte_leaves_the_same_identity() {
        let bytes = identity().encode();
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut flipped = bytes.clone();
                flipped[at] ^= flip;
                if let Ok(read) = ArchiveIdentity::decode(&flipped) {
                    assert_ne!(read, identity(), "byte {at} flipped by {flip:#x}");
                }
            }
        }
    }
}
