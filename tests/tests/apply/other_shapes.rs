//! Local tables that are made otherwise than production's: what would alter rows in silence is noticed, and a table that
//! is not as the source has it is not live.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;
use syncdata_tests::record::{delete, insert, update};

#[tokio::test]
async fn a_wider_number_here_is_found_though_it_prints_otherwise() {
    let mut copy = LocalCopy::start("CREATE TABLE f (v double precision, n int)").await;
    copy.forge.relation_with("f", &["v real", "n integer"], &[], ReplicaIdentity::Full);
    copy.forge.segment(&[vec![
        insert("f", r#""v":1e+06,"n":1"#),
        insert("f", r#""v":1.6777216e+07,"n":2"#),
        insert("f", r#""v":0.1,"n":3"#),
        insert("f", r#""v":"NaN","n":4"#),
    ]]);
    copy.forge.segment(&[vec![
        delete("f", r#""v":1e+06,"n":1"#),
        update("f", r#""v":1.6777216e+07,"n":2"#, r#""v":2e+06,"n":2"#),
        delete("f", r#""v":0.1,"n":3"#),
        delete("f", r#""v":"NaN","n":4"#),
    ]]);
    copy.applier(&["add-tables", "f"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM f").await, "2000000,2");
    assert_eq!(copy.rows("SELECT sum(rows_missing) FROM data_sync_logs").await, "0");
}

#[tokio::test]
async fn a_unique_index_of_another_collation_merges_no_rows() {
    let schema = "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                  CREATE TABLE p (k text PRIMARY KEY, n int); CREATE UNIQUE INDEX ON p (k COLLATE ci); \
                  CREATE TABLE i (k text NOT NULL, n int); CREATE UNIQUE INDEX ON i (k COLLATE ci)";
    let mut copy = LocalCopy::start(schema).await;
    for table in ["p", "i"] {
        copy.forge.relation(table, &["k text not null", "n integer"], &["k"]);
        copy.forge.segment(&[vec![insert(table, r#""k":"a","n":1"#)]]);
    }
    copy.applier(&["add-tables", "p", "i"]).succeed().await;
    copy.sync(0).await;
    let both = ["p", "i"].map(|table| insert(table, r#""k":"A","n":2"#));
    copy.forge.segment(&[both.to_vec()]);
    copy.sync(1).await;
    for table in ["p", "i"] {
        assert_eq!(copy.rows(&format!("SELECT * FROM {table}")).await, "a,1", "{table}");
        assert_eq!(copy.state(table).await, "quarantined", "{table}");
        copy.server.execute(&format!("DROP INDEX {table}_k_idx")).await;
        copy.applier(&["retry", table]).run().await;
        assert_eq!(copy.rows(&format!("SELECT * FROM {table} ORDER BY n")).await, "a,1 A,2", "{table}");
    }
}

/// What such a type calls equal depends on the locale of the database: production's may tell keys apart that are one here.
#[tokio::test]
async fn a_type_with_an_equality_of_its_own_merges_no_rows() {
    let schema = "CREATE EXTENSION citext; CREATE TABLE p (k citext PRIMARY KEY, n int); \
                  CREATE TABLE d (k citext PRIMARY KEY DEFERRABLE, n int); CREATE TABLE a (k citext[] PRIMARY KEY, n int); \
                  CREATE TABLE t (k text PRIMARY KEY, n int)";
    let mut copy = LocalCopy::start(schema).await;
    assert_eq!(copy.rows("SELECT 'É'::citext = 'é'::citext").await, "t");
    copy.forge.relation("p", &["k public.citext not null", "n integer"], &["k"]);
    let columns = ["k public.citext not null", "n integer"];
    copy.forge.relation_with("d", &columns, &["k"], ReplicaIdentity::Full);
    copy.forge.relation("a", &["k public.citext[] not null", "n integer"], &["k"]);
    copy.forge.relation("t", &["k text not null", "n integer"], &["k"]);
    let rows = |upper: bool, n: u32| {
        let k = if upper { "É" } else { "é" };
        ["p", "d", "a", "t"].map(|table| match table {
            "a" => insert(table, &format!(r#""k":"{{{k}}}","n":{n}"#)),
            _ => insert(table, &format!(r#""k":"{k}","n":{n}"#)),
        })
    };
    copy.forge.segment(&[rows(true, 1).to_vec()]);
    copy.applier(&["add-tables", "p", "d", "a", "t"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[rows(false, 2).to_vec()]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT * FROM t ORDER BY n").await, "É,1 é,2");
    for table in ["p", "d", "a"] {
        assert_eq!(copy.rows(&format!("SELECT n FROM {table}")).await, "1", "{table}");
        assert_eq!(copy.state(table).await, "quarantined", "{table}");
    }

    // Without the index both have room.
    for table in ["p", "d", "a"] {
        copy.server.execute(&format!("ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")).await;
    }
    copy.applier(&["retry", "p", "d", "a"]).run().await;
    for table in ["p", "d", "a"] {
        assert_eq!(copy.rows(&format!("SELECT n FROM {table} ORDER BY n")).await, "1 2", "{table}");
    }
}

/// One spelling makes way for another one, as production's own type allows.
#[tokio::test]
async fn a_key_of_such_a_type_takes_another_spelling() {
    let schema = "CREATE EXTENSION citext; CREATE TABLE p (k citext PRIMARY KEY, n int)";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation("p", &["k public.citext not null", "n integer"], &["k"]);
    copy.applier(&["add-tables", "p"]).succeed().await;
    copy.forge.segment(&[vec![insert("p", r#""k":"Ann","n":1"#), insert("p", r#""k":"Bob","n":1"#)]]);
    copy.forge.segment(&[vec![
        update("p", r#""k":"Ann""#, r#""k":"ANN","n":2"#),
        delete("p", r#""k":"Bob""#),
        insert("p", r#""k":"bob","n":2"#),
    ]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM p ORDER BY k").await, "ANN,2 bob,2");
    assert_eq!(copy.rows("SELECT sum(rows_missing) FROM data_sync_logs").await, "0");
}

#[tokio::test]
async fn values_that_the_source_has_twice_are_refused_by_a_constraint_of_ours_and_take_no_row_away() {
    let schema = "CREATE TABLE d (id int PRIMARY KEY DEFERRABLE, email text UNIQUE DEFERRABLE)";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation_with("d", &["id integer not null", "email text"], &["id"], ReplicaIdentity::Full);
    copy.forge.segment(&[vec![insert("d", r#""id":1,"email":"x""#)]]);
    copy.applier(&["add-tables", "d"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![insert("d", r#""id":2,"email":"x""#)]]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT * FROM d ORDER BY id").await, "1,x");
    assert_eq!(copy.state("d").await, "quarantined");
    copy.server.execute("ALTER TABLE d DROP CONSTRAINT d_email_key").await;
    copy.applier(&["retry", "d"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM d ORDER BY id").await, "1,x 2,x");
}

#[tokio::test]
async fn rules_of_the_copy_swallow_nothing() {
    let schema = "CREATE TABLE k (v int, n int); CREATE RULE none AS ON DELETE TO k DO INSTEAD NOTHING; \
                  ALTER TABLE k ENABLE ALWAYS RULE none; CREATE TABLE i (v int, n int); \
                  CREATE RULE keep AS ON INSERT TO i DO INSTEAD NOTHING; ALTER TABLE i ENABLE ALWAYS RULE keep; \
                  CREATE TABLE idle (v int, n int); CREATE RULE idle AS ON INSERT TO idle DO INSTEAD NOTHING";
    let mut copy = LocalCopy::start(schema).await;
    for table in ["k", "i", "idle"] {
        copy.forge.relation_with(table, &["v integer", "n integer"], &[], ReplicaIdentity::Full);
        copy.forge.segment(&[vec![insert(table, r#""v":1,"n":1"#), insert(table, r#""v":2,"n":2"#)]]);
        copy.forge.segment(&[vec![delete(table, r#""v":1,"n":1"#)]]);
    }
    copy.applier(&["add-tables", "k", "i", "idle"]).succeed().await;
    copy.sync(1).await;
    // Under the replica role an ordinary rule is off.
    assert_eq!(copy.rows("SELECT * FROM idle").await, "2,2");
    for (table, rule) in [("k", "none"), ("i", "keep")] {
        assert_eq!(copy.state(table).await, "quarantined", "{table}");
        let reason = copy.reason(table).await;
        let statement = format!(r#"run: ALTER TABLE "public"."{table}" DISABLE RULE "{rule}""#);
        assert!(reason.contains(&statement), "{reason}");
        let (_, statement) = reason.split_once("run: ").expect("it has one");
        copy.server.execute(statement).await;
        copy.applier(&["retry", table]).run().await;
        assert_eq!(copy.rows(&format!("SELECT * FROM {table}")).await, "2,2", "{table}");
        assert_eq!(copy.state(table).await, "live");
    }
    // A base copy is held up by them too.
    copy.forge.snapshot(&[("i", &["2\t2", "3\t3"])]);
    copy.forge.segment(&[vec![insert("idle", r#""v":9,"n":9"#)]]);
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE i ENABLE ALWAYS RULE keep").await;
    let refused = copy.applier(&["resync", "i"]).run().await.expect_code(1);
    assert!(refused.stdout.contains("DISABLE RULE"), "{refused}");
    assert_eq!(copy.rows("SELECT * FROM i").await, "2,2");
}

#[tokio::test]
async fn triggers_of_the_copy_write_nothing_else_than_what_is_applied() {
    // One that has to act always, and one that acts because the role may not switch it off; one that only looks, and one
    // that is off.
    let schema = "CREATE FUNCTION ours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := 7; RETURN NEW; END $$;
        CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TABLE always (id int PRIMARY KEY, n int);
        CREATE TRIGGER ours BEFORE INSERT OR UPDATE ON always FOR EACH ROW EXECUTE FUNCTION ours();
        ALTER TABLE always ENABLE ALWAYS TRIGGER ours;
        CREATE TABLE plain (id int PRIMARY KEY, n int);
        CREATE TRIGGER ours BEFORE INSERT OR UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION ours();
        CREATE TABLE looks (id int PRIMARY KEY, n int);
        CREATE TRIGGER seen AFTER INSERT ON looks FOR EACH ROW EXECUTE FUNCTION seen();
        ALTER TABLE looks ENABLE ALWAYS TRIGGER seen;
        CREATE ROLE humble LOGIN; GRANT CREATE ON SCHEMA public TO humble;
        ALTER TABLE always OWNER TO humble; ALTER TABLE plain OWNER TO humble; ALTER TABLE looks OWNER TO humble";
    for is_humble in [false, true] {
        let mut copy = LocalCopy::start(schema).await;
        if is_humble {
            copy.set("PG_USER_NAME", "humble");
        }
        let tables = ["always", "plain", "looks"];
        for table in tables {
            copy.forge.relation(table, &["id integer not null", "n integer"], &["id"]);
            copy.forge.segment(&[vec![insert(table, r#""id":1,"n":1"#)]]);
            copy.forge.segment(&[vec![update(table, r#""id":1"#, r#""id":1,"n":2"#)]]);
        }
        copy.applier(&["add-tables", "always", "plain", "looks"]).succeed().await;
        copy.sync(1).await;
        for table in tables {
            let is_held = table == "always" || is_humble && table == "plain";
            let expected = if is_held { "quarantined" } else { "live" };
            assert_eq!(copy.state(table).await, expected, "{table}, humble: {is_humble}");
            if is_held {
                let reason = copy.reason(table).await;
                let (_, statement) = reason.split_once("run: ").expect("it has one");
                copy.server.execute(statement).await;
                copy.applier(&["retry", table]).run().await;
            }
            assert_eq!(
                copy.rows(&format!("SELECT * FROM {table}")).await,
                "1,2",
                "{table}, humble: {is_humble}"
            );
            assert_eq!(copy.state(table).await, "live");
        }
        // A base copy is held up by them too.
        copy.forge.snapshot(&[("always", &["1\t2", "2\t3"])]);
        copy.forge.segment(&[vec![insert("looks", r#""id":9,"n":9"#)]]);
        copy.sync(0).await;
        copy.server.execute("ALTER TABLE always ENABLE ALWAYS TRIGGER ours").await;
        let refused = copy.applier(&["resync", "always"]).run().await.expect_code(1);
        assert!(refused.stdout.contains("DISABLE TRIGGER"), "{refused}");
        assert_eq!(copy.rows("SELECT * FROM always").await, "1,2");
        let replay = ["replay", "--from", "2026-01-01", "--to", "2027-01-01", "--yes"];
        let refused = copy.applier(&replay).run().await.expect_code(2);
        assert!(refused.stderr.contains("DISABLE TRIGGER"), "{refused}");
    }
}

#[tokio::test]
async fn what_is_computed_otherwise_here_than_at_the_source_is_noticed() {
    let schema = "CREATE TABLE g (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 3) STORED); \
                  CREATE TABLE s (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)";
    let mut copy = LocalCopy::start(schema).await;
    let columns = ["id integer not null", "n integer", "twice integer generated"];
    for table in ["g", "s"] {
        copy.forge.relation(table, &columns, &["id"]);
        copy.forge.segment(&[vec![
            insert(table, r#""id":1,"n":0,"twice":0"#),
            insert(table, r#""id":2,"n":null,"twice":null"#),
        ]]);
    }
    copy.applier(&["add-tables", "g", "s"]).succeed().await;
    copy.sync(0).await;
    for table in ["g", "s"] {
        copy.forge.segment(&[vec![
            insert(table, r#""id":3,"n":5,"twice":10"#),
            update(table, r#""id":3"#, r#""id":4,"n":5,"twice":10"#),
            insert(table, r#""id":5,"n":6,"twice":12"#),
            update(table, r#""id":1"#, r#""id":1,"n":7,"twice":14"#),
        ]]);
    }
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT * FROM s ORDER BY id").await, "1,7,14 2,NULL,NULL 4,5,10 5,6,12");
    assert_eq!(copy.state("s").await, "live");
    assert_eq!(copy.rows("SELECT * FROM g ORDER BY id").await, "1,0,0 2,NULL,NULL");
    assert_eq!(copy.state("g").await, "quarantined");
    let reason = copy.reason("g").await;
    assert!(reason.contains("computes another value"), "{reason}");
    let (_, statement) = reason.split_once("run: ").expect("it has one");
    copy.server.execute(statement.split("  -- ").next().expect("a statement")).await;
    // Rows from before may have been computed otherwise too.
    copy.applier(&["retry", "g"]).run().await.expect_code(1);
    assert_eq!(copy.state("g").await, "quarantined");
    copy.applier(&["resync", "g"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM g ORDER BY id").await, "1,7,14 2,NULL,NULL 4,5,10 5,6,12");
    // And a base copy that says otherwise is refused.
    copy.server
        .execute("ALTER TABLE s DROP twice; ALTER TABLE s ADD twice int GENERATED ALWAYS AS (n * 4) STORED")
        .await;
    let refused = copy.applier(&["resync", "s"]).run().await.expect_code(1);
    assert!(refused.stdout.contains("computes another value"), "{refused}");
}

/// A step of 500 rows and more is staged, with the key twice: more columns than a table may have.
#[tokio::test]
async fn a_table_of_as_many_columns_as_there_may_be_takes_many_changes_at_once() {
    const COLUMNS: usize = 1600;
    const ROWS: usize = 520;
    let name = |n: usize| if n == 0 { "id".to_owned() } else { format!("c{n}") };
    let columns: Vec<String> = (1..COLUMNS).map(|n| format!("{} smallint", name(n))).collect();
    let schema = format!("CREATE TABLE w (id int PRIMARY KEY, {})", columns.join(", "));
    let mut copy = LocalCopy::start(&schema).await;
    let mut described = vec!["id integer not null"];
    described.extend(columns.iter().map(String::as_str));
    copy.forge.relation("w", &described, &["id"]);
    let row = |id: usize, value: usize| {
        let fields: Vec<String> =
            (0..COLUMNS).map(|n| format!(r#""{}":{}"#, name(n), if n == 0 { id } else { value })).collect();
        fields.join(",")
    };
    copy.forge.segment_of([(0..ROWS).map(|id| insert("w", &row(id, 1)))]);
    copy.applier(&["add-tables", "w"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment_of([(0..ROWS).map(|id| update("w", &format!(r#""id":{id}"#), &row(id, 2)))]);
    copy.forge.segment_of([(0..ROWS).map(|id| insert("w", &row(id, 3)))]);
    copy.forge.segment_of([(10..ROWS).map(|id| delete("w", &format!(r#""id":{id}"#)))]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*), sum(c1), sum(c1599), max(id) FROM w").await, "10,30,30,9");
    assert_eq!(copy.state("w").await, "live");
}

#[tokio::test]
async fn a_table_that_is_set_aside_where_it_began_is_as_old_as_its_last_transaction() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, n int CHECK (n < 10)); CREATE TABLE g (id int PRIMARY KEY, n int)";
    let mut copy = LocalCopy::start(schema).await;
    for table in ["t", "g"] {
        copy.forge.relation(table, &["id integer not null", "n integer"], &["id"]);
    }
    let both =
        |id: u32, n: u32| ["t", "g"].map(|table| insert(table, &format!(r#""id":{id},"n":{n}"#))).to_vec();
    let times = ["2026-02-05T11:00:00Z", "2026-02-05T12:00:00Z", "2026-02-05T13:00:00Z"].map(str::to_owned);
    copy.forge.segment_at([both(1, 1), both(2, 2), both(3, 30)], &times);
    copy.forge.gap(&["g"]);
    copy.forge.segment(&[both(4, 4)]);
    copy.applier(&["add-tables", "t", "g"]).succeed().await;
    copy.sync(1).await;
    let known = "SELECT table_name, state, data_as_of AT TIME ZONE 'UTC' FROM data_sync_freshness ORDER BY table_name";
    assert_eq!(copy.rows(known).await, "g,stale,2026-02-05 13:00:00 t,quarantined,2026-02-05 12:00:00");
    assert_eq!(copy.rows("SELECT * FROM t ORDER BY id").await, "1,1 2,2");
}

#[tokio::test]
async fn a_repair_says_why_a_table_is_left_alone_whose_keys_are_equal_here() {
    let schema = "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                  CREATE TABLE c (k text COLLATE ci PRIMARY KEY, n int)";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation_with("c", &["k text not null", "n integer"], &["k"], ReplicaIdentity::Full);
    copy.forge.segment(&[vec![insert("c", r#""k":"a","n":1"#)]]);
    copy.applier(&["add-tables", "c"]).succeed().await;
    copy.sync(0).await;
    let range = ["replay", "--yes", "--from", "2026-02-05", "--to", "2026-02-06"];
    let replayed = copy.applier(&range).run().await.expect_code(1);
    assert!(replayed.stdout.contains("may be equal here, by their collation"), "{replayed}");
    assert!(!replayed.stdout.contains("for a moment"), "{replayed}");
}

#[tokio::test]
async fn a_null_in_an_array_is_one_whatever_the_role_s_defaults() {
    let mut copy = LocalCopy::start("CREATE TABLE a (id int PRIMARY KEY, v text[])").await;
    let off = format!("ALTER ROLE \"{}\" SET array_nulls = off", copy.server.user());
    copy.server.execute(&off).await;
    copy.forge.relation("a", &["id integer not null", "v text[]"], &["id"]);
    let row = |id: usize| format!(r#""id":{id},"v":"{{NULL,a}}""#);
    copy.forge.segment(&[vec![insert("a", &row(1))]]);
    copy.forge.segment(&[(10..700).map(|id| insert("a", &row(id))).collect()]);
    copy.forge.segment(&[vec![update("a", r#""id":1"#, &row(2))]]);
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.applier(&["add-tables", "a"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM a WHERE v[1] IS NULL").await, "691");
}
