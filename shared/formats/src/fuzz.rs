//! Whatever lies in an archive, no reader panics, and what is understood is written and read again the same.

use std::fmt::{Debug, Display};
use std::io::Cursor;
use std::str::FromStr;

use syncdata_fuzz::replay;

use crate::ack::Ack;
use crate::change::{LineBuilder, Record, Row};
use crate::digest::Digest;
use crate::document::Document;
use crate::error::Result;
use crate::floor::Floor;
use crate::head::Head;
use crate::identity::ArchiveIdentity;
use crate::layout::{ArchivePath, RollupFile, SegmentFile};
use crate::lsn::Lsn;
use crate::manifest::{Manifest, sample};
use crate::name::{SlotName, TableName, TablePattern};
use crate::proof::{self, Buckets, Digester, Layout, ProofManifest};
use crate::rollup::Rollup;
use crate::segment::SegmentReader;
use crate::signature::{SigningKey, VerifyKey};
use crate::snapshot::{Blocks, PartName, Seen, SnapshotId, SnapshotManifest};
use crate::time::{Day, Timestamp};

/// Understood is what reads the same once it was written.
fn is_stable<T: PartialEq + Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> bool {
    let Ok(value) = decode(bytes) else { return false };
    assert_eq!(decode(&encode(&value)).ok(), Some(value));
    true
}

fn text_is_stable<T: FromStr<Err = crate::Error> + Display + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(value) = text.trim_end_matches('\n').parse::<T>() else { return false };
    assert_eq!(value.to_string().parse::<T>().ok(), Some(value));
    true
}

#[test]
fn fuzz_line() {
    replay("line", |bytes| {
        let Ok(record) = Record::parse(bytes) else { return false };
        let mut written = Vec::new();
        match &record {
            Record::Commit(commit) => commit.write_line(&mut written),
            Record::Long(_) => unreachable!("a line that is parsed was held"),
            Record::Row(row) => match TableName::from_archive(&row.table) {
                Ok(table) => written_row(row, &table, &mut written),
                Err(_) => return false,
            },
        }
        assert_eq!(Record::parse(&written).ok(), Some(record));
        true
    });
}

fn written_row(row: &Row<'_>, table: &TableName, written: &mut Vec<u8>) {
    let json = |name: &str| serde_json::to_string(name).expect("a string");
    let mut line = LineBuilder::new();
    line.begin(table, row.op);
    for (name, value) in &row.data {
        line.data_column(&json(name), &value.to_string());
    }
    for (name, value) in &row.old_keys {
        line.old_key(&json(name), &value.to_string());
    }
    written.extend_from_slice(line.finish(row.lsn, row.ts).expect("it has what its operation can have"));
}

#[test]
fn fuzz_manifest() {
    replay("manifest", |bytes| is_stable(bytes, Manifest::decode, Manifest::encode));
}

#[test]
fn fuzz_snapshot_manifest() {
    replay("snapshot_manifest", |bytes| is_stable(bytes, SnapshotManifest::decode, SnapshotManifest::encode));
}

#[test]
fn fuzz_proof_manifest() {
    replay("proof_manifest", |bytes| is_stable(bytes, ProofManifest::decode, ProofManifest::encode));
}

/// Vouched for by a manifest that fits them in all but what they hold.
#[test]
fn fuzz_buckets() {
    replay("buckets", |bytes| {
        let mut table = proof::sample::proved(bytes);
        table.rows = 3;
        let Ok(buckets) = Buckets::decode(&table, bytes) else { return false };
        let written = buckets.encode().expect("zstd");
        let table = proof::sample::proved(&written);
        assert_eq!(Buckets::decode(&table, &written).ok(), Some(buckets));
        true
    });
}

#[test]
fn fuzz_copy_rows() {
    let layout = Layout::of(&sample::users());
    replay("copy_rows", |bytes| {
        let mut digester = Digester::new(layout.clone(), 2);
        let pieces = bytes.chunks(5).try_for_each(|piece| digester.push(piece));
        let rows = pieces.and_then(|()| digester.finish()).map(|buckets| buckets.rows());
        let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n');
        if let Ok(rows) = &rows {
            assert!(*rows == 0 && bytes.is_empty() || *rows == lines.count() as u64);
        }
        rows.is_ok()
    });
}

#[test]
fn fuzz_violators() {
    replay("violators", |bytes| {
        let in_pieces = |length: usize| {
            let mut violators = proof::ViolatorsOfCopy::default();
            bytes.chunks(length).try_for_each(|piece| violators.push(piece)).and_then(|()| violators.finish())
        };
        let (whole, pieces) = (in_pieces(bytes.len().max(1)), in_pieces(3));
        assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok(), "however it comes");
        whole.is_ok()
    });
}

#[test]
fn fuzz_head() {
    replay("head", |bytes| is_stable(bytes, Head::decode, Head::encode));
}

#[test]
fn fuzz_floor() {
    replay("floor", |bytes| is_stable(bytes, Floor::decode, Floor::encode));
}

#[test]
fn fuzz_rollup() {
    replay("rollup", |bytes| is_stable(bytes, Rollup::decode, Rollup::encode));
}

#[test]
fn fuzz_identity() {
    replay("identity", |bytes| is_stable(bytes, ArchiveIdentity::decode, ArchiveIdentity::encode));
}

#[test]
fn fuzz_ack() {
    replay("ack", |bytes| is_stable(bytes, Ack::decode, Ack::encode));
}

#[test]
fn fuzz_blocks() {
    replay("blocks", |bytes| {
        let Ok(blocks) = Blocks::decode(bytes) else { return false };
        let written = blocks.encode();
        assert_eq!(Blocks::decode(&written).map(|blocks| blocks.encode()).ok(), Some(written));
        true
    });
}

/// The bytes of a change file, for which its manifest vouches: what is left to refuse is inside.
#[test]
fn fuzz_segment_file() {
    replay("segment_file", |bytes| reads(bytes, |_| ()));
}

/// The lines of a change file, packed here: mutated bytes of zstd hardly ever unpack to lines.
#[test]
fn fuzz_segment_lines() {
    replay("segment_lines", |content| {
        let file = packed(content);
        reads(&file, |manifest| {
            let promised = manifest.file.as_mut().expect("a change file");
            promised.content_bytes = content.len() as u64;
            promised.content_sha256 = Digest::of(content);
        })
    });
}

fn packed(content: &[u8]) -> Vec<u8> {
    let all = || {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1)?;
        encoder.include_checksum(true)?;
        std::io::Write::write_all(&mut encoder, content)?;
        encoder.finish()
    };
    all().expect("a Vec takes all")
}

/// Whoever hands on the records and whoever only checks them come to the same end.
fn reads(file: &[u8], adapt: impl Fn(&mut Manifest)) -> bool {
    let (_, mut manifest) = sample::segment();
    let promised = manifest.file.as_mut().expect("a change file");
    promised.bytes = file.len() as u64;
    promised.sha256 = Digest::of(file);
    adapt(&mut manifest);
    let read = SegmentReader::new(Cursor::new(file), &manifest).and_then(|mut reader| {
        while reader.next()?.is_some() {}
        Ok(())
    });
    let checked = SegmentReader::new(Cursor::new(file), &manifest).and_then(SegmentReader::check);
    assert_eq!(read.is_ok(), checked.is_ok());
    read.is_ok()
}

#[test]
fn fuzz_names() {
    replay("names", |bytes| {
        let is_table = text_is_stable::<TableName>(bytes);
        // Whatever they make of it, none of them panics.
        text_is_stable::<TablePattern>(bytes);
        text_is_stable::<SlotName>(bytes);
        if let Some(text) = std::str::from_utf8(bytes).ok().filter(|_| is_table) {
            let table: TableName = text.trim_end_matches('\n').parse().expect("it was read before");
            assert_eq!(TableName::from_archive(&table.to_string()).ok(), Some(table));
        }
        is_table
    });
}

#[test]
fn fuzz_lsn() {
    replay("lsn", text_is_stable::<Lsn>);
}

#[test]
fn fuzz_times() {
    replay("times", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let printed = Timestamp::from_postgres(text.trim_end());
        if let Ok(time) = &printed {
            assert_eq!(time.to_string().parse::<Timestamp>().ok(), Some(*time));
        }
        text_is_stable::<Timestamp>(bytes) | text_is_stable::<Day>(bytes) | printed.is_ok()
    });
}

#[test]
fn fuzz_file_names() {
    replay("file_names", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let name = text.trim_end_matches('\n');
        let path = ArchivePath::parse(name).is_ok();
        let id = text_is_stable::<SnapshotId>(bytes);
        let part = text_is_stable::<PartName>(bytes);
        let rollup = RollupFile::parse(name).is_some();
        path && (SegmentFile::parse(name).is_some() || rollup || id || part)
    });
}

#[test]
fn fuzz_seen() {
    replay("seen", |bytes| Seen::parse(String::from_utf8_lossy(bytes).trim_end_matches('\n')).is_some());
}

/// Keys of minisign, and signatures against a key of ours, which no mutation fits.
#[test]
fn fuzz_signature() {
    let (secret, _) = SigningKey::generate().expect("a key");
    let key = SigningKey::parse(&secret, None).expect("our key").verify_key();
    replay("signature", |bytes| {
        assert!(key.verify(b"a manifest", "name", bytes).is_err());
        let text = String::from_utf8_lossy(bytes);
        // A secret key with a password is not tried: it asks for seconds of work on purpose.
        text.parse::<VerifyKey>().is_ok()
    });
}

/// Every document's limit holds for whoever reads it.
#[test]
fn nothing_longer_than_its_limit_is_decoded() {
    type Decodes = fn(&[u8]) -> bool;
    let decoders: [(&str, Document, Decodes); 4] = [
        ("head", Document::Head, |bytes| Head::decode(bytes).is_ok()),
        ("floor", Document::Floor, |bytes| Floor::decode(bytes).is_ok()),
        ("identity", Document::Identity, |bytes| ArchiveIdentity::decode(bytes).is_ok()),
        ("ack", Document::Ack, |bytes| Ack::decode(bytes).is_ok()),
    ];
    for (target, document, decodes) in decoders {
        let sound = syncdata_fuzz::sound(target);
        let mut padded = sound.strip_suffix(b"\n").expect("a line end").to_vec();
        padded.resize(document.bytes_max() - 1, b' ');
        padded.push(b'\n');
        assert!(decodes(&padded), "{target}: the longest is read");
        padded.insert(0, b' ');
        assert!(!decodes(&padded), "{target}: a longer one is not");
    }
}
