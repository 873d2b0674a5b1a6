use super::*;
use crate::source::scripted::{Entry, Listed};

struct InMemory;

impl Files for InMemory {
    type File = Vec<u8>;
    fn open(&mut self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

const NO_LIMITS: Limits = Limits { changes: u64::MAX, content_bytes: u64::MAX, compression_level: 1 };

fn capture() -> Capture {
    use crate::capture::{CatalogTable, RelationKind};
    let table = |oid, name: &str, kind, partition_of| CatalogTable {
        oid,
        name: name.parse().expect("a name"),
        kind,
        partition_of,
        heir_of: Vec::new(),
        identity_usable: true,
        virtual_columns: if oid == 1 { vec!["v\"".into()] } else { vec![] },
        storage: Default::default(),
        marks: Default::default(),
        columns: Default::default(),
        layout: Default::default(),
        making: Default::default(),
        stream: Default::default(),
    };
    let catalog = [
        table(1, "t", RelationKind::Table, None),
        table(2, "p", RelationKind::Partitioned, None),
        table(3, "p_1", RelationKind::Table, Some(2)),
    ];
    let patterns = ["t", "p"].map(|text| text.parse().expect("a pattern"));
    Capture::resolve(&patterns, &BTreeSet::new(), &catalog, &Default::default()).expect("resolves")
}

fn harvest(limits: Limits, archived: u64, events: &[Vec<Entry>]) -> Result<Harvest<Vec<u8>>> {
    let capture = capture();
    let mut segmenter =
        Segmenter::new(&capture, InMemory, limits, Lsn::from_u64(archived), Lsn::from_u64(archived));
    for event in events.iter().flatten() {
        event.hand_over(|event| segmenter.take(event))?;
    }
    segmenter.finish()
}

fn content(finished: &Finished<Vec<u8>>) -> Vec<String> {
    let bytes = zstd::decode_all(finished.file.as_slice()).expect("a frame");
    String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn whole_transactions_become_lines_in_commit_order() {
    let lines = [
        Entry::transaction(7, 0x20, &[Entry::insert("t", 0x12, 1)]),
        Entry::transaction(6, 0x30, &[Entry::insert("p_1", 0x10, 1)]),
    ];
    let harvest = harvest(NO_LIMITS, 0x5, &lines).expect("reads");
    assert_eq!(
        content(&harvest.segments[0]),
        [
            r#"{"table":"t","op":"INSERT","data":{"id":1},"lsn":"0/12","ts":"2026-02-05T10:30:00Z"}"#,
            r#"{"op":"COMMIT","xid":7,"changes":1,"lsn":"0/1F","end_lsn":"0/20","ts":"2026-02-05T10:30:00Z"}"#,
            r#"{"table":"p","op":"INSERT","data":{"id":1},"lsn":"0/10","ts":"2026-02-05T10:30:00Z"}"#,
            r#"{"op":"COMMIT","xid":6,"changes":1,"lsn":"0/2F","end_lsn":"0/30","ts":"2026-02-05T10:30:00Z"}"#,
        ]
    );
    assert_eq!(harvest.segments[0].summary.start_lsn, Lsn::from_u64(5));
    assert_eq!(harvest.position, Lsn::from_u64(0x30));
}

#[test]
fn what_is_archived_already_is_passed_over() {
    let lines = [
        Entry::transaction(7, 0x20, &[Entry::insert("t", 0x12, 1)]),
        Entry::transaction(8, 0x30, &[Entry::insert("t", 0x22, 1)]),
    ];
    let harvest = harvest(NO_LIMITS, 0x20, &lines).expect("reads");
    assert_eq!(harvest.segments.len(), 1);
    assert_eq!(harvest.segments[0].summary.transactions, 1);
    assert_eq!(harvest.segments[0].summary.start_lsn, Lsn::from_u64(0x20));
}

#[test]
fn a_transaction_without_captured_rows_leaves_no_line_but_moves_on() {
    let lines =
        [Entry::transaction(7, 0x20, &[Entry::insert("other", 0x12, 1)]), Entry::transaction(8, 0x30, &[])];
    let harvest = harvest(NO_LIMITS, 0x5, &lines).expect("reads");
    assert!(harvest.segments.is_empty());
    assert_eq!(harvest.position, Lsn::from_u64(0x30));
}

#[test]
fn a_file_ends_at_the_first_commit_past_a_limit() {
    let three = || vec![Entry::insert("t", 1, 1), Entry::insert("t", 2, 1), Entry::insert("t", 3, 1)];
    let lines = [
        Entry::transaction(1, 0x20, &three()),
        Entry::transaction(2, 0x30, &three()),
        Entry::transaction(3, 0x40, &three()),
    ];
    let limits = Limits { changes: 4, ..NO_LIMITS };
    let harvest = harvest(limits, 0, &lines).expect("reads");
    let spans: Vec<_> = harvest.segments.iter().map(|s| (s.summary.start_lsn, s.summary.end_lsn)).collect();
    let lsn = Lsn::from_u64;
    assert_eq!(spans, [(lsn(0), lsn(0x30)), (lsn(0x30), lsn(0x40))]);
}

#[test]
fn a_truncate_of_a_parent_is_one_line_and_one_of_a_partition_alone_is_a_gap() {
    let lines = [
        Entry::transaction(
            1,
            0x20,
            &[Entry::truncate("p", 0x10), Entry::truncate("p_1", 0x10), Entry::truncate("t", 0x10)],
        ),
        // It is known to be empty since.
        Entry::transaction(2, 0x28, &[Entry::truncate("p_1", 0x21)]),
        Entry::transaction(
            3,
            0x30,
            &[Entry::insert("p_1", 0x29, 1), Entry::truncate("p_1", 0x2A), Entry::insert("p_1", 0x2B, 1)],
        ),
        Entry::transaction(4, 0x40, &[Entry::truncate("p_1", 0x31)]),
    ];
    let harvest = harvest(NO_LIMITS, 0x5, &lines).expect("reads");
    let ops: Vec<String> = content(&harvest.segments[0]).iter().map(|l| l[..30].to_owned()).collect();
    assert_eq!(
        ops[..2],
        [r#"{"table":"p","op":"TRUNCATE","#, r#"{"table":"t","op":"TRUNCATE","#].map(|s| s.to_owned() + "\"")
    );
    let spans = |gaps: &[Gap]| gaps.iter().map(|gap| (gap.from, gap.to)).collect::<Vec<_>>();
    let lsn = Lsn::from_u64;
    assert_eq!(harvest.segments[0].summary.end_lsn, lsn(0x30));
    assert_eq!(spans(&harvest.segments[0].gaps), [(lsn(0x28), lsn(0x30))]);
    assert_eq!(spans(&harvest.gaps), [(lsn(0x30), lsn(0x40))], "after all that the segment holds");
}

#[test]
fn virtual_columns_do_not_travel() {
    let column = |name: &str, value: &str| (Part::Columns, name.to_owned(), value.to_owned());
    let columns = Listed(vec![column("\"id\"", "1"), column("\"v\\\"\"", "null")]);
    let (action, lsn) = (Action::Insert, Lsn::from_u64(0x10));
    let lines = [Entry::transaction(1, 0x20, &[Entry::Row { action, lsn, table: "t".into(), columns }])];
    let harvest = harvest(NO_LIMITS, 0, &lines).expect("reads");
    assert!(content(&harvest.segments[0])[0].contains(r#""data":{"id":1},"#));
}

#[test]
fn an_answer_out_of_order_is_refused() {
    for lines in [
        vec![Entry::insert("t", 1, 1)],
        vec![Entry::begin(1, 0x20), Entry::begin(2, 0x30)],
        vec![Entry::commit(1, 0x20)],
        vec![Entry::begin(1, 0x20), Entry::insert("t", 1, 1)],
        vec![Entry::begin(1, 0x20), Entry::insert("t", 1, 1), Entry::commit(2, 0x20)],
    ] {
        assert!(harvest(NO_LIMITS, 0, std::slice::from_ref(&lines)).is_err(), "accepted {lines:?}");
    }
}
