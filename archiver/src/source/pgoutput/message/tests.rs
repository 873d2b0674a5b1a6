use super::*;

/// A message as the server builds it.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn kind(kind: u8) -> Bytes {
        Bytes(vec![kind])
    }

    fn raw(mut self, bytes: &[u8]) -> Bytes {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(self, number: u16) -> Bytes {
        self.raw(&number.to_be_bytes())
    }

    fn u32(self, number: u32) -> Bytes {
        self.raw(&number.to_be_bytes())
    }

    fn u64(self, number: u64) -> Bytes {
        self.raw(&number.to_be_bytes())
    }

    fn name(self, name: &str) -> Bytes {
        self.raw(name.as_bytes()).raw(&[0])
    }

    fn text(self, text: &str) -> Bytes {
        let length = u32::try_from(text.len()).expect("short");
        self.raw(b"t").u32(length).raw(text.as_bytes())
    }
}

/// Columns with their types; those in front of the bar are the key.
fn relation(keys: &[(&str, u32)], others: &[(&str, u32)]) -> Vec<u8> {
    let count = u16::try_from(keys.len() + others.len()).expect("few");
    let mut bytes = Bytes::kind(b'R').u32(7).name("public").name("it's \"t\"").raw(b"d").u16(count);
    for (flag, columns) in [(1, keys), (0, others)] {
        for (name, type_oid) in columns {
            bytes = bytes.raw(&[flag]).name(name).u32(*type_oid).u32(u32::MAX);
        }
    }
    bytes.0
}

fn known(bytes: &[u8]) -> Relations {
    let mut relations = Relations::default();
    let Ok(Message::Relation(oid, relation)) = Message::parse(bytes) else { panic!("not a relation") };
    relations.learn(oid, relation);
    relations
}

fn read(relations: &Relations, row: &[u8]) -> Result<Vec<(Part, String, String)>> {
    let Message::Row { action, relation, old, new } = Message::parse(row)? else { panic!("not a row") };
    let row = relations.get(relation)?.row(action, old, new)?;
    let mut all = Vec::new();
    row.each(|part, column| all.push((part, column.name.to_owned(), column.value.into_owned())))?;
    Ok(all)
}

fn said(part: Part, name: &str, value: &str) -> (Part, String, String) {
    (part, format!("\"{name}\""), value.to_owned())
}

#[test]
fn a_transaction_has_its_times_and_places() {
    let begin = Bytes::kind(b'B').u64(0x20).u64(1).u32(754).0;
    let Ok(Message::Begin(begin)) = Message::parse(&begin) else { panic!("not a begin") };
    assert_eq!((begin.xid, begin.lsn), (754, Lsn::from_u64(0x20)));
    assert_eq!(begin.committed_at.to_string(), "2000-01-01T00:00:00.000001Z");
    let commit = Bytes::kind(b'C').raw(&[0]).u64(0x20).u64(0x28).u64(1).0;
    let Ok(Message::Commit { lsn, end_lsn, committed_at }) = Message::parse(&commit) else {
        panic!("not a commit")
    };
    let whole = Message::committed(begin, lsn, end_lsn, committed_at).expect("its own");
    assert_eq!(whole.end_lsn, Lsn::from_u64(0x28));
    assert!(Message::committed(begin, end_lsn, end_lsn, committed_at).is_err());
}

#[test]
fn values_travel_digit_for_digit() {
    for (type_oid, printed, ours) in [
        (1700, "1.1000000000", "1.1000000000"),
        (701, "1e-310", "1e-310"),
        (701, "-0", "-0"),
        (701, "NaN", r#""NaN""#),
        (700, "-Infinity", r#""-Infinity""#),
        (20, "-9223372036854775808", "-9223372036854775808"),
        (17, "\\x00ff", r#""\\x00ff""#),
        (16, "t", "true"),
        (16, "f", "false"),
        (25, "17", r#""17""#),
        (25, "a\"b\\c]}\u{1}\t\n\r\u{8}\u{c}\u{7f}ü", "\"a\\\"b\\\\c]}\\u0001\\t\\n\\r\\b\\f\u{7f}ü\""),
        (16400, "7", r#""7""#),
    ] {
        let relations = known(&relation(&[], &[("c", type_oid)]));
        let row = Bytes::kind(b'I').u32(7).raw(b"N").u16(1).text(printed).0;
        assert_eq!(read(&relations, &row).expect("a row"), [said(Part::Columns, "c", ours)], "{printed}");
        let null = Bytes::kind(b'I').u32(7).raw(b"N").u16(1).raw(b"n").0;
        assert_eq!(read(&relations, &null).expect("a row"), [said(Part::Columns, "c", "null")]);
    }
}

#[test]
fn an_update_says_its_old_key_whether_that_moved_or_not() {
    let relations = known(&relation(&[("id", 23)], &[("n", 25), ("long", 25)]));
    let new = |bytes: Bytes| bytes.raw(b"N").u16(3).text("2").raw(b"n").raw(b"u");
    let columns = [said(Part::Columns, "id", "2"), said(Part::Columns, "n", "null")];
    let stays = new(Bytes::kind(b'U').u32(7)).0;
    let stayed = [&columns[..], &[said(Part::Identity, "id", "2")]].concat();
    assert_eq!(read(&relations, &stays).expect("a row"), stayed);
    let moves = new(Bytes::kind(b'U').u32(7).raw(b"K").u16(3).text("1").raw(b"nn")).0;
    let moved = [&columns[..], &[said(Part::Identity, "id", "1")]].concat();
    assert_eq!(read(&relations, &moves).expect("a row"), moved);
    let delete = Bytes::kind(b'D').u32(7).raw(b"K").u16(3).text("1").raw(b"nn").0;
    assert_eq!(read(&relations, &delete).expect("a row"), [said(Part::Identity, "id", "1")]);
    let no_key = Bytes::kind(b'U').u32(7).raw(b"N").u16(3).raw(b"unn").0;
    assert!(read(&relations, &no_key).is_err(), "the key was not sent");
}

#[test]
fn names_are_json() {
    let relations = known(&relation(&[], &[]));
    let relation = relations.get(7).expect("described");
    assert_eq!((relation.schema.as_str(), relation.table.as_str()), ("\"public\"", "\"it's \\\"t\\\"\""));
    assert!(relations.get(8).is_err());
}

#[test]
fn every_cut_of_a_message_is_refused() {
    let row = Bytes::kind(b'U').u32(7).raw(b"K").u16(1).text("1").raw(b"N").u16(1).text("ü").0;
    for whole in [
        row,
        relation(&[("id", 23)], &[("n", 25)]),
        Bytes::kind(b'B').u64(1).u64(1).u32(1).0,
        Bytes::kind(b'C').raw(&[0]).u64(1).u64(1).u64(1).0,
        Bytes::kind(b'T').u32(2).raw(&[0]).u32(7).u32(8).0,
    ] {
        assert!(Message::parse(&whole).is_ok());
        let relations = known(&relation(&[("id", 23)], &[]));
        for end in 0..whole.len() {
            let cut = match Message::parse(&whole[..end]) {
                // Without its last tuple it is another row, and none of an update.
                Ok(Message::Row { action, relation, old, new }) => {
                    relations.get(relation).and_then(|known| known.row(action, old, new)).is_err()
                }
                message => message.is_err(),
            };
            assert!(cut, "accepted {:?}", &whole[..end]);
        }
        assert!(Message::parse(&[&whole[..], b"x"].concat()).is_err());
    }
    assert!(Message::parse(b"Z").is_err());
}

/// Whatever a server sends is understood whole or refused, and what is taken of a row is JSON.
#[test]
fn fuzz_pgoutput() {
    let column = |name: &str, is_key, printing| Described { name: quoted(name), is_key, printing };
    let columns = vec![
        column("id", true, Printing::Number),
        column("name", false, Printing::Text),
        column("ok", false, Printing::Boolean),
    ];
    let relation = Relation { schema: quoted("public"), table: quoted("users"), columns };
    syncdata_fuzz::replay("pgoutput", |bytes| match Message::parse(bytes) {
        Ok(Message::Row { action, old, new, .. }) => relation
            .row(action, old, new)
            .and_then(|tuples| {
                tuples.each(|_, column| {
                    let is_json =
                        |text: &str| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
                    assert!(is_json(column.name) && is_json(&column.value), "{}", column.value);
                })
            })
            .is_ok(),
        other => other.is_ok(),
    });
}
