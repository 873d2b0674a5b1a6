use serde_json::{Value, json};

use super::sample::{gap_alone, lsn, segment, table, users};
use super::*;

fn document(manifest: &Manifest) -> Value {
    serde_json::from_slice(&manifest.encode()).expect("JSON")
}

fn decode(document: &Value) -> Result<Manifest> {
    Manifest::decode(&json::encode(document))
}

#[test]
fn reads_what_it_writes() {
    let (_, mut manifest) = segment();
    assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest.clone()));
    manifest.gaps = vec![Gap {
        from: lsn("0/16B3D00"),
        to: lsn("0/16B3D40"),
        reason: "no tuple identifier".into(),
        tables: Some(vec![table("users")]),
    }];
    assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest));
    let gap = gap_alone(1, None, "0/10", "0/20");
    assert_eq!(Manifest::decode(&gap.encode()).ok(), Some(gap));
}

#[test]
fn fields_stand_in_the_order_of_the_format_page() {
    let (_, manifest) = segment();
    let text = String::from_utf8(manifest.encode()).expect("UTF-8");
    let fields = "format archive_id seq previous file bytes sha256 content_bytes content_sha256 records transactions \
                  tables start_lsn end_lsn first_ts last_ts min_xid max_xid source capture relations created_at \
                  archiver";
    let mut rest = text.as_str();
    for field in fields.split_ascii_whitespace() {
        let at = rest.find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{field} is not in {rest}"));
        rest = &rest[at..];
    }
    assert!(text.starts_with("{\"format\":1,") && text.ends_with("}\n") && !text.contains("gaps"));
    assert!(text.contains(
        r#""columns":[{"name":"id","type":"bigint","not_null":true,"identity":"always"},{"name":"name","type":"text","not_null":false}],"key":["id"],"replica_identity":"default","fingerprint":"#
    ));
}

#[test]
fn a_gap_alone_has_none_of_the_file_s_fields() {
    let document = document(&gap_alone(1, None, "0/10", "0/20"));
    for field in
        ["file", "bytes", "sha256", "content_bytes", "content_sha256", "first_ts", "last_ts", "min_xid"]
    {
        assert_eq!(document.get(field), None, "{field}");
    }
    assert_eq!(document["gaps"], json!([{"from":"0/10","to":"0/20","reason":"the slot was recreated"}]));
    assert_eq!((&document["records"], &document["previous"]), (&json!(0), &Value::Null));
}

#[test]
fn unknown_fields_are_ignored_at_every_level() {
    let (_, manifest) = segment();
    let mut document = document(&manifest);
    document["later"] = json!({"a": [1.5, {"b": null}]});
    document["source"]["later"] = json!(1);
    document["relations"]["users"]["columns"][0]["later"] = json!(1);
    document["tables"]["users"]["later"] = json!(1);
    assert_eq!(decode(&document).ok(), Some(manifest));
}

#[test]
fn a_future_format_is_refused_by_name_whatever_else_is_in_it() {
    let error = Manifest::decode(b"{\"format\":2,\"rows\":[]}\n").expect_err("refused").report();
    assert!(error.contains("the manifest has format 2; this program reads format 1"), "{error}");
    assert!(error.contains("hint: install a version"), "{error}");
}

#[test]
fn a_key_that_stands_twice_is_refused_at_every_level() {
    let (_, manifest) = segment();
    let text = String::from_utf8(manifest.encode()).expect("UTF-8");
    for (once, twice) in [
        ("\"seq\":2,", "\"seq\":2,\"seq\":2,"),
        ("\"insert\":2,", "\"insert\":2,\"insert\":2,"),
        ("\"users\":{\"insert\"", "\"users\":{},\"users\":{\"insert\""),
        ("\"database\":\"app\",", "\"database\":\"app\",\"data\\u0062ase\":\"app\","),
        ("\"records\":5,", "\"records\":5,\"x\":{\"y\":1,\"y\":2},"),
        ("\"name\":\"id\",", "\"name\":\"id\",\"name\":\"id\","),
    ] {
        assert!(text.contains(once), "{once}");
        let error = Manifest::decode(text.replacen(once, twice, 1).as_bytes()).expect_err(twice).report();
        assert!(error.contains("twice in one object"), "{error}");
    }
}

/// Each case changes one field of a sound manifest.
#[test]
fn refuses_what_contradicts_itself() {
    let (_, sound) = segment();
    let fake = "0".repeat(64);
    for (pointer, value, says) in [
        ("/seq", json!(0), "segment number"),
        ("/seq", json!(10_000_000_000_u64), "segment number"),
        ("/seq", json!(-1), "invalid value"),
        ("/seq", json!(3), "segment 0000000003 says that it follows 0000000001"),
        ("/previous", Value::Null, "names no segment before it"),
        ("/previous/seq", json!(7), "says that it follows 0000000007"),
        ("/previous/sha256", json!("ABC"), "SHA-256"),
        ("/file", json!("../0000000002-00000000016B3D40.jsonl.zst"), "beside this manifest lies"),
        ("/file", json!("/etc/passwd"), "beside this manifest lies"),
        ("/file", json!("0000000002-00000000016B3D40.jsonl.zst\0"), "beside this manifest lies"),
        ("/file", json!("0000000003-00000000016B3D40.jsonl.zst"), "beside this manifest lies"),
        ("/file", Value::Null, "some are there and some are not"),
        ("/content_sha256", Value::Null, "some are there and some are not"),
        ("/last_ts", Value::Null, "some are there and some are not"),
        ("/max_xid", json!(4_294_967_296_u64), "invalid value"),
        ("/max_xid", json!(1), "min_xid 751 is above max_xid 1"),
        ("/first_ts", json!("2027-01-01T00:00:00Z"), "is later than last_ts"),
        ("/first_ts", json!("yesterday"), "a time like"),
        ("/bytes", json!(-1), "invalid value"),
        ("/bytes", json!(1.5), "invalid type"),
        ("/records", json!(6), "records is 6, the counts of its tables add up to 5"),
        ("/tables/users/insert", json!(u64::MAX), "add up to"),
        ("/transactions", json!(0), "without a transaction"),
        ("/start_lsn", json!("1/0"), "is after end_lsn"),
        ("/end_lsn", json!("0/16B3D41"), "beside this manifest lies"),
        ("/tables", json!({"Users": {"insert":5,"update":0,"delete":0,"truncate":0}}), "a table name"),
        ("/capture", json!(["public.users"]), "a table name"),
        ("/relations/users/fingerprint", json!(fake), "relation users: the fingerprint does not fit"),
        ("/relations/users/columns/0/type", json!("int"), "relation users: the fingerprint does not fit"),
        ("/relations/users/replica_identity", json!("none"), "unknown variant"),
        ("/archive_id", json!("x"), "\"x\" cannot be read"),
        ("/end_lsn", json!("0/016b3d40"), "is not written \"0/16B3D40\""),
        ("/gaps", json!([{"from":"0/2","to":"0/1","reason":"r"}]), "a gap from 0/2 to 0/1"),
        ("/gaps", json!([{"from":"0/2","to":"0/2","reason":"r"}]), "a gap from 0/2 to 0/2"),
        ("/gaps", json!([{"from":"0/2","to":"1/0","reason":"r"}]), "a gap up to 1/0"),
        ("/gaps", json!([{"from":"0/1","to":"0/2","reason":"r","tables":[]}]), "concerns no table"),
        ("/gaps", json!([{"from":"0/1","to":"0/2"}]), "missing field `reason`"),
    ] {
        let mut document = document(&sound);
        match document.pointer_mut(pointer) {
            Some(field) => *field = value.clone(),
            None => document[&pointer[1..]] = value.clone(),
        }
        let error = decode(&document).expect_err(pointer).report();
        assert!(error.contains(says), "{pointer} = {value}: {says:?} is not in {error}");
    }
}

#[test]
fn refuses_a_gap_alone_that_contradicts_itself() {
    let sound = gap_alone(1, None, "0/10", "0/20");
    for (field, value, says) in [
        ("gaps", json!([]), "neither a change file nor a gap"),
        ("end_lsn", json!("0/30"), "a gap alone that ends at 0/20"),
        ("transactions", json!(1), "0 records in 1 transactions without a change file"),
        ("file", json!("x"), "some are there"),
    ] {
        let mut document = document(&sound);
        document[field] = value;
        let error = decode(&document).expect_err(field).report();
        assert!(error.contains(says), "{says:?} is not in {error}");
    }
    let mut half = document(&sound);
    for (field, value) in [
        ("first_ts", json!("2026-02-05T10:32:00Z")),
        ("last_ts", json!("2026-02-05T10:32:00Z")),
        ("min_xid", json!(1)),
        ("max_xid", json!(1)),
    ] {
        half[field] = value;
    }
    assert!(decode(&half).expect_err("a span without a file").report().contains("come together"));
}

#[test]
fn every_field_is_needed() {
    let (_, manifest) = segment();
    let sound = document(&manifest);
    for field in sound.as_object().expect("an object").keys() {
        let mut document = sound.clone();
        document.as_object_mut().expect("an object").remove(field);
        assert!(decode(&document).is_err(), "accepted a manifest without {field}");
    }
}

#[test]
fn refuses_every_truncation_and_what_stands_around_it() {
    let (_, manifest) = segment();
    let bytes = manifest.encode();
    for length in 0..bytes.len() {
        assert!(Manifest::decode(&bytes[..length]).is_err(), "accepted {length} bytes");
    }
    let crlf = String::from_utf8(bytes.clone()).expect("UTF-8").replace('\n', "\r\n").into_bytes();
    let bom = [b"\xEF\xBB\xBF", &bytes[..]].concat();
    for other in [crlf, bom, [&bytes[..], b"\0\0"].concat(), [&bytes[..], &bytes].concat(), vec![0; 512]] {
        assert!(Manifest::decode(&other).is_err());
    }
    let deep = format!("{{\"format\":1,\"x\":{}", "[".repeat(100_000));
    assert!(Manifest::decode(deep.as_bytes()).is_err());
    assert!(Manifest::decode(&vec![b' '; Document::Manifest.bytes_max() + 1]).is_err());
}

/// A flip may make another sound manifest (a digit of a date, a letter of a name). Such a one never has the
/// SHA-256 by which the next manifest, head.json or a checkpoint names it: either decoding or that link refuses it.
#[test]
fn every_flipped_bit_is_refused_by_decoding_or_by_the_link() {
    let (_, manifest) = segment();
    let bytes = manifest.encode();
    let named = Digest::of(&bytes);
    let mut by_decoding = 0;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match Manifest::decode(&flipped) {
            Err(_) => by_decoding += 1,
            Ok(_) => assert_ne!(Digest::of(&flipped), named, "bit {bit}"),
        }
    }
    assert!(by_decoding > bytes.len() * 4, "decoding alone refuses most: {by_decoding}");
}

#[test]
fn a_fingerprint_tells_every_fact_apart() {
    let base = users();
    let of = |change: &dyn Fn(&mut Relation)| {
        let mut relation = base.clone();
        change(&mut relation);
        relation.fingerprint_of()
    };
    let prints = [
        of(&|_| {}),
        of(&|r| r.columns[0].name = "ID".into()),
        of(&|r| r.columns[0].type_name = "integer".into()),
        of(&|r| r.columns[0].not_null = false),
        of(&|r| r.columns[0].identity = None),
        of(&|r| r.columns[0].identity = Some(Identity::ByDefault)),
        of(&|r| r.columns[1].generated = Some(Generated::Stored)),
        of(&|r| r.columns[1].generated = Some(Generated::Virtual)),
        of(&|r| r.columns.reverse()),
        of(&|r| r.key.clear()),
        of(&|r| r.key.push("name".into())),
        of(&|r| r.replica_identity = ReplicaIdentity::Full),
        of(&|r| r.columns[1].type_name = "text\" not null".into()),
        of(&|r| r.columns[1].not_null = true),
    ];
    assert_eq!(prints[0], base.fingerprint);
    let different: std::collections::HashSet<_> = prints.iter().collect();
    assert_eq!(different.len(), prints.len());
    // As the format page has it, so that a stranger's program finds the same.
    let text = "column \"id\" \"bigint\" not null identity always\ncolumn \"name\" \"text\"\nkey \"id\"\nreplica identity default\n";
    assert_eq!(base.fingerprint, Digest::of(text.as_bytes()));
}

#[test]
fn counts_add_up_without_overflow() {
    let counts = OpCounts { insert: u64::MAX, update: 1, delete: 1, truncate: 1 };
    assert_eq!(counts.total(), u64::MAX);
}

/// `users` with all that a catalog says.
fn described() -> Relation {
    let mut columns = users().columns;
    for (column, attnum) in columns.iter_mut().zip([1, 4]) {
        column.attnum = Some(attnum);
    }
    columns.push(Column {
        name: "mood".into(),
        type_name: "public.mood".into(),
        attnum: Some(5),
        missing: Some("so-so \"\\ ü".into()),
        default: Some("'so-so'::public.mood".into()),
        ..Column::default()
    });
    let types = BTreeMap::from([("public.mood".into(), vec!["sad".into(), "so-so \"\\ ü".into()])]);
    Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, types)
}

#[test]
fn columns_of_the_past_are_read_as_they_are_written() {
    let (_, mut manifest) = segment();
    manifest.relations.insert(table("users"), described());
    manifest.source.kind = SourceKind::Triggers;
    manifest.source.order = Some(Order::Batch);
    manifest.source.batch = Some(Batch { snapshot: "754:760:757".into(), wal_lsn: lsn("0/16B3D00") });
    manifest.capture_since = BTreeMap::from([
        (table("users"), Since { lsn: lsn("0/16B3D00"), empty: true }),
        (table("sales.orders"), Since { lsn: lsn("0/16B3D40"), empty: false }),
    ]);
    let bytes = manifest.encode();
    assert_eq!(Manifest::decode(&bytes).ok(), Some(manifest));
    let text = String::from_utf8(bytes).expect("UTF-8");
    for written in [
        r#"{"name":"name","type":"text","not_null":false,"attnum":4}"#,
        r#""attnum":5,"missing":"so-so \"\\ ü","default":"'so-so'::public.mood"}]"#,
        r#""types":{"public.mood":["sad","so-so \"\\ ü"]},"fingerprint_version":2,"fingerprint":"#,
        r#""capture_since":{"users":{"lsn":"0/16B3D00","empty":true},"sales.orders":{"lsn":"0/16B3D40","empty":false}},"relations":"#,
        r#""source":{"kind":"triggers","system_identifier""#,
        r#""degraded":[],"order":"batch","batch":{"snapshot":"754:760:757","wal_lsn":"0/16B3D00"}}"#,
    ] {
        assert!(text.contains(written), "{written} is not in {text}");
    }
}

#[test]
fn refuses_facts_that_nothing_vouches_for() {
    let (_, mut sound) = segment();
    sound.relations.insert(table("users"), described());
    sound.capture_since.insert(table("users"), Since { lsn: lsn("0/16B3D00"), empty: true });
    for (pointer, value, says) in [
        ("/relations/users/fingerprint_version", Value::Null, "invalid type"),
        ("/relations/users/fingerprint_version", json!(1), "fingerprint_version 1: this program knows 2"),
        ("/relations/users/fingerprint_version", json!(3), "install a newer version"),
        ("/relations/users/columns/1/attnum", json!(5), "the fingerprint does not fit"),
        ("/relations/users/columns/1/attnum", json!(-1), "invalid value"),
        ("/relations/users/columns/1/attnum", json!(70_000), "invalid value"),
        ("/relations/users/columns/2/missing", Value::Null, "the fingerprint does not fit"),
        ("/relations/users/columns/2/missing", json!(1), "invalid type"),
        ("/relations/users/columns/2/default", json!("now()"), "the fingerprint does not fit"),
        ("/relations/users/types/public.mood", json!([]), "the fingerprint does not fit"),
        ("/relations/users/types", json!({}), "the fingerprint does not fit"),
        ("/capture_since/users/lsn", json!("0/16b3d00"), "is not written"),
        ("/capture_since/users/lsn", json!("0/16B3D41"), "past end_lsn"),
        ("/capture_since/users/empty", json!(1), "invalid type"),
        ("/capture_since", json!({"other": {"lsn":"0/1","empty":true}}), "which is not captured"),
        ("/source/kind", json!("oracle"), "unknown variant"),
        // The first one is not written, so that there is one spelling.
        ("/source/kind", json!("wal2json"), "unknown variant"),
    ] {
        let mut document = document(&sound);
        match document.pointer_mut(pointer) {
            Some(field) => *field = value.clone(),
            None => document["source"]["kind"] = value.clone(),
        }
        let error = decode(&document).expect_err(pointer).report();
        assert!(error.contains(says), "{pointer} = {value}: {says:?} is not in {error}");
    }
    let mut document = document(&sound);
    document["relations"]["users"].as_object_mut().expect("an object").remove("fingerprint_version");
    let error = decode(&document).expect_err("the first version").report();
    assert!(error.contains("more than a fingerprint of the first version covers"), "{error}");
}

#[test]
fn a_fingerprint_of_the_second_version_tells_every_fact_apart() {
    let base = described();
    let of = |change: &dyn Fn(&mut Relation)| {
        let mut relation = base.clone();
        change(&mut relation);
        relation.fingerprint_of()
    };
    let prints = [
        of(&|_| {}),
        of(&|r| r.columns[1].attnum = None),
        of(&|r| r.columns[1].attnum = Some(2)),
        of(&|r| r.columns[2].missing = None),
        of(&|r| r.columns[2].missing = Some(String::new())),
        of(&|r| r.columns[2].default = None),
        of(&|r| r.columns[2].default = r.columns[2].missing.take()),
        of(&|r| r.types.clear()),
        of(&|r| r.types.values_mut().for_each(|labels| labels.reverse())),
        of(&|r| r.types.values_mut().for_each(Vec::clear)),
        of(&|r| r.types = BTreeMap::from([("mood".into(), vec!["sad".into(), "so-so \"\\ ü".into()])])),
    ];
    assert_eq!(prints[0], base.fingerprint);
    let different: std::collections::HashSet<_> = prints.iter().collect();
    assert_eq!(different.len(), prints.len());
    // As the format page has it.
    let text = "column \"id\" \"bigint\" not null identity always attnum 1\n\
                column \"name\" \"text\" attnum 4\n\
                column \"mood\" \"public.mood\" attnum 5 missing \"so-so \\\"\\\\ ü\" default \"'so-so'::public.mood\"\n\
                type \"public.mood\" \"sad\" \"so-so \\\"\\\\ ü\"\nkey \"id\"\nreplica identity default\n";
    assert_eq!(base.fingerprint, Digest::of(text.as_bytes()));
}

proptest::proptest! {
    /// Whatever names, values and labels are: they come back, and no bit of the document can change unseen.
    #[test]
    fn any_facts_come_back_and_no_flipped_bit_leaves_them(
        names in proptest::collection::vec(("\\PC{1,12}", proptest::option::of(1_u16..1700),
            proptest::option::of(".{0,12}"), proptest::option::of("\\PC{0,12}")), 0..5),
        labels in proptest::collection::vec("\\PC{1,6}", 0..4),
        bit in proptest::prelude::any::<proptest::sample::Index>(),
    ) {
        let columns = names.into_iter().map(|(name, attnum, missing, default)| {
            Column { name, type_name: "text".into(), attnum, missing, default, ..Column::default() }
        });
        let types = BTreeMap::from([("mood".into(), labels)]);
        let relation = Relation::described(columns.collect(), vec![], ReplicaIdentity::Full, types);
        let (_, mut manifest) = segment();
        manifest.relations.insert(table("users"), relation);
        let mut bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).ok().as_ref(), Some(&manifest));
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = Manifest::decode(&bytes) {
            // A fingerprint covers its relation; all else has another digest than the one that names the manifest.
            let name = table("users");
            assert!(other.relations.get(&name).is_none_or(|found| Some(found) == manifest.relations.get(&name)));
            assert_ne!(Digest::of(&bytes), Digest::of(&manifest.encode()));
        }
    }
}
