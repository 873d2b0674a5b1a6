use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::error::Result;
use crate::name::TableName;

const INSERT: &str = r#"{"table":"users","op":"INSERT","data":{"id":1,"name":"John"},"lsn":"0/16B3D40","ts":"2026-02-05T10:30:00.123456Z"}"#;
const UPDATE: &str = r#"{"table":"users","op":"UPDATE","data":{"id":1,"name":"Jane"},"old_keys":{"id":1},"lsn":"0/16B3D50","ts":"2026-02-05T10:31:00Z"}"#;
const DELETE: &str = r#"{"table":"sales.orders","op":"DELETE","old_keys":{"id":1},"lsn":"0/16B3D60","ts":"2026-02-05T10:32:00Z"}"#;
const TRUNCATE: &str =
    r#"{"table":"sales.orders","op":"TRUNCATE","lsn":"0/16B3D70","ts":"2026-02-05T10:32:00Z"}"#;
const COMMIT: &str = r#"{"op":"COMMIT","xid":754,"changes":4,"lsn":"0/16B3D80","end_lsn":"0/16B3DB0","ts":"2026-02-05T10:32:00Z"}"#;

fn lsn(text: &str) -> Lsn {
    text.parse().expect("an LSN")
}

fn ts(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn table(text: &str) -> TableName {
    TableName::from_archive(text).expect("a table")
}

fn parse(line: &str) -> Result<Record<'_>> {
    Record::parse(line.as_bytes())
}

#[track_caller]
fn row(line: &str) -> Row<'_> {
    match parse(line).expect("a sound line") {
        Record::Row(row) => row,
        other => panic!("{other:?} is no row that was read"),
    }
}

#[test]
fn writes_the_lines_of_the_format_page() {
    let mut lines = LineBuilder::new();
    lines.begin(&table("users"), Op::Insert);
    lines.data_column("\"id\"", "1");
    lines.data_column("\"name\"", "\"John\"");
    let line = lines.finish(lsn("0/16B3D40"), ts("2026-02-05T10:30:00.123456Z")).expect("fits").to_vec();
    assert_eq!(line, format!("{INSERT}\n").into_bytes());

    lines.begin(&table("users"), Op::Update);
    lines.old_key("\"id\"", "1");
    lines.data_column("\"id\"", "1");
    lines.data_column("\"name\"", "\"Jane\"");
    let line = lines.finish(lsn("0/16B3D50"), ts("2026-02-05T10:31:00Z")).expect("fits").to_vec();
    assert_eq!(line, format!("{UPDATE}\n").into_bytes());

    lines.begin(&table("sales.orders"), Op::Delete);
    lines.old_key("\"id\"", "1");
    let line = lines.finish(lsn("0/16B3D60"), ts("2026-02-05T10:32:00Z")).expect("fits").to_vec();
    assert_eq!(line, format!("{DELETE}\n").into_bytes());

    lines.begin(&table("sales.orders"), Op::Truncate);
    let line = lines.finish(lsn("0/16B3D70"), ts("2026-02-05T10:32:00Z")).expect("fits").to_vec();
    assert_eq!(line, format!("{TRUNCATE}\n").into_bytes());

    let Ok(Record::Commit(commit)) = parse(COMMIT) else { panic!("a COMMIT") };
    let mut line = Vec::new();
    commit.write_line(&mut line);
    assert_eq!(line, format!("{COMMIT}\n").into_bytes());
}

#[test]
fn reads_what_it_writes() {
    let update = row(UPDATE);
    assert_eq!((update.table.as_ref(), update.op), ("users", Op::Update));
    assert_eq!(update.data[1], ("name".into(), Value::Text("Jane".into())));
    assert_eq!(update.old_keys, [("id".into(), Value::Number("1"))]);
    assert_eq!((update.lsn, update.ts), (lsn("0/16B3D50"), ts("2026-02-05T10:31:00Z")));
    let commit = Commit {
        xid: 754,
        changes: 4,
        lsn: lsn("0/16B3D80"),
        end_lsn: lsn("0/16B3DB0"),
        ts: ts("2026-02-05T10:32:00Z"),
    };
    assert_eq!(parse(COMMIT).ok(), Some(Record::Commit(commit)));
}

#[test]
fn values_stay_what_they_are() {
    let line = r#"{"op":"INSERT","table":"t","data":{"a":1.10,"b":18446744073709551616,"c":1e400,"d":-0,"e":null,"f":true,"g":"\\x00ff","h":"NaN","i":"\u00e4\ud834\udd1e\n"},"lsn":"0/1","ts":"2026-02-05T10:32:00Z"}"#;
    let texts: Vec<_> = row(line).data.iter().map(|(_, value)| value.as_text().map(str::to_owned)).collect();
    let wanted = ["1.10", "18446744073709551616", "1e400", "-0", "", "t", "\\x00ff", "NaN", "ä𝄞\n"];
    let wanted: Vec<_> = wanted.map(|text| (!text.is_empty()).then(|| text.to_owned())).into();
    assert_eq!(texts, wanted);
}

#[test]
fn text_without_escapes_is_borrowed() {
    let insert = row(INSERT);
    assert!(matches!(insert.table, Cow::Borrowed("users")));
    assert!(matches!(insert.data[1].1, Value::Text(Cow::Borrowed("John"))));
}

#[test]
fn fields_may_come_in_any_order_and_unknown_ones_are_ignored() {
    let line = r#" {"ts":"2026-02-05T10:30:00.123456Z", "later":{"a":[1,{"b":null}]}, "lsn":"0/16B3D40",
        "data":{"id":1,"name":"John"}, "xid":"no number", "op":"INSERT", "table":"users"} "#;
    assert_eq!(parse(line).ok(), parse(INSERT).ok());
}

#[test]
fn a_table_without_columns_has_empty_objects() {
    let mut lines = LineBuilder::new();
    for op in [Op::Insert, Op::Update, Op::Delete] {
        lines.begin(&table("t"), op);
        let line = lines.finish(lsn("0/1"), ts("2026-02-05T10:32:00Z")).expect("fits");
        let text = std::str::from_utf8(line).expect("UTF-8");
        assert_eq!(text.contains("\"data\":{}"), op.has_data());
        assert_eq!(text.contains("\"old_keys\":{}"), op.has_old_keys());
        assert_eq!(row(text).op, op);
    }
}

#[test]
fn columns_that_an_operation_cannot_have_are_not_dropped_in_silence() {
    let mut lines = LineBuilder::new();
    for (op, is_key) in [(Op::Insert, true), (Op::Truncate, true), (Op::Truncate, false), (Op::Delete, false)]
    {
        lines.begin(&table("t"), op);
        if is_key {
            lines.old_key("\"a\"", "1")
        } else {
            lines.data_column("\"a\"", "1")
        }
        assert!(lines.finish(lsn("0/1"), ts("2026-02-05T10:32:00Z")).is_err(), "{op}");
    }
}

#[test]
fn refuses_lines_that_are_not_ours() {
    let many = (0..2000).map(|i| format!("\"c{i}\":1")).collect::<Vec<_>>().join(",");
    let twice_among_many = (0..40).map(|i| format!("\"c{}\":1", i % 39)).collect::<Vec<_>>().join(",");
    for (line, says) in [
        (String::new(), "expected '{'"),
        ("null".into(), "expected '{'"),
        ("{}".into(), "\"op\" is missing"),
        (format!("\u{feff}{INSERT}"), "expected '{'"),
        (format!("{INSERT}\r"), "more bytes after the end"),
        (format!("{INSERT}{INSERT}"), "more bytes after the end"),
        (format!("{INSERT}\0\0\0"), "more bytes after the end"),
        (INSERT.replace("INSERT", "UPSERT"), "\"UPSERT\" is not an operation"),
        (INSERT.replace("INSERT", "insert"), "\"insert\" is not an operation"),
        (INSERT.replace("INSERT", "UPDATE"), "UPDATE without \"old_keys\""),
        (INSERT.replace("INSERT", "DELETE"), "DELETE with \"data\""),
        (INSERT.replace("INSERT", "TRUNCATE"), "TRUNCATE with \"data\""),
        (UPDATE.replace("UPDATE", "INSERT"), "INSERT with \"old_keys\""),
        (UPDATE.replace("UPDATE", "COMMIT"), "COMMIT with \"table\""),
        (DELETE.replace("old_keys", "keys"), "DELETE without \"old_keys\""),
        (INSERT.replace("\"id\":1", "\"id\":[1]"), "never an array"),
        (INSERT.replace("\"id\":1", "\"id\":{}"), "never an array"),
        (INSERT.replace("\"id\":1", "\"name\":1"), "column \"name\" twice"),
        (INSERT.replace("\"id\":1", "\"n\\u0061me\":1"), "column \"name\" twice"),
        (INSERT.replace("\"id\":1", &many), "more columns than PostgreSQL has"),
        (INSERT.replace("\"id\":1", &twice_among_many), "column \"c0\" twice"),
        (INSERT.replace("{\"table\"", "{\"lsn\":\"0/1\",\"table\""), "\"lsn\" twice"),
        (INSERT.replace("{\"table\"", "{\"x\":1,\"x\":1,\"table\""), "\"x\" twice"),
        (INSERT.replace("{\"table\"", "{\"x\":{\"a\":1,\"a\":1},\"table\""), "\"a\" twice"),
        (INSERT.replace("\"users\"", "7"), "expected '\"'"),
        (INSERT.replace("0/16B3D40", "16B3D40"), "\"lsn\" cannot be read"),
        (INSERT.replace("10:30:00", "25:30:00"), "\"ts\" cannot be read"),
        (INSERT.replace("John", "Jo\nhn"), "control character"),
        (INSERT.replace("1,", "01,"), "expected '}'"),
        (INSERT.replace("1,", "NaN,"), "expected a value"),
        (INSERT.replace("1,", &"[".repeat(100_000)), "never an array"),
        (INSERT.replace("{\"table\"", &format!("{{\"x\":{}", "[".repeat(100_000))), "nested too deeply"),
        (COMMIT.replace("754", "4294967296"), "\"xid\" cannot be read"),
        (COMMIT.replace("754", "-1"), "\"xid\" cannot be read"),
        (COMMIT.replace("754", "7.0"), "\"xid\" cannot be read"),
        (COMMIT.replace("754", "\"754\""), "\"xid\" cannot be read"),
        (COMMIT.replace("changes", "records"), "\"changes\" is missing"),
        (COMMIT.replace("\"0/16B3DB0\"", "1"), "expected '\"'"),
    ] {
        let error = parse(&line).expect_err(&line).report();
        assert!(error.contains(says), "{says:?} is not in {error:?}");
    }
    assert!(Record::parse(b"{\"op\":\"\xFF\"}").is_err(), "not UTF-8");
}

#[test]
fn no_truncated_line_is_a_line() {
    for line in [INSERT, UPDATE, DELETE, TRUNCATE, COMMIT] {
        for length in 0..line.len() {
            assert!(parse(&line[..length]).is_err(), "accepted {:?}", &line[..length]);
        }
    }
}

#[test]
fn no_flipped_bit_panics() {
    for line in [INSERT, UPDATE, DELETE, TRUNCATE, COMMIT] {
        for bit in 0..line.len() * 8 {
            let mut flipped = line.as_bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Many are other, sound lines: what notices them is the content's SHA-256.
            if let Ok(record) = Record::parse(&flipped) {
                let text = std::str::from_utf8(&flipped).expect("what was read is UTF-8");
                assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "read {record:?} from {text:?}");
            }
        }
    }
}

/// A value as JSON, and what reading it must give.
fn value() -> impl Strategy<Value = (String, Option<String>)> {
    prop_oneof![
        Just(("null".to_owned(), None)),
        any::<bool>().prop_map(|b| (b.to_string(), Some(b.to_string()[..1].to_owned()))),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?"
            .prop_map(|n: String| (n.clone(), Some(n))),
        any::<String>().prop_map(|s| (serde_json::to_string(&s).expect("a string"), Some(s))),
    ]
}

type Columns = std::collections::BTreeMap<String, (String, Option<String>)>;

fn columns() -> impl Strategy<Value = Columns> {
    prop::collection::btree_map(any::<String>(), value(), 0..40)
}

fn table_name() -> impl Strategy<Value = TableName> {
    ("[^\0]{1,12}", "[^\0]{1,12}").prop_map(|(schema, name)| TableName::new(schema, name).expect("a name"))
}

fn texts(fields: &Fields<'_>) -> Vec<(String, Option<String>)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.as_text().map(str::to_owned))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_row_reads_as_it_was_written(
        table in table_name(),
        op in prop::sample::select(vec![Op::Insert, Op::Update, Op::Delete, Op::Truncate]),
        data in columns(),
        old_keys in columns(),
        position in any::<u64>(),
        micros in 0..4_000_000_000_000_000_i64,
    ) {
        let (position, time) = (Lsn::from_u64(position), Timestamp::from_micros(micros).expect("a time"));
        let mut lines = LineBuilder::new();
        lines.begin(&table, op);
        let json = |name: &str| serde_json::to_string(name).expect("a string");
        if op.has_data() {
            data.iter().for_each(|(name, (value, _))| lines.data_column(&json(name), value));
        }
        if op.has_old_keys() {
            old_keys.iter().for_each(|(name, (value, _))| lines.old_key(&json(name), value));
        }
        let line = lines.finish(position, time).expect("fits");
        prop_assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1, "one line");
        let Ok(Record::Row(row)) = Record::parse(line) else { panic!("a row") };
        let wanted = |columns: &Columns, has: bool| -> Vec<_> {
            columns.iter().filter(|_| has).map(|(name, (_, text))| (name.clone(), text.clone())).collect()
        };
        prop_assert_eq!(texts(&row.data), wanted(&data, op.has_data()));
        prop_assert_eq!(texts(&row.old_keys), wanted(&old_keys, op.has_old_keys()));
        prop_assert_eq!(TableName::from_archive(&row.table).ok(), Some(table));
        prop_assert_eq!((row.op, row.lsn, row.ts), (op, position, time));
    }

    /// serde_json keeps each value's own text (`RawValue`): reading that must give what our scanner gave.
    #[test]
    fn the_scanner_reads_values_as_serde_json_does(data in columns()) {
        let members: Vec<_> = data
            .iter()
            .map(|(name, (value, _))| format!("{}:{value}", serde_json::to_string(name).expect("a string")))
            .collect();
        let object = format!("{{{}}}", members.join(" , "));
        let line = INSERT.replace(r#"{"id":1,"name":"John"}"#, &object);
        let oracle: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(&object).expect("JSON");
        for ((name, value), (wanted_name, raw)) in row(&line).data.iter().zip(&oracle) {
            prop_assert_eq!(name, wanted_name);
            match value {
                Value::Text(text) => {
                    let wanted: String = serde_json::from_str(raw.get()).expect("a string");
                    prop_assert_eq!(text.as_ref(), wanted);
                }
                Value::Null => prop_assert_eq!(raw.get(), "null"),
                Value::Bool(_) => prop_assert_eq!(value.as_text(), raw.get().get(..1)),
                Value::Number(_) => prop_assert_eq!(value.as_text(), Some(raw.get())),
            }
        }
    }
}
