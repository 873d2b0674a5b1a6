use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::manifest::{Column, Generated, Manifest, Relation, ReplicaIdentity, sample as segments};

fn relation(columns: &[(&str, &str)], key: &[&str]) -> Relation {
    let column = |(name, type_name): &(&str, &str)| Column {
        name: (*name).into(),
        type_name: (*type_name).into(),
        ..Column::default()
    };
    let key = key.iter().map(|name| (*name).to_owned()).collect();
    Relation::new(columns.iter().map(column).collect(), key, ReplicaIdentity::Default)
}

fn digest(relation: &Relation, k: u8, rows: &[u8]) -> Buckets {
    let mut digester = Digester::new(Layout::of(relation), k);
    digester.push(rows).expect("rows");
    digester.finish().expect("whole rows")
}

#[test]
fn a_bucket_is_what_the_format_page_says() {
    let relation = relation(&[("id", "integer"), ("name", "text"), ("note", "text")], &["id"]);
    let buckets = digest(&relation, 3, b"7\tJos\xC3\xA9\\n\t\\N\n");
    let key = [&[1, 0, 0, 0, 1][..], b"7"].concat();
    let image = [&key[..], &[1, 0, 0, 0, 6], "José\n".as_bytes(), &[0]].concat();
    let sum = u128::from_be_bytes(Sha256::digest(&image)[..16].try_into().expect("16 bytes"));
    let place = u32::from(Sha256::digest(&key)[0] >> 5);
    assert_eq!(buckets.get(place), (1, sum));
    assert_eq!(buckets.rows(), 1);
}

#[test]
fn null_empty_and_their_neighbours_are_told_apart() {
    let relation = relation(&[("a", "text"), ("b", "text")], &[]);
    let rows: [&[u8]; 8] =
        [b"\t\n", b"\\N\t\n", b"\t\\N\n", b"\\N\t\\N\n", b"ab\tc\n", b"a\tbc\n", b"\\\\N\t\n", b"\\t\t\n"];
    let digests: Vec<_> = rows.iter().map(|row| digest(&relation, 0, row).get(0)).collect();
    for (place, one) in digests.iter().enumerate() {
        assert_eq!(digests.iter().filter(|other| *other == one).count(), 1, "{place}");
    }
}

#[test]
fn two_rows_that_are_the_same_do_not_cancel_each_other() {
    let relation = relation(&[("a", "text")], &[]);
    assert_ne!(digest(&relation, 4, b"x\nx\n"), digest(&relation, 4, b""));
    assert_ne!(digest(&relation, 4, b"x\nx\n"), digest(&relation, 4, b"y\ny\n"));
    assert_ne!(digest(&relation, 4, b"x\n"), digest(&relation, 4, b"x\nx\nx\n"));
}

#[test]
fn rows_without_a_key_are_placed_by_all_they_have() {
    let columns = [("id", "integer"), ("a", "text")];
    let mut generated = relation(&columns, &["id"]);
    generated.columns[0].generated = Some(Generated::Stored);
    let strange = relation(&[("id", "regclass"), ("a", "text")], &["id"]);
    for (relation, compared, is_key) in [
        (relation(&columns, &["id"]), &["id", "a"][..], &[true, false][..]),
        (relation(&columns, &["a", "id"]), &["id", "a"], &[true, true]),
        (relation(&columns, &[]), &["id", "a"], &[false, false]),
        (generated, &["a"], &[false]),
        (strange, &["a"], &[false]),
    ] {
        let layout = Layout::of(&relation);
        assert_eq!(layout.columns, compared);
        assert_eq!(layout.is_key, is_key);
    }
}

#[test]
fn what_is_computed_has_a_sum_of_its_own() {
    let mut relation = relation(&[("id", "integer"), ("k", "text"), ("m", "money"), ("s", "text")], &["id"]);
    for (place, kind) in [(1, Generated::Virtual), (2, Generated::Virtual), (3, Generated::Stored)] {
        relation.columns[place].generated = Some(kind);
    }
    let layout = Layout::of(&relation);
    assert_eq!(layout.computed, ["k", "s"].map(|name| (name.to_owned(), "text".to_owned())));
    assert_eq!(layout.generated, ["k", "m", "s"]);
    assert_eq!((&layout.unsummed[..], &layout.not_comparable[..]), (&["m".to_owned()][..], &[][..]));
    let sums = |rows: &[u8]| {
        let mut digester = Digester::new(layout.clone(), 0).with_computed(&["k".to_owned()]);
        digester.push(rows).expect("rows");
        let computed = digester.computed();
        (digester.finish().expect("whole rows").get(0), computed["k"])
    };
    let (rows, sum) = sums(b"1\ta\n2\tb\n");
    assert_eq!(rows, digest(&relation, 0, b"1\n2\n").get(0), "the image of a row is what it was");
    assert_eq!((rows, sum), sums(b"2\tb\n1\ta\n"), "in any order");
    for other in [&b"1\tb\n2\ta\n"[..], b"1\ta\n2\t\n", b"1\ta\n2\t\\N\n", b"1\ta\n2\tB\n"] {
        assert!(sums(other).0 == rows && sums(other).1 != sum, "{other:?}");
    }
}

#[test]
fn a_computed_column_with_what_the_stream_cannot_say_has_no_sum() {
    let mut relation = relation(&[("id", "integer"), ("n", "numeric"), ("t", "text")], &["id"]);
    for place in [1, 2] {
        relation.columns[place].generated = Some(Generated::Stored);
    }
    let names = |rows: &[u8], is_degraded: bool| {
        let digester =
            Digester::new(Layout::of(&relation), 0).with_computed(&["n".to_owned(), "t".to_owned()]);
        let mut digester = if is_degraded { digester.looking_for_nan() } else { digester };
        digester.push(rows).expect("rows");
        assert_eq!(digester.with_nan(), Vec::<String>::new(), "the row's image has no such column");
        digester.computed().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(names(b"1\t2.5\tNaN\n", true), ["n", "t"]);
    for odd in ["NaN", "Infinity", "-Infinity"] {
        let rows = format!("1\t{odd}\ta\n2\t1\tb\n");
        assert_eq!(names(rows.as_bytes(), true), ["t"]);
        assert_eq!(names(rows.as_bytes(), false), ["n", "t"]);
    }
}

#[test]
fn a_row_that_refers_to_nothing_is_told_by_its_key_and_its_reference() {
    let columns = [("id", "integer"), ("customer", "integer"), ("note", "text"), ("price", "money")];
    for (key, refers, told) in [
        (&["id"][..], &["customer"][..], &["id", "customer"][..]),
        (&["id"], &["id"], &["id"]),
        (&["id"], &["price"], &["id"]),
        (&[], &["customer"], &["id", "customer", "note"]),
        (&["price"], &["customer"], &["id", "customer", "note"]),
    ] {
        let refers: Vec<String> = refers.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(Layout::of(&relation(&columns, key)).columns_of_reference(&refers), told, "{key:?}");
    }
}

#[test]
fn nan_is_seen_in_columns_of_numbers_alone() {
    let columns =
        [("id", "integer"), ("a", "numeric(12,2)"), ("b", "real"), ("c", "text"), ("d", "numeric[]")];
    let layout = Layout::of(&relation(&columns, &["id"]));
    let rows: [&[u8]; 3] = [b"1\t1\t-Infinity\tNaN\t{NaN}\n", b"2\t\\N\t2\tNaN\tNaN\n", b"3\tNaN\t1\t\t{}\n"];
    let mut digester = Digester::new(layout.clone(), 0).looking_for_nan();
    for (row, with_nan) in rows.iter().zip([&["b"][..], &["b"], &["a", "b"]]) {
        digester.push(row).expect("a row");
        assert_eq!(digester.with_nan(), with_nan);
    }
    let mut other = Digester::new(layout, 0);
    other.push(rows[2]).expect("a row");
    assert!(other.with_nan().is_empty(), "nobody asked");
}

#[test]
fn rows_that_are_none_are_refused() {
    let relation = relation(&[("a", "text"), ("b", "text")], &[]);
    for (rows, says) in [
        (&b"1\n"[..], "fewer columns"),
        (b"1\t2\t3\n", "more columns"),
        (b"1\t2", "within a row"),
        (b"1\t\\x41\n", "escape"),
        (b"1\t\\\n", "escape"),
        (b"\n", "fewer columns"),
    ] {
        let mut digester = Digester::new(Layout::of(&relation), 0);
        let error = digester.push(rows).and_then(|()| digester.finish()).expect_err("refused").report();
        assert!(error.contains(says), "{rows:?}: {error}");
    }
    let nothing = self::relation(&[("a", "money")], &[]);
    assert_eq!(digest(&nothing, 0, b"\n\n").rows(), 2);
}

#[test]
fn about_a_thousand_rows_share_a_bucket() {
    for (rows, k) in [(0, 0), (1, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (1 << 20, 11)] {
        assert_eq!(Buckets::k_for(rows), k, "{rows}");
    }
    assert_eq!(Buckets::k_for(1 << 50), 20);
    assert_eq!(Buckets::k_for(u64::MAX), 20);
}

#[test]
fn a_file_of_buckets_is_read_whole_or_refused() {
    let file = sample::buckets().encode().expect("zstd");
    let table = sample::proved(&file);
    assert_eq!(Buckets::decode(&table, &file).ok(), Some(sample::buckets()));
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Buckets::decode(&table, &flipped).is_err(), "bit {bit}");
        // Another digest in the manifest does not make it sound: the frame has its own checksum, and counts add up.
        let vouched = ProvedTable { sha256: Digest::of(&flipped), ..table.clone() };
        if let Ok(other) = Buckets::decode(&vouched, &flipped) {
            assert_eq!(other, sample::buckets(), "bit {bit}");
        }
    }
    for length in 0..file.len() {
        let cut = &file[..length];
        assert!(Buckets::decode(&table, cut).is_err(), "{length} bytes");
        let vouched = ProvedTable { bytes: length as u64, sha256: Digest::of(cut), ..table.clone() };
        assert!(Buckets::decode(&vouched, cut).is_err(), "{length} bytes, vouched for");
    }
    let twice = [&file[..], &file].concat();
    let vouched = ProvedTable { bytes: twice.len() as u64, sha256: Digest::of(&twice), ..table.clone() };
    assert!(Buckets::decode(&vouched, &twice).is_err());
    for (table, says) in [
        (ProvedTable { rows: 4, ..table.clone() }, "do not add up to 4"),
        (ProvedTable { k: 0, ..table.clone() }, "longer than 24 bytes"),
        (ProvedTable { k: 2, ..table.clone() }, "48 bytes of buckets, not 96"),
        (ProvedTable { k: 21, ..table.clone() }, "more than there ever are"),
    ] {
        let error = Buckets::decode(&table, &file).expect_err("refused").report();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn scores_are_rounded_down_and_whole_only_for_what_is_equal() {
    for (agreeing, union, differs, score) in [
        (0, 0, false, "100.00"),
        (5, 5, false, "100.00"),
        (0, 5, true, "0.00"),
        (2, 3, true, "66.66"),
        (999_999_999, 1_000_000_000, true, "99.99"),
        (5, 5, true, "99.99"),
        (u64::MAX, u64::MAX, false, "100.00"),
    ] {
        assert_eq!(Score::of(agreeing, union, differs).to_string(), score);
    }
    let relation = relation(&[("id", "integer"), ("a", "text")], &["id"]);
    let empty = Comparison::of(&digest(&relation, 0, b""), &digest(&relation, 0, b""));
    assert_eq!((empty.is_equal(), empty.score().to_string().as_str()), (true, "100.00"));
    let missing = Comparison::of(&digest(&relation, 0, b"1\tx\n"), &digest(&relation, 0, b""));
    assert_eq!((missing.is_equal(), missing.score().to_string().as_str()), (false, "0.00"));
}

#[test]
fn a_proof_reads_as_it_was_written_and_no_flipped_bit_goes_unseen() {
    let proof = sample::proof();
    let bytes = proof.encode();
    assert_eq!(ProofManifest::decode(&bytes).ok(), Some(proof));
    for length in 0..bytes.len() {
        assert!(ProofManifest::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    let named = Digest::of(&bytes);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(ProofManifest::decode(&flipped).is_err() || Digest::of(&flipped) != named, "bit {bit}");
    }
}

#[test]
fn refuses_a_proof_that_contradicts_itself() {
    let sound: Value = serde_json::from_slice(&sample::proof().encode()).expect("JSON");
    for (pointer, value, says) in [
        ("/format", json!(2), "format 2"),
        ("/archive_id", json!("6F1C2F0E-0000-4000-8000-000000000001"), "is not written"),
        ("/id", json!("../x"), "cannot be read"),
        ("/cut/end_lsn", json!("0/16b3d40"), "is not written"),
        ("/cut/seq", json!(0), "segment number"),
        ("/snapshot/xip", json!([754, 701]), "not in order"),
        ("/tables/users/k", json!(21), "above 20"),
        ("/tables/users/file", json!("../1.buckets.zst"), "not the name of a file of buckets"),
        ("/tables/users/file", json!("01.buckets.zst"), "not the name of a file of buckets"),
        ("/tables/users/file", json!("2.buckets.zst"), "belongs to two tables"),
        ("/tables/users/bytes", json!(1_u64 << 40), "more than a file of buckets has"),
        ("/tables/users/rows", json!(-1), "invalid value"),
        ("/not_proved/users", json!("x"), "is proved and is not"),
        ("/tables/sales.orders/foreign_keys/0/key", json!([]), "another number of columns"),
        ("/tables/sales.orders/rules/positive/more", json!(true), "says that there are more"),
        ("/tables/sales.orders/rules/slow/more", json!(true), "says that there are more"),
        ("/tables/sales.orders/rules/positive/reason", json!("x"), "is answered and is not"),
        ("/tables/sales.orders/rules/positive/violators/0", json!("12"), "32 lower-case hex digits"),
        (
            "/tables/sales.orders/foreign_keys/0/orphans/rows/0",
            json!("0000000000000000000000000000000f"),
            "foreign key orders_user lists violators that are not in order",
        ),
        ("/tables/sales.orders/foreign_keys/0/orphans/more", json!(true), "says that there are more"),
    ] {
        let mut document = sound.clone();
        match document.pointer_mut(pointer) {
            Some(field) => *field = value,
            None => {
                let (parent, name) = pointer.rsplit_once('/').expect("a path");
                document.pointer_mut(parent).expect("an object")[name] = value;
            }
        }
        let bytes = format!("{document}\n").into_bytes();
        let error = ProofManifest::decode(&bytes).expect_err(pointer).report();
        assert!(error.contains(says), "{pointer}: {says:?} is not in {error}");
    }
}

#[test]
fn a_manifest_may_consist_of_a_mark_alone() {
    let mut manifest = segments::gap_alone(1, None, "0/10", "0/20");
    manifest.gaps.clear();
    assert!(Manifest::decode(&manifest.encode()).is_err(), "neither a gap nor a mark");
    manifest.proof = Some(sample::mark());
    assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest.clone()));
    // Beside a gap that ends earlier, too.
    manifest.gaps = segments::gap_alone(1, None, "0/10", "0/18").gaps;
    assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest.clone()));
    for (spoil, says) in [
        ((|mark| mark.tables.clear()) as fn(&mut Mark), "names no table"),
        (|mark| mark.tables.values_mut().for_each(|t| t.k = 21), "above 20"),
        (|mark| mark.tables.values_mut().for_each(|t| t.relation.key.clear()), "fingerprint does not fit"),
    ] {
        let mut spoilt = manifest.clone();
        spoil(spoilt.proof.as_mut().expect("a mark"));
        let error = Manifest::decode(&spoilt.encode()).expect_err(says).report();
        assert!(error.contains(says), "{says:?} is not in {error}");
    }
}

#[test]
fn a_mark_stands_beside_changes() {
    let (_, mut manifest) = segments::segment();
    manifest.proof = Some(sample::mark());
    let text = String::from_utf8(manifest.encode()).expect("UTF-8");
    assert!(text.contains(
        r#""proof":{"id":"00000000016B3D40-20260205T103000Z","tables":{"users":{"k":1,"relation":{"#
    ));
    assert_eq!(Manifest::decode(text.as_bytes()).ok(), Some(manifest));
}

/// A value of a column, and how COPY prints it.
fn printed(value: &Option<String>) -> String {
    let Some(text) = value else { return "\\N".into() };
    let mut printed = String::new();
    for c in text.chars() {
        match c {
            '\\' => printed.push_str("\\\\"),
            '\n' => printed.push_str("\\n"),
            '\t' => printed.push_str("\\t"),
            '\r' => printed.push_str("\\r"),
            other => printed.push(other),
        }
    }
    printed
}

fn line(row: &[Option<String>]) -> String {
    let fields: Vec<String> = row.iter().map(printed).collect();
    format!("{}\n", fields.join("\t"))
}

fn any_rows() -> impl Strategy<Value = Vec<Vec<Option<String>>>> {
    let value = prop_oneof![
        Just(None),
        Just(Some(String::new())),
        "[a-c\\\\\t\n\rN]{0,4}".prop_map(Some),
        "\\PC{0,6}".prop_map(Some),
    ];
    prop::collection::vec(prop::collection::vec(value, 3), 0..40)
}

proptest! {
    /// The digest of a multiset of rows: order and pieces play no part, every other difference does.
    #[test]
    fn equal_buckets_are_equal_rows(
        rows in any_rows(),
        shuffle in any::<prop::sample::Index>(),
        damaged in any::<prop::sample::Index>(),
        how in 0..4_u8,
        with_key in any::<bool>(),
        k in 0..5_u8,
        piece in 1..7_usize,
    ) {
        let key: &[&str] = if with_key { &["a", "c"] } else { &[] };
        let relation = relation(&[("a", "text"), ("b", "text"), ("c", "text")], key);
        let text: String = rows.iter().map(|row| line(row)).collect();
        let whole = digest(&relation, k, text.as_bytes());
        prop_assert_eq!(whole.rows(), rows.len() as u64);

        let mut turned = rows.clone();
        turned.rotate_left(if rows.is_empty() { 0 } else { shuffle.index(rows.len()) });
        turned.reverse();
        let turned: String = turned.iter().map(|row| line(row)).collect();
        let mut digester = Digester::new(Layout::of(&relation), k);
        for piece in turned.as_bytes().chunks(piece) {
            digester.push(piece).expect("rows");
        }
        prop_assert_eq!(&digester.finish().expect("whole rows"), &whole);

        let mut one_by_one = Buckets::new(k);
        let layout = Layout::of(&relation);
        for row in &rows {
            let printed = line(row);
            let fields = copy_fields(printed.trim_end_matches('\n').as_bytes()).expect("a row");
            let (hash, bucket) = layout.hash(fields.iter().map(Option::as_deref), k);
            one_by_one.add(bucket, hash);
        }
        prop_assert_eq!(&one_by_one, &whole);

        prop_assume!(!rows.is_empty());
        let mut other = rows.clone();
        let place = damaged.index(rows.len());
        match how {
            0 => drop(other.remove(place)),
            1 => other.push(other[place].clone()),
            2 => other[place][1] = match &rows[place][1] { None => Some(String::new()), Some(_) => None },
            _ => other[place][0] = Some(format!("{}x", rows[place][0].as_deref().unwrap_or_default())),
        }
        let other: String = other.iter().map(|row| line(row)).collect();
        let comparison = Comparison::of(&whole, &digest(&relation, k, other.as_bytes()));
        prop_assert!(!comparison.is_equal());
        prop_assert!(comparison.score() < Score::of(1, 1, false));
    }
}
