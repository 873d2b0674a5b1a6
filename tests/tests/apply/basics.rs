//! The applier against a real server, fed with archives made by hand: every operation does here what it did at
//! the source.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;

#[tokio::test]
async fn inserts_updates_deletes_and_truncates_arrive() {
    let mut copy = LocalCopy::start("CREATE TABLE users (id int PRIMARY KEY, name text, note text)").await;
    copy.forge.relation("users", &["id integer not null", "name text", "note text"], &["id"]);
    copy.forge.segment(&[
        vec![
            r#"{"table":"users","op":"INSERT","data":{"id":1,"name":"a\tb\\c","note":"long"}}"#,
            r#"{"table":"users","op":"INSERT","data":{"id":2,"name":null,"note":"x"}}"#,
            r#"{"table":"users","op":"INSERT","data":{"id":3,"name":"gone","note":"x"}}"#,
        ],
        vec![r#"{"table":"users","op":"UPDATE","data":{"id":1,"name":"new"},"old_keys":{"id":1}}"#],
    ]);
    copy.forge.segment(&[vec![
        r#"{"table":"users","op":"DELETE","old_keys":{"id":3}}"#,
        r#"{"table":"users","op":"UPDATE","data":{"id":2,"name":"two"},"old_keys":{"id":2}}"#,
    ]]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    assert_eq!(copy.sync(0).await, "applied 6 records in 2 segments to 1 tables\n");
    assert_eq!(copy.rows("SELECT * FROM users ORDER BY id").await, "1,new,long 2,two,x");
    assert_eq!(copy.sync(0).await, "applied 0 records in 0 segments to 1 tables\n");
    copy.forge.segment(&[vec![r#"{"table":"users","op":"TRUNCATE"}"#]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM users").await, "");
}

#[tokio::test]
async fn values_arrive_as_the_text_that_the_source_printed() {
    let columns = [
        ("n", "numeric", r"1.1000000000"),
        ("big", "numeric", "123456789012345678901234567890.000000000000000000001"),
        ("nan", "numeric", r#""NaN""#),
        ("f", "double precision", "-0"),
        ("tiny", "double precision", "1e-310"),
        ("inf", "real", r#""-Infinity""#),
        ("b", "boolean", "true"),
        ("raw", "bytea", r#""\\x00ff10""#),
        ("c", "character(5)", r#""ab   ""#),
        ("ch", "\"char\"", r#""x""#),
        ("bits", "bit(3)", r#""101""#),
        ("v", "character varying(3)", r#""añb""#),
        ("arr", "text[]", r#""{a,\"b c\",NULL,\"q\\\"\"}""#),
        ("two", "integer[]", r#""[2:3]={7,8}""#),
        ("j", "json", r#""{\"b\":1, \"a\":2,\"a\":3}""#),
        ("jb", "jsonb", r#""{\"a\": 1.10}""#),
        ("ts", "timestamp with time zone", r#""0044-03-15 00:00:00+00 BC""#),
        ("t", "time without time zone", r#""24:00:00""#),
        ("iv", "interval", r#""-1 days +02:00:00""#),
        ("m", "money", r#""-$1,234.56""#),
        ("ip", "inet", r#""10.0.0.1/8""#),
        ("p", "point", r#""(1,2)""#),
        ("r", "int4range", r#""[1,5)""#),
        ("x", "xml", r#""<a>b</a>c""#),
        ("d", "public.positive", r#""7""#),
        ("e", "public.mood", r#""it's \"so\"\\so""#),
    ];
    let definition: Vec<String> = columns.iter().map(|(name, ty, _)| format!("{name} {ty}")).collect();
    let schema = format!(
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE mood AS ENUM ('it''s \"so\"\\so'); \
         CREATE TABLE v (id int PRIMARY KEY, {})",
        definition.join(", ")
    );
    let mut copy = LocalCopy::start(&schema).await;
    let mut relation = vec!["id integer not null".to_owned()];
    relation.extend(definition);
    let relation: Vec<&str> = relation.iter().map(String::as_str).collect();
    copy.forge.relation("v", &relation, &["id"]);
    let data: Vec<String> = columns.iter().map(|(name, _, value)| format!("\"{name}\":{value}")).collect();
    let insert =
        |id: usize| format!(r#"{{"table":"v","op":"INSERT","data":{{"id":{id},{}}}}}"#, data.join(","));
    // One row goes as arrays, many as a COPY, and one that moves to another key by itself.
    copy.forge.segment(&[vec![insert(1)]]);
    copy.forge.segment(&[(2..700).map(insert).collect()]);
    copy.forge.segment(&[vec![format!(
        r#"{{"table":"v","op":"UPDATE","data":{{"id":1000,{}}},"old_keys":{{"id":1}}}}"#,
        data.join(",")
    )]]);
    copy.applier(&["add-tables", "v"]).succeed().await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*), min(id), max(id) FROM v").await, "699,2,1000");
    for (name, _, json) in columns {
        let value: String = serde_json::from_str(json).unwrap_or_else(|_| json.to_owned());
        let value = if json == "true" { "t".to_owned() } else { value };
        let found = copy
            .server
            .query(&format!(
                "SET DateStyle = ISO; SET TimeZone = UTC; SET extra_float_digits = 3; SET lc_monetary = 'C'; \
                 SELECT DISTINCT format('%s', {name}) FROM v"
            ))
            .await;
        assert_eq!(found, vec![vec![Some(value)]], "{name}");
    }
}

#[tokio::test]
async fn keys_move_and_change_places() {
    let mut copy = LocalCopy::start("CREATE TABLE k (id int PRIMARY KEY, v text, big text)").await;
    copy.forge.relation("k", &["id integer not null", "v text", "big text"], &["id"]);
    let insert =
        |id| format!(r#"{{"table":"k","op":"INSERT","data":{{"id":{id},"v":"v{id}","big":"b{id}"}}}}"#);
    let moved = |from, to| {
        format!(
            r#"{{"table":"k","op":"UPDATE","data":{{"id":{to},"v":"v{from}"}},"old_keys":{{"id":{from}}}}}"#
        )
    };
    copy.forge.segment(&[(1..=5).map(insert).collect()]);
    copy.applier(&["add-tables", "k"]).succeed().await;
    copy.sync(0).await;
    // 1 and 2 change places, 3 goes on to 30 and 300, 4 takes the key that 3 has left.
    copy.forge.segment(&[vec![
        moved(1, 99),
        moved(2, 1),
        moved(99, 2),
        moved(3, 30),
        moved(30, 300),
        moved(4, 3),
        r#"{"table":"k","op":"DELETE","old_keys":{"id":5}}"#.to_owned(),
        insert(5),
    ]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id, big FROM k ORDER BY id").await, "1,b2 2,b1 3,b4 5,b5 300,b3");
}

#[tokio::test]
async fn unique_values_change_places() {
    let schema = "CREATE TABLE s (id int PRIMARY KEY, u int UNIQUE); \
                  CREATE TABLE d (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)";
    let mut copy = LocalCopy::start(schema).await;
    for table in ["s", "d"] {
        copy.forge.relation(table, &["id integer not null", "u integer"], &["id"]);
    }
    let line = |table: &str, op: &str, id: i32, u: &str| {
        let old = if op == "UPDATE" { format!(r#","old_keys":{{"id":{id}}}"#) } else { String::new() };
        format!(r#"{{"table":"{table}","op":"{op}","data":{{"id":{id},"u":{u}}}{old}}}"#)
    };
    for table in ["s", "d"] {
        copy.forge.segment(&[vec![line(table, "INSERT", 1, "10"), line(table, "INSERT", 2, "20")]]);
    }
    copy.forge.segment(&[
        vec![line("s", "UPDATE", 1, "null"), line("s", "UPDATE", 2, "10"), line("s", "UPDATE", 1, "20")],
        vec![line("d", "UPDATE", 1, "20"), line("d", "UPDATE", 2, "10")],
    ]);
    copy.applier(&["add-tables", "s", "d"]).succeed().await;
    copy.sync(0).await;
    for table in ["s", "d"] {
        assert_eq!(copy.rows(&format!("SELECT * FROM {table} ORDER BY id")).await, "1,20 2,10");
    }
    // A row that only the copy has: the replica role would let the second 10 in.
    copy.server.execute("INSERT INTO d VALUES (3, 30)").await;
    copy.forge.segment(&[vec![line("d", "UPDATE", 2, "30"), line("s", "UPDATE", 2, "11")]]);
    let said = copy.sync(1).await;
    assert!(said.contains("deferrable unique constraint"), "{said}");
    assert_eq!(copy.rows("SELECT * FROM d ORDER BY id").await, "1,20 2,10 3,30");
    assert_eq!(copy.rows("SELECT * FROM s ORDER BY id").await, "1,20 2,11");
}

#[tokio::test]
async fn tables_without_a_key_lose_one_row_for_each_delete() {
    let schema = "CREATE TABLE n (a int, b box, j json, p point, t text)";
    let mut copy = LocalCopy::start(schema).await;
    let columns = ["a integer", "b box", "j json", "p point", "t text"];
    copy.forge.relation_with("n", &columns, &[], ReplicaIdentity::Full);
    let values = |b: &str| format!(r#"{{"a":1,"b":"{b}","j":"{{\"x\": 1}}","p":"(1,2)","t":null}}"#);
    // Two boxes of one area: equal to `=`, and two different rows.
    let (one, other) = (values("(2,2),(0,0)"), values("(4,1),(0,0)"));
    let insert = |data: &String| format!(r#"{{"table":"n","op":"INSERT","data":{data}}}"#);
    copy.forge.segment(&[vec![insert(&one), insert(&one), insert(&other), insert(&other)]]);
    copy.forge.segment(&[vec![
        format!(r#"{{"table":"n","op":"DELETE","old_keys":{other}}}"#),
        format!(r#"{{"table":"n","op":"UPDATE","data":{{"a":5}},"old_keys":{one}}}"#),
    ]]);
    copy.applier(&["add-tables", "n"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(
        copy.rows("SELECT a, b::text, count(*) FROM n GROUP BY 1, 2 ORDER BY 1, 2").await,
        "1,(2,2),(0,0),1 1,(4,1),(0,0),1 5,(2,2),(0,0),1"
    );
}

#[tokio::test]
async fn a_row_is_found_by_its_values_although_a_number_is_spelt_longer_here() {
    let mut copy = LocalCopy::start("CREATE TABLE n (v numeric(12,3), w numeric, t text)").await;
    let columns = ["v numeric(12,2)", "w real", "t text"];
    copy.forge.relation_with("n", &columns, &[], ReplicaIdentity::Full);
    let values = |v: &str| format!(r#"{{"v":{v},"w":1e+20,"t":"x"}}"#);
    let insert = |v: &str| format!(r#"{{"table":"n","op":"INSERT","data":{}}}"#, values(v));
    copy.forge.segment(&[vec![insert("1.50"), insert("1.50"), insert("2.25")]]);
    copy.forge.segment(&[vec![format!(r#"{{"table":"n","op":"DELETE","old_keys":{}}}"#, values("1.50"))]]);
    copy.applier(&["add-tables", "n"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT v FROM n ORDER BY v").await, "1.500 2.250");
}

#[tokio::test]
async fn generated_and_identity_columns_have_the_right_values() {
    let schema = "CREATE TABLE g (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, \
                  twice int GENERATED ALWAYS AS (a * 2) STORED)";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation(
        "g",
        &["id integer not null always", "a integer", "twice integer generated"],
        &["id"],
    );
    let insert =
        |id| format!(r#"{{"table":"g","op":"INSERT","data":{{"id":{id},"a":{id},"twice":{}}}}}"#, id * 2);
    copy.forge.segment(&[(1..=600).map(insert).collect()]);
    copy.forge.segment(&[vec![
        insert(700),
        r#"{"table":"g","op":"UPDATE","data":{"id":1,"a":10,"twice":20},"old_keys":{"id":1}}"#.to_owned(),
        r#"{"table":"g","op":"UPDATE","data":{"id":1000,"a":20,"twice":40},"old_keys":{"id":2}}"#.to_owned(),
    ]]);
    copy.applier(&["add-tables", "g"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(
        copy.rows("SELECT * FROM g WHERE id IN (1, 2, 3, 700, 1000) ORDER BY id").await,
        "1,10,20 3,3,6 700,700,1400 1000,20,40"
    );
}

#[tokio::test]
async fn an_identity_column_beside_the_key_takes_the_value_that_the_source_has_given_it() {
    let schema = "CREATE TABLE f (code text PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, v text, mine text); \
                  CREATE TABLE bare (code text, n bigint GENERATED ALWAYS AS IDENTITY, v text)";
    let mut copy = LocalCopy::start(schema).await;
    let columns = ["code text not null", "n bigint not null always", "v text"];
    copy.forge.relation("f", &columns, &["code"]);
    copy.forge.relation_with("bare", &columns, &[], ReplicaIdentity::Full);
    let data = |code: usize, n: usize, v: &str| format!(r#""data":{{"code":"c{code}","n":{n},"v":"{v}"}}"#);
    let insert = |code: usize, n: usize| format!(r#"{{"table":"f","op":"INSERT",{}}}"#, data(code, n, "new"));
    let update = |old: usize, code: usize, n: usize| {
        let data = data(code, n, "set");
        format!(r#"{{"table":"f","op":"UPDATE",{data},"old_keys":{{"code":"c{old}"}}}}"#)
    };
    copy.forge.segment(&[(1..=600).map(|code| insert(code, code)).collect()]);
    copy.applier(&["add-tables", "f", "bare"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("UPDATE f SET mine = code").await;
    let is_as_the_source = async |copy: &LocalCopy, n: &str, others: &str| {
        assert_eq!(copy.rows("SELECT n, v, mine FROM f WHERE code = 'c1'").await, n);
        let rest =
            "SELECT count(*), sum(n), count(*) FILTER (WHERE mine IS NOT NULL) FROM f WHERE code <> 'c1'";
        assert_eq!(copy.rows(rest).await, others);
    };
    // One goes as arrays, many as a COPY; some of these keep theirs.
    copy.forge.segment(&[vec![update(1, 1, 5)]]);
    copy.sync(0).await;
    is_as_the_source(&copy, "5,set,c1", "599,180299,599").await;
    copy.forge.segment(&[(1..=600)
        .map(|code| update(code, code, if code <= 2 { 9000 + code } else { code }))
        .collect()]);
    copy.sync(0).await;
    is_as_the_source(&copy, "9001,set,c1", "599,189299,599").await;
    assert_eq!(copy.rows("SELECT count(*) FROM f WHERE v = 'set'").await, "600");
    // Rows that are there already.
    copy.forge.segment(&[vec![insert(1, 7)]]);
    copy.sync(0).await;
    is_as_the_source(&copy, "7,new,c1", "599,189299,599").await;
    copy.forge.segment(&[(1..=600).map(|code| insert(code, 10_000 + code)).collect()]);
    copy.sync(0).await;
    is_as_the_source(&copy, "10001,new,c1", "599,6170299,599").await;
    // Row by row, because a key moves.
    copy.forge.segment(&[vec![
        update(1, 601, 11),
        update(601, 601, 12),
        update(601, 1, 12),
        update(1, 1, 13),
        update(2, 602, 10_002),
    ]]);
    copy.sync(0).await;
    is_as_the_source(&copy, "13,set,c1", "599,6170299,599").await;
    let bare = |op: &str, rest: String| format!(r#"{{"table":"bare","op":"{op}",{rest}}}"#);
    let old = |n: usize| data(1, n, "x").replace("data", "old_keys");
    copy.forge.segment(&[vec![
        bare("INSERT", data(1, 5, "x")),
        bare("INSERT", data(1, 6, "x")),
        bare("UPDATE", format!("{},{}", data(1, 9, "x"), old(5))),
        bare("UPDATE", format!("{},{}", data(1, 6, "y"), old(6))),
    ]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT n, v FROM bare ORDER BY n").await, "6,y 9,x");
    let missing = copy.rows("SELECT coalesce(sum(rows_missing), 0) FROM data_sync_logs").await;
    assert_eq!(missing, "0");
}

#[tokio::test]
async fn a_truncate_of_several_tables_is_one_statement_and_leaves_children_alone() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, \
                  parent int REFERENCES parent); CREATE TABLE heir () INHERITS (parent)";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation("parent", &["id integer not null"], &["id"]);
    copy.forge.relation("child", &["id integer not null", "parent integer"], &["id"]);
    copy.forge.relation("heir", &["id integer not null"], &[]);
    copy.forge.segment(&[
        vec![
            r#"{"table":"heir","op":"INSERT","data":{"id":9}}"#,
            r#"{"table":"parent","op":"INSERT","data":{"id":1}}"#,
            r#"{"table":"child","op":"INSERT","data":{"id":1,"parent":1}}"#,
        ],
        vec![
            r#"{"table":"parent","op":"TRUNCATE"}"#,
            r#"{"table":"child","op":"TRUNCATE"}"#,
            r#"{"table":"parent","op":"INSERT","data":{"id":2}}"#,
        ],
    ]);
    copy.applier(&["add-tables", "parent", "child", "heir"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id FROM ONLY parent").await, "2");
    assert_eq!(copy.rows("SELECT id FROM child").await, "");
    assert_eq!(copy.rows("SELECT id FROM heir").await, "9");
    // A table that nobody syncs refers to it now: emptying it too is not ours to decide.
    copy.server
        .execute("CREATE TABLE note (parent int REFERENCES parent); INSERT INTO note VALUES (2)")
        .await;
    copy.forge.segment(&[vec![
        r#"{"table":"parent","op":"DELETE","old_keys":{"id":2}}"#,
        r#"{"table":"parent","op":"TRUNCATE"}"#,
    ]]);
    let said = copy.sync(1).await;
    assert!(said.contains("parent: quarantined") && said.contains("refers to it"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM ONLY parent").await, "2");
    assert_eq!(copy.rows("SELECT parent FROM note").await, "2");
}

#[tokio::test]
async fn hostile_names_are_names() {
    let names = [
        r#""a.b""#,
        r#""Ü x""#,
        r#""q'q""q""#,
        r#""*""#,
        r#""select""#,
        r#""back\slash""#,
        r#""x""; DROP TABLE y; --""#,
    ];
    let mut schema = "CREATE TABLE y (id int);".to_owned();
    for name in names {
        schema.push_str(&format!("CREATE TABLE {name} (id int PRIMARY KEY, {name} text);"));
    }
    let mut copy = LocalCopy::start(&schema).await;
    let mut rows = Vec::new();
    let mut arguments = vec!["add-tables"];
    for quoted in names {
        arguments.push(quoted);
        let bare = quoted[1..quoted.len() - 1].replace("\"\"", "\"");
        let archived =
            syncdata_formats::name::TableName::new("public", bare.clone()).expect("a name").to_string();
        copy.forge.relation(
            &archived,
            &["id integer not null", &format!("{} text", bare.replace(' ', "\u{1}"))],
            &["id"],
        );
        let json = |text: &str| serde_json::to_string(text).expect("a string");
        for id in 1..3 {
            rows.push(format!(
                r#"{{"table":{},"op":"INSERT","data":{{"id":{id},{}:"v"}}}}"#,
                json(&archived),
                json(&bare)
            ));
        }
    }
    copy.forge.segment(&[rows]);
    copy.applier(&arguments).succeed().await;
    copy.sync(0).await;
    for name in names {
        assert_eq!(copy.rows(&format!("SELECT count({name}) FROM {name}")).await, "2", "{name}");
    }
    assert_eq!(copy.rows("SELECT count(*) FROM y").await, "0");
}

#[tokio::test]
async fn partitioned_tables_take_rows_by_the_name_of_their_root() {
    let schema = "CREATE TABLE m (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day); \
                  CREATE TABLE m1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01'); \
                  CREATE TABLE m2 PARTITION OF m FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation("m", &["id integer not null", "day date not null", "v text"], &["id", "day"]);
    let data = |id, day| format!(r#""data":{{"id":{id},"day":"{day}","v":"x"}}"#);
    copy.forge.segment(&[
        vec![
            format!(r#"{{"table":"m","op":"INSERT",{}}}"#, data(1, "2026-01-05")),
            format!(r#"{{"table":"m","op":"INSERT",{}}}"#, data(2, "2026-02-05")),
        ],
        vec![
            format!(
                r#"{{"table":"m","op":"UPDATE",{},"old_keys":{{"id":1,"day":"2026-01-05"}}}}"#,
                data(1, "2026-02-06")
            ),
            r#"{"table":"m","op":"DELETE","old_keys":{"id":2,"day":"2026-02-05"}}"#.to_owned(),
        ],
        // No partition takes this one.
        vec![format!(r#"{{"table":"m","op":"INSERT",{}}}"#, data(3, "2027-01-01"))],
    ]);
    copy.applier(&["add-tables", "m"]).succeed().await;
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT tableoid::regclass, id FROM m").await, "m2,1");
    assert_eq!(copy.rows("SELECT sqlstate, line FROM data_sync_quarantine").await, "23514,7");
}

#[tokio::test]
async fn a_replica_identity_by_index_finds_rows_by_its_columns() {
    let schema = "CREATE TABLE r (id int PRIMARY KEY, code text NOT NULL UNIQUE, v text)";
    let mut copy = LocalCopy::start(schema).await;
    let columns = ["id integer not null", "code text not null", "v text"];
    copy.forge.relation_with("r", &columns, &["id"], ReplicaIdentity::Index);
    let insert = |id: i32, code: &str| {
        format!(r#"{{"table":"r","op":"INSERT","data":{{"id":{id},"code":"{code}","v":"x"}}}}"#)
    };
    copy.forge.segment(&[
        vec![insert(1, "a"), insert(2, "b"), insert(3, "c")],
        vec![
            r#"{"table":"r","op":"UPDATE","data":{"id":10,"code":"a","v":"y"},"old_keys":{"code":"a"}}"#
                .to_owned(),
            r#"{"table":"r","op":"DELETE","old_keys":{"code":"b"}}"#.to_owned(),
            r#"{"table":"r","op":"UPDATE","data":{"id":3,"code":"d"},"old_keys":{"code":"c"}}"#.to_owned(),
            // Here already, by the primary key that the source has too.
            insert(3, "e"),
        ],
    ]);
    copy.applier(&["add-tables", "r"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM r ORDER BY id").await, "3,e,x 10,a,y");
}

#[tokio::test]
async fn a_deferrable_primary_key_takes_inserts_of_rows_that_are_there() {
    let schema = "CREATE TABLE d (id int PRIMARY KEY DEFERRABLE, v text); INSERT INTO d VALUES (1, 'old')";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation_with("d", &["id integer not null", "v text"], &["id"], ReplicaIdentity::Full);
    let insert = |id: i32| format!(r#"{{"table":"d","op":"INSERT","data":{{"id":{id},"v":"new"}}}}"#);
    copy.forge.segment(&[vec![insert(1), insert(2)]]);
    copy.applier(&["add-tables", "d"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM d ORDER BY id").await, "1,new 2,new");
}
