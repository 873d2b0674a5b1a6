//! Types that the archive knows by their names alone, and casts that somebody has made here: what is defined otherwise than at
//! the source alters and merges no rows in silence.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;
use syncdata_tests::record::{delete, insert, update};

#[tokio::test]
async fn a_type_that_is_known_by_its_name_alone_merges_no_rows() {
    let schema = "CREATE EXTENSION citext; \
                  CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                  CREATE TYPE nm AS (a text COLLATE ci); CREATE TYPE tr AS RANGE (subtype = text, collation = ci); \
                  CREATE DOMAIN code AS numeric; CREATE DOMAIN cx AS citext; \
                  CREATE TABLE c (k nm PRIMARY KEY, n int); CREATE TABLE r (k tr PRIMARY KEY, n int); \
                  CREATE TABLE d (k code PRIMARY KEY, n int); CREATE TABLE b (k code PRIMARY KEY, n int); \
                  CREATE TABLE e (k cx[] PRIMARY KEY, n int)";
    let mut copy = LocalCopy::start(schema).await;
    let keys = [
        ("c", "public.nm", "(A)", "(a)"),
        ("r", "public.tr", "[A,M]", "[a,m]"),
        ("d", "public.code", "1.0", "1.00"),
        ("b", "public.code", "1.0", "1.00"),
        ("e", "public.cx[]", "{A}", "{a}"),
    ];
    let row = |table: &str, key: &str, n: u32| insert(table, &format!(r#""k":"{key}","n":{n}"#));
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (table, type_name, one, other) in keys {
        copy.forge.relation(table, &[&format!("k {type_name} not null"), "n integer"], &["k"]);
        first.push(row(table, one, 1));
        second.push(row(table, other, 2));
    }
    // What shares a batch is netted by the text of its key, if by anything.
    let beside = second.remove(3);
    copy.forge.segment(&[first, vec![beside]]);
    copy.applier(&["add-tables", "c", "r", "d", "b", "e"]).succeed().await;
    copy.sync(1).await;
    copy.forge.segment(&[second]);
    copy.sync(1).await;
    for (table, _, one, _) in keys {
        assert_eq!(copy.state(table).await, "quarantined", "{table}");
        assert_eq!(
            copy.rows(&format!("SELECT k::text || n FROM {table}")).await,
            format!("{one}1"),
            "{table}"
        );
    }
}

/// Composites are compared by an operator that takes all of them.
#[tokio::test]
async fn a_row_is_found_by_a_composite() {
    let mut copy =
        LocalCopy::start("CREATE TYPE nm AS (a text); CREATE TABLE c (k nm PRIMARY KEY, n int)").await;
    copy.forge.relation("c", &["k public.nm not null", "n integer"], &["k"]);
    let row = |key: &str, n: u32| format!(r#""k":"{key}","n":{n}"#);
    copy.forge.segment(&[vec![
        insert("c", &row("(A)", 1)),
        insert("c", &row("(B)", 1)),
        insert("c", &row("(C)", 1)),
        insert("c", &row("(A)", 2)),
        update("c", r#""k":"(A)""#, &row("(A)", 3)),
        update("c", r#""k":"(B)""#, &row("(b)", 2)),
        delete("c", r#""k":"(C)""#),
    ]]);
    copy.applier(&["add-tables", "c"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT k::text || n FROM c ORDER BY n").await, "(b)2 (A)3");
}

const CASTS: &str = r"
    CREATE TYPE mood AS ENUM ('sad', 'pending', 'open'); CREATE DOMAIN doc AS jsonb;
    CREATE FUNCTION tj(text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.to_jsonb($1)';
    CREATE CAST (text AS jsonb) WITH FUNCTION tj(text) AS ASSIGNMENT;
    CREATE FUNCTION tm(text) RETURNS public.mood LANGUAGE sql IMMUTABLE AS $$ SELECT CASE $1 WHEN 'pending' THEN
        'open'::public.mood WHEN 'open' THEN 'open' ELSE 'sad' END $$;
    CREATE CAST (text AS mood) WITH FUNCTION tm(text) AS ASSIGNMENT;";

/// A cast of text to a type is not how that type reads its values.
#[tokio::test]
async fn casts_that_somebody_has_made_here_convert_no_values() {
    let schema = format!(
        "{CASTS} CREATE TABLE j (id int PRIMARY KEY, d jsonb, m mood, o doc); CREATE TABLE k (m mood PRIMARY KEY, n int); \
         CREATE TABLE g (m mood PRIMARY KEY, n int, w text GENERATED ALWAYS AS (CASE m WHEN 'pending' THEN 'p' ELSE 'x' END) STORED); \
         CREATE TABLE f (m mood, n int, w text GENERATED ALWAYS AS (CASE m WHEN 'pending' THEN 'p' ELSE 'x' END) STORED)"
    );
    let mut copy = LocalCopy::start(&schema).await;
    copy.forge.relation("j", &["id integer not null", "d jsonb", "m public.mood", "o public.doc"], &["id"]);
    copy.forge.relation("k", &["m public.mood not null", "n integer"], &["m"]);
    copy.forge.relation("g", &["m public.mood not null", "n integer", "w text generated"], &["m"]);
    copy.forge.relation_with(
        "f",
        &["m public.mood", "n integer", "w text generated"],
        &[],
        ReplicaIdentity::Full,
    );
    let row = |id: u32| insert("j", &format!(r#""id":{id},"d":"{{\"a\": 1}}","m":"pending","o":"[1]""#));
    copy.forge.segment(&[vec![
        row(1),
        row(2),
        insert("k", r#""m":"pending","n":1"#),
        insert("k", r#""m":"open","n":1"#),
        insert("g", r#""m":"pending","n":1,"w":"p""#),
        insert("f", r#""m":"pending","n":1,"w":"p""#),
    ]]);
    copy.applier(&["add-tables", "j", "k", "g", "f"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![
        update("j", r#""id":2"#, r#""id":2,"d":"{\"b\": 2}","m":"pending","o":"[2]""#),
        update("k", r#""m":"pending""#, r#""m":"pending","n":2"#),
        update("g", r#""m":"pending""#, r#""m":"pending","n":2,"w":"p""#),
    ]]);
    copy.sync(0).await;
    copy.forge.segment(&[(10..=1200).map(row).collect::<Vec<_>>()]);
    copy.sync(0).await;
    assert_eq!(
        copy.rows("SELECT id, replace(d::text, ' ', ''), m, o FROM j WHERE id < 11 ORDER BY id").await,
        r#"1,{"a":1},pending,[1] 2,{"b":2},pending,[2] 10,{"a":1},pending,[1]"#
    );
    assert_eq!(copy.rows("SELECT m, n FROM k ORDER BY n").await, "open,1 pending,2");
    assert_eq!(
        copy.rows("SELECT m, n, w FROM g UNION ALL SELECT m, n, w FROM f").await,
        "pending,2,p pending,1,p"
    );
    copy.forge.snapshot(&[("j", &["1\t{\"a\": 1}\tpending\t[1]"])]);
    copy.forge.segment(&[vec![insert("k", r#""m":"sad","n":3"#)]]);
    copy.applier(&["resync", "j"]).succeed().await;
    assert_eq!(
        copy.rows("SELECT id, replace(d::text, ' ', ''), m, o FROM j").await,
        r#"1,{"a":1},pending,[1]"#
    );
}
