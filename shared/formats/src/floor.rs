//! floor.json: after a prune, the first segment that is kept. What lies before it was pruned on purpose; a
//! segment that is missing after it is lost.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chain::ChainTip;
use crate::document::Document;
use crate::error::{Error, Kind, Result};
use crate::json;
use crate::layout::SegmentSeq;
use crate::manifest::Link;
use crate::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    pub format: u64,
    #[serde(deserialize_with = "json::one_spelling")]
    pub archive_id: Uuid,
    /// The first segment that is kept, and the link that its manifest has.
    pub seq: SegmentSeq,
    #[serde(deserialize_with = "json::null_must_be_said")]
    pub previous: Option<Link>,
    pub pruned_at: Timestamp,
}

impl Floor {
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Floor> {
        let floor: Floor = json::decode(Document::Floor, bytes)?;
        if floor.tip().next_seq() != floor.seq {
            let message = format!("floor.json: segment {} does not follow {:?}", floor.seq, floor.previous);
            return Err(Error::new(Kind::Corrupt, message));
        }
        Ok(floor)
    }

    /// What the first segment that is kept has to follow.
    pub fn tip(&self) -> ChainTip {
        ChainTip::floor(self.archive_id, self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::FORMAT;
    use crate::manifest::sample::{archive_id, link, ts};

    fn floor(seq: u64, previous: Option<Link>) -> Floor {
        let seq = SegmentSeq::new(seq).expect("a number");
        Floor {
            format: FORMAT,
            archive_id: archive_id(),
            seq,
            previous,
            pruned_at: ts("2026-03-01T00:00:00Z"),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        for floor in [floor(1, None), floor(42, Some(link(41, b"a manifest")))] {
            assert_eq!(Floor::decode(&floor.encode()).ok(), Some(floor.clone()));
            assert_eq!(floor.tip().next_seq(), floor.seq);
        }
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        for floor in [floor(2, None), floor(1, Some(link(1, b""))), floor(42, Some(link(40, b"")))] {
            assert!(Floor::decode(&floor.encode()).is_err(), "accepted {floor:?}");
        }
        let sound = String::from_utf8(floor(1, None).encode()).expect("UTF-8");
        for (text, says) in [
            (sound.replace("\"previous\":null,", ""), "missing field `previous`"),
            (sound.replace("\"format\":1", "\"format\":2"), "floor.json has format 2"),
            (sound.replace("\"seq\":1", "\"seq\":1,\"seq\":1"), "twice in one object"),
            (sound.replace("\"seq\":1", "\"seq\":0"), "a segment number"),
        ] {
            let error = Floor::decode(text.as_bytes()).expect_err(says).report();
            assert!(error.contains(says), "{says:?} is not in {error}");
        }
        for length in 0..sound.len() {
            assert!(Floor::decode(&sound.as_bytes()[..length]).is_err(), "accepted {length} bytes");
        }
    }
}
