use std::io::{self, Read, Write};

use proptest::prelude::*;
use zstd::stream::raw::CParameter;

use super::*;
use crate::change::{Commit, LineBuilder, Op, Record};
use crate::error::{Error, Kind, Result};
use crate::manifest::Manifest;
use crate::manifest::sample::{self, lsn, table, ts};

/// All lines of a segment, or why it was refused. Without the check of the whole file before: what the reader
/// finds by itself, on whichever thread it is unpacked.
fn read(file: &[u8], manifest: &Manifest) -> Result<u64> {
    let here = SegmentReader::new(file, manifest).and_then(read_all);
    let ahead = SegmentReader::ahead(io::Cursor::new(file.to_vec()), manifest).and_then(read_all);
    let checked = SegmentReader::new(file, manifest).and_then(SegmentReader::check);
    let outcome = |read: &Result<u64>| read.as_ref().map_err(Error::report).copied();
    assert_eq!(outcome(&here), outcome(&ahead));
    assert_eq!(here.as_ref().map(drop).map_err(Error::report), checked.map_err(|error| error.report()));
    here
}

fn read_all<R: io::Read>(mut reader: SegmentReader<R>) -> Result<u64> {
    while reader.next()?.is_some() {}
    assert!(reader.next()?.is_none(), "the end stays the end");
    Ok(reader.line())
}

#[track_caller]
fn refused(file: &[u8], manifest: &Manifest, says: &str) {
    let error = read(file, manifest).expect_err(says);
    assert_eq!(error.kind(), Kind::Corrupt);
    let report = error.report();
    assert!(report.contains(says), "{says:?} is not in {report}");
    assert!(report.contains("0000000002-00000000016B3D40.jsonl.zst"), "the file is not named in {report}");
}

/// A manifest that vouches for these bytes: what is left to refuse is what is inside.
fn vouched_for(file: &[u8]) -> Manifest {
    let (_, mut manifest) = sample::segment();
    let promised = manifest.file.as_mut().expect("a change file");
    promised.bytes = file.len() as u64;
    promised.sha256 = Digest::of(file);
    manifest
}

/// The same for content, compressed here.
fn of_content(content: &[u8]) -> (Vec<u8>, Manifest) {
    let file = compress(content, |_| Ok(()));
    let mut manifest = vouched_for(&file);
    let promised = manifest.file.as_mut().expect("a change file");
    promised.content_bytes = content.len() as u64;
    promised.content_sha256 = Digest::of(content);
    (file, manifest)
}

fn compress(
    content: &[u8],
    tune: impl FnOnce(&mut zstd::Encoder<'static, Vec<u8>>) -> io::Result<()>,
) -> Vec<u8> {
    let all = || {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3)?;
        encoder.include_checksum(true)?;
        tune(&mut encoder)?;
        encoder.write_all(content)?;
        encoder.finish()
    };
    all().expect("a Vec takes all")
}

fn content() -> String {
    let (file, _) = sample::segment();
    String::from_utf8(zstd::decode_all(&file[..]).expect("zstd")).expect("UTF-8")
}

#[test]
fn reads_what_was_written() {
    let (file, manifest) = sample::segment();
    let mut reader = SegmentReader::new(&file[..], &manifest).expect("a change file");
    let mut seen = Vec::new();
    while let Some(record) = reader.next().expect("sound") {
        seen.push(match record {
            Record::Row(row) => format!("{} {}", row.op, row.table),
            Record::Commit(commit) => format!("COMMIT {}", commit.xid),
            Record::Long(long) => panic!("{long:?} is not long"),
        });
    }
    let wanted = [
        "INSERT users",
        "UPDATE users",
        "DELETE sales.orders",
        "TRUNCATE sales.orders",
        "COMMIT 754",
        "INSERT users",
        "COMMIT 751",
    ];
    assert_eq!(seen, wanted);
}

#[test]
fn the_summary_says_what_is_inside() {
    let (file, summary) = sample::change_file();
    assert_eq!((summary.bytes, summary.sha256), (file.len() as u64, Digest::of(&file)));
    let content = content();
    assert_eq!(
        (summary.content_bytes, summary.content_sha256),
        (content.len() as u64, Digest::of(content.as_bytes()))
    );
    assert_eq!((summary.records, summary.transactions), (5, 2));
    assert_eq!((summary.start_lsn, summary.end_lsn), (lsn("0/16B3D00"), lsn("0/16B3D40")));
    let counts = |insert, update, delete, truncate| OpCounts { insert, update, delete, truncate };
    assert_eq!(
        summary.tables,
        BTreeMap::from([(table("users"), counts(2, 1, 0, 0)), (table("sales.orders"), counts(0, 0, 1, 1))])
    );
    let span = Span {
        first_ts: ts("2026-02-05T10:30:00.123456Z"),
        last_ts: ts("2026-02-05T10:32:00Z"),
        min_xid: 751,
        max_xid: 754,
    };
    assert_eq!((summary.span, summary.last_commit_ts), (span, span.first_ts));
}

#[test]
fn zstd_itself_reads_it_and_finds_a_checksum() {
    let (file, _) = sample::segment();
    assert!(content().ends_with("\"ts\":\"2026-02-05T10:30:00.123456Z\"}\n"));
    assert_ne!(file[4] & 0b100, 0, "the frame header's checksum flag");
}

#[test]
fn refuses_every_truncation() {
    let (file, manifest) = sample::segment();
    let promised = manifest.file.as_ref().expect("a change file");
    for length in 0..file.len() {
        assert!(promised.check(&mut &file[..length]).is_err(), "the check took {length} bytes");
        refused(&file[..length], &manifest, "");
        // Even when the manifest itself vouches for the shorter file.
        refused(&file[..length], &vouched_for(&file[..length]), "");
    }
}

#[test]
fn refuses_every_flipped_bit_and_every_other_byte() {
    let (file, manifest) = sample::segment();
    let promised = manifest.file.as_ref().expect("a change file");
    promised.check(&mut &file[..]).expect("sound before");
    for at in 0..file.len() {
        let flips = (0..8).map(|bit| 1 << bit).chain([0xFF, file[at]]).filter(|&flip| flip != 0);
        for flip in flips {
            let mut flipped = file.clone();
            flipped[at] ^= flip;
            assert!(
                promised.check(&mut &flipped[..]).is_err(),
                "the check took byte {at} flipped by {flip:#x}"
            );
            refused(&flipped, &manifest, "");
        }
    }
}

#[test]
fn refuses_a_file_that_is_longer_or_other_than_promised() {
    let (file, manifest) = sample::segment();
    let promised = manifest.file.as_ref().expect("a change file");
    let longer = [&file[..], &[0; 4096]].concat();
    refused(&longer, &manifest, "it has more than");
    assert!(promised.check(&mut &longer[..]).is_err());
    let mut endless = io::repeat(0);
    assert!(promised.check(&mut endless).is_err(), "reads no further than promised");

    let mut other = manifest.clone();
    other.file.as_mut().expect("a change file").sha256 = Digest::of(b"another");
    refused(&file, &other, "its SHA-256 should be");
    let mut other = manifest.clone();
    other.file.as_mut().expect("a change file").content_sha256 = Digest::of(b"another");
    refused(&file, &other, "its content's SHA-256 should be");
    for more in [1, 1 << 30] {
        let mut other = manifest.clone();
        other.file.as_mut().expect("a change file").content_bytes += more;
        refused(&file, &other, "its content should have");
    }
    let mut other = manifest.clone();
    other.file.as_mut().expect("a change file").content_bytes -= 1;
    refused(&file, &other, "its content is longer than");
}

/// The first line of a file too: no reader may take a table for one that it knows before it has seen any.
#[test]
fn refuses_a_table_without_a_name() {
    let first = content().replacen("\"table\":\"users\"", "\"table\":\"\"", 1);
    let last = content().replacen(
        "\"table\":\"sales.orders\",\"op\":\"TRUNCATE\"",
        "\"table\":\"\",\"op\":\"TRUNCATE\"",
        1,
    );
    for content in [first, last] {
        let (file, manifest) = of_content(content.as_bytes());
        refused(&file, &manifest, "is not a table name");
    }
}

#[test]
fn refuses_anything_around_the_one_frame() {
    let (file, _) = sample::segment();
    let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0][..], b"junk"].concat();
    for (pieces, says) in [
        (vec![&file[..], &file], "its zstd frame ends at byte"),
        (vec![&file, &skippable], "its zstd frame ends at byte"),
        (vec![&file, &[0; 4096]], "its zstd frame ends at byte"),
        (vec![&file, b"\n"], "its zstd frame ends at byte"),
        (vec![&skippable, &file], "it does not begin with a zstd frame"),
        (vec![b"\x1f\x8b", &file], "it does not begin with a zstd frame"),
        (vec![content().as_bytes()], "it does not begin with a zstd frame"),
        (vec![], "it ends after 0 of 0 bytes"),
        (vec![&[0; 512]], "it does not begin with a zstd frame"),
    ] {
        let glued = pieces.concat();
        refused(&glued, &vouched_for(&glued), says);
    }
    let zero_tail = [&file[..file.len() / 2], &vec![0; file.len() - file.len() / 2]].concat();
    refused(&zero_tail, &vouched_for(&zero_tail), "zstd");
}

#[test]
fn refuses_a_frame_without_checksum() {
    let file = compress(content().as_bytes(), |encoder| encoder.include_checksum(false));
    refused(&file, &vouched_for(&file), "its zstd frame has no checksum");
}

#[test]
fn reads_windows_up_to_128_mib_and_refuses_larger_ones() {
    let windowed =
        |log| compress(content().as_bytes(), |encoder| encoder.set_parameter(CParameter::WindowLog(log)));
    let (ordinary, larger) = (windowed(27), windowed(28));
    assert_eq!(read(&ordinary, &vouched_for(&ordinary)).ok(), Some(7));
    refused(&larger, &vouched_for(&larger), "zstd: Frame requires too much memory");
}

/// A gibibyte of one byte in some 32 KiB.
fn bomb(byte: u8) -> Vec<u8> {
    let mebibyte = vec![byte; 1 << 20];
    let all = || {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1)?;
        encoder.include_checksum(true)?;
        (0..1024).try_for_each(|_| encoder.write_all(&mebibyte))?;
        encoder.finish()
    };
    all().expect("a Vec takes all")
}

#[test]
fn a_bomb_goes_off_no_further_than_promised() {
    let bomb = bomb(b' ');
    assert!(bomb.len() < 128 * 1024);
    // The manifest is honest about the lines.
    let manifest = vouched_for(&bomb);
    let mut reader = SegmentReader::new(&bomb[..], &manifest).expect("a change file");
    assert!(reader.next().expect_err("refused").report().contains("its content is longer than"));
    assert!(reader.buffer_bytes() <= 256 * 1024, "it held {}", reader.buffer_bytes());
    // The manifest promises the gibibyte too: then the limit of a line holds.
    let mut manifest = vouched_for(&bomb);
    manifest.file.as_mut().expect("a change file").content_bytes = 1 << 30;
    let mut reader =
        SegmentReader::new(&bomb[..], &manifest).expect("a change file").with_line_bytes_max(1 << 20);
    assert!(reader.next().expect_err("refused").report().contains("a line is longer than 1048576 bytes"));
    assert!(reader.buffer_bytes() <= 4 << 20, "it held {}", reader.buffer_bytes());
}

#[test]
fn a_line_that_is_too_long_is_counted_and_passed_over() {
    let value = serde_json::to_string(&"x".repeat(3 << 20)).expect("a string");
    let mut lines = LineBuilder::new();
    let mut writer = SegmentWriter::new(Vec::new(), 1, lsn("0/1")).expect("zstd starts");
    let time = ts("2026-02-05T10:30:00Z");
    for value in ["1", &value, "2"] {
        lines.begin(&table("users"), Op::Insert);
        lines.data_column("\"v\"", value);
        writer
            .row(&table("users"), Op::Insert, lines.finish(lsn("0/1"), time).expect("fits"))
            .expect("memory");
    }
    writer
        .commit(&Commit { xid: 7, changes: 3, lsn: lsn("0/1"), end_lsn: lsn("0/2"), ts: time })
        .expect("as counted");
    let (file, summary) = writer.finish().expect("closed");
    let mut manifest = vouched_for(&file);
    manifest.file.as_mut().expect("a file").content_bytes = summary.content_bytes;
    manifest.file.as_mut().expect("a file").content_sha256 = summary.content_sha256;
    (manifest.records, manifest.transactions) = (summary.records, summary.transactions);
    (manifest.tables, manifest.start_lsn) = (summary.tables.clone(), summary.start_lsn);
    (manifest.end_lsn, manifest.span) = (summary.end_lsn, Some(summary.span));
    let reader = || SegmentReader::new(&file[..], &manifest).expect("a file").with_line_bytes_max(1 << 20);
    let mut read = reader();
    assert!(matches!(read.next(), Ok(Some(Record::Row(_)))));
    let long = match read.next() {
        Ok(Some(Record::Long(long))) => long,
        other => panic!("{other:?}"),
    };
    assert_eq!((long.table.as_str(), long.op, long.bytes > 3 << 20), ("users", Op::Insert, true));
    assert!(matches!(read.next(), Ok(Some(Record::Row(_)))));
    assert!(matches!(read.next(), Ok(Some(Record::Commit(_)))));
    assert!(matches!(read.next(), Ok(None)), "every promise is kept");
    assert!(read.buffer_bytes() <= 1 << 20, "it held {}", read.buffer_bytes());
    reader().check().expect("sound");
    // A line that is longer than promised, or has no end, is refused all the same.
    let mut cut = manifest.clone();
    cut.records = 2;
    let reader = SegmentReader::new(&file[..], &cut).expect("a file").with_line_bytes_max(1 << 20);
    assert!(reader.check().is_err());
}

#[test]
fn a_line_that_only_claims_to_be_long_takes_no_memory() {
    let (file, mut manifest) = sample::segment();
    manifest.file.as_mut().expect("a change file").content_bytes = 2 << 30;
    let mut reader = SegmentReader::new(&file[..], &manifest).expect("a change file");
    while let Ok(Some(_)) = reader.next() {}
    assert_eq!(reader.buffer_bytes(), 256 * 1024);
    assert!(reader.next().is_err(), "what was refused stays refused");
}

#[test]
fn long_lines_arrive_whole_and_their_memory_is_given_back() {
    let value = serde_json::to_string(&"x".repeat(20 << 20)).expect("a string");
    let mut lines = LineBuilder::new();
    let mut writer = SegmentWriter::new(Vec::new(), 1, lsn("0/1")).expect("zstd starts");
    let time = ts("2026-02-05T10:30:00Z");
    for (xid, value) in (1..).zip([&value, "1"].into_iter().chain(std::iter::repeat_n("2", 5000))) {
        lines.begin(&table("users"), Op::Insert);
        lines.data_column("\"v\"", value);
        writer
            .row(&table("users"), Op::Insert, lines.finish(lsn("0/1"), time).expect("fits"))
            .expect("taken");
        let lsn = Lsn::from_u64(u64::from(xid) * 16);
        writer.commit(&Commit { xid, changes: 1, lsn, end_lsn: lsn, ts: time }).expect("in order");
    }
    let (file, summary) = writer.finish().expect("a Vec takes all");
    let manifest = sample::manifest(1, None, &summary);
    let mut reader = SegmentReader::new(&file[..], &manifest).expect("a change file");
    let Ok(Some(Record::Row(row))) = reader.next() else { panic!("a row") };
    assert_eq!(row.data[0].1.as_text().map(str::len), Some(20 << 20));
    while reader.next().expect("sound").is_some() {}
    assert!(reader.buffer_bytes() <= 256 * 1024, "it holds {}", reader.buffer_bytes());
}

#[test]
fn refuses_content_that_is_not_what_the_manifest_counts() {
    let content = content();
    let lines: Vec<&str> = content.lines().collect();
    let without = |n: usize| {
        lines
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != n)
            .map(|(_, line)| format!("{line}\n"))
            .collect::<String>()
    };
    for (content, says) in [
        (content.trim_end().to_owned(), "its last line has no end"),
        (without(0), "line 4: transaction 754 should have 4 rows and has 3"),
        (without(4), "line 6: transaction 751 should have 1 rows and has 5"),
        (without(6), "its last 1 rows have no COMMIT"),
        (format!("{}{}\n", content, lines[5]), "it has more than 5 records"),
        (format!("{}\n{}\n", lines[..4].join("\n"), lines[4]), "it should have 2 transactions and has 1"),
        (content.replace("\"users\"", "\"people\""), "its counts should be"),
        (content.replace("\"users\"", "\"public.users\""), "line 1"),
        (content.replace("\"users\"", "\"Users\""), "line 1"),
        (content.replace("0/16B3D40", "0/16B3D41"), "line 7: a transaction ends at 0/16B3D41, after"),
        (content.replace("0/16B3D40", "0/16B3D38"), "it should end at 0/16B3D40 and ends at 0/16B3D38"),
        (content.replace("0/16B3D30", "0/16B3D50"), "commits at 0/16B3D50, after its own end"),
        (content.replace("0/16B3D20", "0/16B3D00"), "line 5: transaction 754 ends at 0/16B3D00, not after"),
        (
            content.replace("0/16B3D30", "0/2").replace("0/16B3D40", "0/16B3D20"),
            "line 7: transaction 751 ends",
        ),
        (content.replace("\"xid\":751", "\"xid\":752"), "its times and xids should be"),
        (content.replace("10:32:00Z", "10:33:00Z"), "its times and xids should be"),
        (content.replace("\"changes\":1,", "\"changes\":2,"), "line 7: transaction 751 should have 2 rows"),
        (content.replace('\n', "\r\n"), "line 1: more bytes after the end"),
        (content.replace('\n', "\n\n"), "line 2"),
        (format!("\u{feff}{content}"), "line 1"),
        (format!("{content}\0\0\0\0\n"), "line 8"),
        (content.replace("\"id\":1", &format!("\"id\":{}", "[".repeat(100_000))), "line 1"),
        (String::new(), "it should have 2 transactions and has 0"),
    ] {
        let (file, manifest) = of_content(content.as_bytes());
        let error = read(&file, &manifest).expect_err(says).one_line();
        assert!(error.contains(says), "{says:?} is not in {error}");
    }
}

#[test]
fn a_gap_alone_has_nothing_to_read() {
    let manifest = sample::gap_alone(1, None, "0/1", "0/2");
    let error = SegmentReader::new(&b""[..], &manifest).expect_err("no change file");
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn the_writer_takes_whole_transactions_in_order_only() {
    let mut writer = SegmentWriter::new(Vec::new(), 3, lsn("0/10")).expect("zstd starts");
    let commit = |changes, end: &str| Commit {
        xid: 1,
        changes,
        lsn: lsn("0/1"),
        end_lsn: lsn(end),
        ts: ts("2026-02-05T10:30:00Z"),
    };
    assert!(writer.row(&table("users"), Op::Insert, b"{}").is_err(), "no line end");
    assert!(writer.commit(&commit(1, "0/20")).is_err(), "a row that was never given");
    assert!(writer.commit(&commit(0, "0/10")).is_err(), "not after the segment before");
    writer.commit(&commit(0, "0/20")).expect("in order");
    assert!(writer.commit(&commit(0, "0/20")).is_err(), "not after the last commit");
    writer.row(&table("users"), Op::Insert, b"{}\n").expect("taken");
    assert!(writer.finish().is_err(), "a row without COMMIT");
    let empty = SegmentWriter::new(Vec::new(), 3, lsn("0/10")).expect("zstd starts");
    assert!(empty.finish().is_err(), "nothing inside");
}

#[test]
fn a_writer_that_fails_says_so() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer = SegmentWriter::new(Full, 3, lsn("0/1")).expect("zstd starts");
    let commit =
        Commit { xid: 1, changes: 0, lsn: lsn("0/2"), end_lsn: lsn("0/2"), ts: ts("2026-02-05T10:30:00Z") };
    writer.commit(&commit).expect("still in the buffer");
    assert_eq!(writer.finish().map(|_| ()).expect_err("the disk is full").kind(), Kind::NoSpace);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_transactions_come_back(
        transactions in prop::collection::vec(
            (any::<u32>(), prop::collection::vec(("[a-c]", any::<String>()), 0..8), 1..1000_u64),
            1..12,
        ),
        chunk in 1..64_usize,
    ) {
        let time = ts("2026-02-05T10:30:00Z");
        let mut lines = LineBuilder::new();
        let mut writer = SegmentWriter::new(Vec::new(), 1, lsn("0/1")).expect("zstd starts");
        let mut wanted = Vec::new();
        let mut end = 1;
        for (xid, rows, bytes) in &transactions {
            for (name, value) in rows {
                lines.begin(&table(name), Op::Insert);
                lines.data_column("\"v\"", &serde_json::to_string(value).expect("a string"));
                let line = lines.finish(lsn("0/1"), time).expect("fits");
                writer.row(&table(name), Op::Insert, line).expect("taken");
                wanted.push(format!("{name} {value}"));
            }
            end += bytes;
            let lsn = Lsn::from_u64(end);
            writer.commit(&Commit { xid: *xid, changes: rows.len() as u64, lsn, end_lsn: lsn, ts: time }).expect("in order");
            wanted.push(format!("COMMIT {xid} {lsn}"));
        }
        let (file, summary) = writer.finish().expect("taken");
        let manifest = sample::manifest(1, None, &summary);
        manifest.file.as_ref().expect("a change file").check(&mut &file[..]).expect("sound");
        let mut reader = SegmentReader::new(Trickle { bytes: &file, chunk }, &manifest).expect("a change file");
        let mut seen = Vec::new();
        while let Some(record) = reader.next().expect("sound") {
            seen.push(match record {
                Record::Row(row) => format!("{} {}", row.table, row.data[0].1.as_text().expect("not NULL")),
                Record::Commit(commit) => format!("COMMIT {} {}", commit.xid, commit.end_lsn),
                Record::Long(long) => panic!("{long:?} is not long"),
            });
        }
        prop_assert_eq!(seen, wanted);
    }
}

/// A source that gives little at a time.
struct Trickle<'a> {
    bytes: &'a [u8],
    chunk: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.chunk.min(buffer.len());
        self.bytes.read(&mut buffer[..n])
    }
}
