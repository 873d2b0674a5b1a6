//! Foreign keys of the copy that act, where the replica role is not to be had: what they do beside a table's own changes.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;

async fn as_reporter(tables: &str) -> LocalCopy {
    let schema = format!(
        "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter;
         GRANT ALL ON SCHEMA public TO reporter; SET ROLE reporter; {tables}"
    );
    let mut copy = LocalCopy::start(&schema).await;
    copy.set("PG_USER_NAME", "reporter");
    copy
}

fn line(table: &str, op: &str, data: &str, old: &str) -> String {
    let data = if data.is_empty() { String::new() } else { format!(r#","data":{{{data}}}"#) };
    let old = if old.is_empty() { String::new() } else { format!(r#","old_keys":{{{old}}}"#) };
    format!(r#"{{"table":"{table}","op":"{op}"{data}{old}}}"#)
}

fn come(table: &str, data: &str) -> String {
    line(table, "INSERT", data, "")
}

fn gone(table: &str, old: &str) -> String {
    line(table, "DELETE", "", old)
}

fn changed(table: &str, old: &str, data: &str) -> String {
    line(table, "UPDATE", data, old)
}

async fn states(copy: &LocalCopy) -> String {
    copy.rows("SELECT table_name, state FROM data_sync_table_state WHERE state <> 'live' ORDER BY 1").await
}

/// Pairs of a parent and a child: `p1` and `c1` with this action here, and so on.
fn pairs(actions: &[&str]) -> String {
    let pair = |(number, action): (usize, &&str)| {
        format!(
            "CREATE TABLE p{number} (id int PRIMARY KEY);
             CREATE TABLE c{number} (id int PRIMARY KEY, p int DEFAULT 1 REFERENCES p{number} {action}, v text);"
        )
    };
    actions.iter().enumerate().map(pair).collect()
}

fn describe_pairs(copy: &mut LocalCopy, count: usize) -> (Vec<String>, Vec<String>) {
    let (mut tables, mut rows) = (Vec::new(), Vec::new());
    for number in 0..count {
        let (p, c) = (format!("p{number}"), format!("c{number}"));
        copy.forge.relation(&p, &["id integer not null"], &["id"]);
        copy.forge.relation(&c, &["id integer not null", "p integer", "v text"], &["id"]);
        for id in 1..=2 {
            rows.push(come(&p, &format!(r#""id":{id}"#)));
        }
        rows.push(come(&c, r#""id":7,"p":2,"v":"x""#));
        tables.extend([p, c]);
    }
    (tables, rows)
}

/// Production has no such key, or one that does something else; and its tables have changes of their own beside it.
#[tokio::test]
async fn what_a_key_of_the_copy_does_beside_a_table_s_own_changes_is_noticed() {
    let actions = [
        "ON DELETE CASCADE",
        "ON DELETE CASCADE",
        "ON DELETE SET NULL",
        "ON DELETE CASCADE",
        "ON UPDATE CASCADE",
    ];
    let mut copy = as_reporter(&format!(
        "{} CREATE TABLE emp (id int PRIMARY KEY, boss int REFERENCES emp ON DELETE CASCADE);
         CREATE TABLE d (id int PRIMARY KEY, c int REFERENCES c3 ON DELETE CASCADE);
         CREATE TABLE g (id int PRIMARY KEY);
         CREATE TABLE two (id int PRIMARY KEY, a int REFERENCES g ON DELETE SET NULL, b int REFERENCES g ON DELETE CASCADE)",
        pairs(&actions)
    ))
    .await;
    let (mut tables, mut rows) = describe_pairs(&mut copy, actions.len());
    copy.forge.relation("emp", &["id integer not null", "boss integer"], &["id"]);
    copy.forge.relation("d", &["id integer not null", "c integer"], &["id"]);
    rows.extend([
        come("emp", r#""id":1,"boss":null"#),
        come("emp", r#""id":2,"boss":1"#),
        come("d", r#""id":5,"c":7"#),
        come("g", r#""id":2"#),
        come("two", r#""id":7,"a":2,"b":2"#),
    ]);
    copy.forge.relation("g", &["id integer not null"], &["id"]);
    copy.forge.relation("two", &["id integer not null", "a integer", "b integer"], &["id"]);
    tables.extend(["emp", "d", "g", "two"].map(str::to_owned));
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    copy.applier(&[&["add-tables"][..], &tables].concat()).succeed().await;
    copy.forge.segment(&[rows]);
    copy.sync(0).await;

    copy.forge.segment(&[
        // Nothing at production refers to it.
        vec![come("c0", r#""id":8,"p":1,"v":"x""#), gone("p0", r#""id":2"#)],
        // ON DELETE SET NULL there.
        vec![gone("p1", r#""id":2"#), changed("c1", r#""id":7"#, r#""id":7,"p":null,"v":"x""#)],
        vec![gone("p2", r#""id":2"#), come("c2", r#""id":8,"p":1,"v":"x""#)],
        // The child goes there too, and what refers to it stays.
        vec![gone("p3", r#""id":2"#), gone("c3", r#""id":7"#), come("d", r#""id":6,"c":null"#)],
        vec![changed("p4", r#""id":2"#, r#""id":3"#), come("c4", r#""id":8,"p":1,"v":"x""#)],
        vec![gone("emp", r#""id":1"#)],
        // One key of the copy sets what the other one takes; only the first is production's too.
        vec![gone("g", r#""id":2"#), changed("two", r#""id":7"#, r#""id":7,"a":null,"b":2"#)],
    ]);
    let said = copy.sync(1).await;
    let all = ["c0", "c1", "c2", "c4", "d", "emp", "two"].map(|table| format!("{table},quarantined"));
    assert_eq!(states(&copy).await, all.join(" "), "{said}");
    assert!(said.contains("c0: quarantined: a foreign key of the copy changed rows of it"), "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM c3").await, "0");
    copy.applier(&["retry", "c0"]).run().await.expect_code(1);
}

/// The same keys at production: the stream says what they did there.
#[tokio::test]
async fn what_production_s_own_keys_do_is_believed() {
    let actions = [
        "ON DELETE CASCADE",
        "ON DELETE SET NULL",
        "ON DELETE SET DEFAULT",
        "ON UPDATE CASCADE",
        // Here the rows go with their parent, there they are told one by one.
        "ON DELETE SET NULL",
    ];
    let mut copy = as_reporter(&format!(
        "{} CREATE TABLE emp (id int PRIMARY KEY, boss int REFERENCES emp ON DELETE CASCADE);
         CREATE TABLE d (id int PRIMARY KEY, c int REFERENCES c0 ON DELETE CASCADE);
         CREATE TABLE r (id int PRIMARY KEY);
         CREATE TABLE l (r int REFERENCES r ON UPDATE CASCADE ON DELETE CASCADE, n numeric, ok bool, PRIMARY KEY (r, n));
         CREATE TABLE f (r int REFERENCES r ON DELETE SET NULL, n numeric, ok bool);
         CREATE TABLE buyers (id int PRIMARY KEY);
         CREATE TABLE orders (id int PRIMARY KEY, buyer int REFERENCES buyers ON DELETE CASCADE) PARTITION BY RANGE (id);
         CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
         CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20);
         CREATE TABLE items (id int PRIMARY KEY, o int REFERENCES orders ON DELETE CASCADE)",
        pairs(&actions)
    ))
    .await;
    let (mut tables, mut rows) = describe_pairs(&mut copy, actions.len());
    copy.forge.relation("emp", &["id integer not null", "boss integer"], &["id"]);
    copy.forge.relation("d", &["id integer not null", "c integer"], &["id"]);
    copy.forge.relation("r", &["id integer not null"], &["id"]);
    let columns = ["r integer not null", "n numeric not null", "ok boolean"];
    copy.forge.relation("l", &columns, &["r", "n"]);
    let columns = ["r integer", "n numeric", "ok boolean"];
    copy.forge.relation_with("f", &columns, &[], ReplicaIdentity::Full);
    rows.extend([
        come("emp", r#""id":1,"boss":1"#),
        come("emp", r#""id":2,"boss":1"#),
        come("emp", r#""id":3,"boss":2"#),
        come("d", r#""id":5,"c":7"#),
        come("r", r#""id":1"#),
        come("r", r#""id":2"#),
        come("l", r#""r":1,"n":1.50,"ok":true"#),
        come("l", r#""r":2,"n":2.50,"ok":true"#),
        come("f", r#""r":2,"n":1.50,"ok":true"#),
        come("f", r#""r":2,"n":1.50,"ok":true"#),
    ]);
    copy.forge.relation("buyers", &["id integer not null"], &["id"]);
    copy.forge.relation("orders", &["id integer not null", "buyer integer"], &["id"]);
    copy.forge.relation("items", &["id integer not null", "o integer"], &["id"]);
    rows.extend([1, 2].map(|id| come("buyers", &format!(r#""id":{id}"#))));
    // Two partitions, where rows of the two buyers lie at the same places.
    for (id, buyer) in [(1, 1), (2, 2), (11, 2), (12, 1)] {
        rows.push(come("orders", &format!(r#""id":{id},"buyer":{buyer}"#)));
        rows.push(come("items", &format!(r#""id":{id},"o":{id}"#)));
    }
    tables.extend(["emp", "d", "r", "l", "f", "buyers", "orders", "items"].map(str::to_owned));
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    copy.applier(&[&["add-tables"][..], &tables].concat()).succeed().await;
    copy.forge.segment(&[rows]);
    copy.sync(0).await;

    let unset = || changed("f", r#""r":2,"n":1.50,"ok":true"#, r#""r":null,"n":1.50,"ok":true"#);
    copy.forge.segment(&[
        vec![
            gone("p0", r#""id":2"#),
            gone("c0", r#""id":7"#),
            gone("d", r#""id":5"#),
            // The same key comes again.
            come("c0", r#""id":7,"p":1,"v":"y""#),
        ],
        vec![gone("p1", r#""id":2"#), changed("c1", r#""id":7"#, r#""id":7,"p":null,"v":"x""#)],
        vec![gone("p2", r#""id":2"#), changed("c2", r#""id":7"#, r#""id":7,"p":1,"v":"x""#)],
        vec![changed("p3", r#""id":2"#, r#""id":3"#), changed("c3", r#""id":7"#, r#""id":7,"p":3,"v":"x""#)],
        vec![gone("p4", r#""id":2"#), gone("c4", r#""id":7"#)],
        vec![gone("emp", r#""id":1"#), gone("emp", r#""id":2"#), gone("emp", r#""id":3"#)],
        vec![
            changed("r", r#""id":1"#, r#""id":9"#),
            changed("l", r#""r":1,"n":1.50"#, r#""r":9,"n":1.50,"ok":true"#),
        ],
        vec![gone("r", r#""id":2"#), gone("l", r#""r":2,"n":2.50"#), unset(), unset()],
        vec![
            gone("buyers", r#""id":1"#),
            gone("orders", r#""id":1"#),
            gone("orders", r#""id":12"#),
            gone("items", r#""id":1"#),
            gone("items", r#""id":12"#),
        ],
    ]);
    let said = copy.sync(0).await;
    assert_eq!(states(&copy).await, "", "{said}");
    assert_eq!(copy.rows("SELECT id FROM items ORDER BY id").await, "2 11");
    assert_eq!(copy.rows("SELECT * FROM c0 UNION ALL SELECT * FROM c2").await, "7,1,y 7,1,x");
    assert_eq!(copy.rows("SELECT * FROM c1 UNION ALL SELECT * FROM c3").await, "7,NULL,x 7,3,x");
    assert_eq!(
        copy.rows("SELECT id FROM c4 UNION ALL SELECT id FROM emp UNION ALL SELECT id FROM d").await,
        ""
    );
    assert_eq!(copy.rows("SELECT * FROM l").await, "9,1.50,t");
    assert_eq!(copy.rows("SELECT * FROM f").await, "NULL,1.50,t NULL,1.50,t");
}

/// A row that goes and comes again, for a column that the server lets nobody update, or that makes way for another one.
#[tokio::test]
async fn a_row_that_would_go_for_a_moment_takes_no_child_along() {
    let mut copy = as_reporter(
        "CREATE TABLE p (code text PRIMARY KEY, seq bigint GENERATED ALWAYS AS IDENTITY);
         CREATE TABLE c (id int PRIMARY KEY, p text REFERENCES p ON DELETE CASCADE);
         CREATE TABLE q (code text PRIMARY KEY, seq bigint GENERATED ALWAYS AS IDENTITY);
         CREATE TABLE s (id int PRIMARY KEY, q text REFERENCES q ON DELETE CASCADE);
         CREATE TABLE w (code text PRIMARY KEY);
         CREATE TABLE y (id int PRIMARY KEY, w text REFERENCES w ON DELETE CASCADE)",
    )
    .await;
    for table in ["p", "q"] {
        copy.forge.relation(table, &["code text not null", "seq bigint not null always"], &["code"]);
    }
    copy.forge.relation("w", &["code text not null"], &["code"]);
    for (table, parent) in [("c", "p"), ("s", "q"), ("y", "w")] {
        copy.forge.relation(table, &["id integer not null", &format!("{parent} text")], &["id"]);
    }
    copy.applier(&["add-tables", "p", "c", "q", "s", "w", "y"]).succeed().await;
    copy.forge.segment(&[vec![
        come("p", r#""code":"a","seq":1"#),
        come("c", r#""id":7,"p":"a""#),
        come("q", r#""code":"a","seq":1"#),
        come("s", r#""id":7,"q":"a""#),
        come("w", r#""code":"a""#),
    ]]);
    copy.sync(0).await;
    copy.server.execute("INSERT INTO w VALUES ('b'); INSERT INTO y VALUES (7, 'b')").await;
    copy.forge.segment(&[vec![
        changed("p", r#""code":"a""#, r#""code":"a","seq":2"#),
        come("q", r#""code":"a","seq":2"#),
        changed("w", r#""code":"a""#, r#""code":"b""#),
    ]]);
    let said = copy.sync(1).await;
    assert_eq!(states(&copy).await, "p,quarantined q,quarantined y,quarantined", "{said}");
    let children = "SELECT * FROM c UNION ALL SELECT * FROM s";
    assert_eq!(copy.rows(children).await, "7,a 7,a", "{said}");
    for table in ["p", "q"] {
        let remedy = format!(r#"ALTER TABLE "public"."{table}" ALTER COLUMN "seq" SET GENERATED BY DEFAULT"#);
        assert!(said.contains(&remedy), "{said}");
        copy.server.execute(&remedy).await;
    }
    copy.applier(&["retry", "p", "q"]).run().await.expect_code(1);
    assert_eq!(states(&copy).await, "y,quarantined");
    assert_eq!(copy.rows(children).await, "7,a 7,a");
    assert_eq!(copy.rows("SELECT * FROM p UNION ALL SELECT * FROM q").await, "a,2 a,2");
}

/// Statements of all kinds say how many rows they change.
#[tokio::test]
async fn a_trigger_is_watched_whatever_statements_write_into_the_table_that_it_changes() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE x (id int PRIMARY KEY);
         CREATE TABLE b (id int PRIMARY KEY, n int, seq int GENERATED ALWAYS AS IDENTITY);
         CREATE TABLE e (id int PRIMARY KEY DEFERRABLE, n int); CREATE TABLE audit (id int);
         CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.audit VALUES (NEW.id); RETURN NULL; END $$;
         CREATE FUNCTION spoils() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN EXECUTE pg_catalog.format('UPDATE public.%I SET n = n + 1', TG_ARGV[0]); RETURN NULL; END $$;
         CREATE TRIGGER notes AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION notes();
         CREATE TRIGGER spoils AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION spoils('b');
         CREATE TRIGGER spoils AFTER INSERT ON x FOR EACH ROW EXECUTE FUNCTION spoils('e');
         ALTER TABLE a DISABLE TRIGGER spoils; ALTER TABLE x DISABLE TRIGGER spoils;
         ALTER TABLE a ENABLE ALWAYS TRIGGER notes",
    )
    .await;
    for table in ["a", "x"] {
        copy.forge.relation(table, &["id integer not null"], &["id"]);
    }
    copy.forge.relation("b", &["id integer not null", "n integer", "seq integer not null always"], &["id"]);
    copy.forge.relation("e", &["id integer not null", "n integer"], &["id"]);
    copy.applier(&["add-tables", "a", "x", "b", "e"]).succeed().await;
    let b = |id: u32, n: u32, seq: u32| format!(r#""id":{id},"n":{n},"seq":{seq}"#);
    let e = |id: u32, n: u32| format!(r#""id":{id},"n":{n}"#);
    let many = (100..900).map(|id| come("b", &b(id, 0, id)));
    copy.forge.segment(&[many.chain([come("b", &b(1, 1, 1)), come("e", &e(1, 1))]).collect()]);
    copy.sync(0).await;
    copy.forge.segment(&[vec![
        come("a", r#""id":1"#),
        come("b", &b(1, 2, 1)),
        come("b", &b(100, 2, 7)),
        changed("b", r#""id":101"#, &b(101, 2, 8)),
        changed("b", r#""id":102"#, &b(102, 2, 102)),
        changed("b", r#""id":103"#, &b(2, 2, 9)),
        come("b", &b(3, 2, 3)),
        come("e", &e(1, 2)),
        come("e", &e(2, 2)),
        changed("e", r#""id":2"#, &e(3, 2)),
    ]]);
    let many = (200..900).map(|id| changed("b", &format!(r#""id":{id}"#), &b(id, 0, id + id % 2)));
    copy.forge.segment(&[many.chain([come("a", r#""id":2"#)]).collect()]);
    let said = copy.sync(0).await;
    assert_eq!(states(&copy).await, "", "{said}");
    let rows = "SELECT (SELECT sum(n) FROM b), (SELECT count(*) FROM b), (SELECT sum(n) FROM e)";
    assert_eq!(copy.rows(rows).await, "12,802,4");

    copy.server
        .execute("ALTER TABLE a ENABLE ALWAYS TRIGGER spoils; ALTER TABLE x ENABLE ALWAYS TRIGGER spoils")
        .await;
    copy.forge.segment(&[vec![come("a", r#""id":3"#), come("b", &b(4, 0, 4))]]);
    copy.forge.segment(&[vec![come("x", r#""id":3"#), come("e", &e(4, 0))]]);
    let said = copy.sync(1).await;
    assert_eq!(states(&copy).await, "a,quarantined x,quarantined", "{said}");
    copy.server.execute("ALTER TABLE a DISABLE TRIGGER spoils; ALTER TABLE x DISABLE TRIGGER spoils").await;
    copy.applier(&["retry", "a", "x"]).succeed().await;
    assert_eq!(copy.rows(rows).await, "12,803,4");
}

/// Foreign keys lead to a table that is not synced, and its trigger comes back to one that is.
#[tokio::test]
async fn a_trigger_to_which_a_foreign_key_leads_is_watched_too() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE s (id int PRIMARY KEY, n int);
         CREATE TABLE notes (p int REFERENCES p ON DELETE CASCADE); CREATE TABLE audit (id int);
         CREATE FUNCTION writes() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.audit VALUES (OLD.p); RETURN NULL; END $$;
         CREATE FUNCTION spoils() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE public.s SET n = n + 100; RETURN NULL; END $$;
         CREATE TRIGGER writes AFTER DELETE ON notes FOR EACH ROW EXECUTE FUNCTION writes();
         CREATE TRIGGER spoils AFTER DELETE ON notes FOR EACH ROW EXECUTE FUNCTION spoils();
         ALTER TABLE notes DISABLE TRIGGER spoils",
    )
    .await;
    copy.forge.relation("p", &["id integer not null"], &["id"]);
    copy.forge.relation("s", &["id integer not null", "n integer"], &["id"]);
    copy.applier(&["add-tables", "p", "s"]).succeed().await;
    let rows = (1..=4).map(|id| come("p", &format!(r#""id":{id}"#)));
    copy.forge.segment(&[rows.chain([come("s", r#""id":1,"n":1"#)]).collect()]);
    copy.sync(0).await;
    copy.server.execute("INSERT INTO notes VALUES (1), (2), (3)").await;
    copy.forge.segment(&[vec![gone("p", r#""id":1"#)]]);
    copy.sync(0).await;
    assert_eq!(states(&copy).await, "", "what changes no synced table is its owner's business");
    assert_eq!(copy.rows("SELECT count(*) FROM audit").await, "1");

    copy.server
        .execute("ALTER TABLE notes ENABLE TRIGGER spoils; ALTER TABLE notes DISABLE TRIGGER writes")
        .await;
    copy.forge.segment(&[vec![gone("p", r#""id":2"#), come("s", r#""id":2,"n":1"#)]]);
    let said = copy.sync(1).await;
    assert_eq!(states(&copy).await, "p,quarantined", "{said}");
    assert_eq!(copy.rows("SELECT * FROM s ORDER BY 1").await, "1,1 2,1", "{said}");
    let remedy = r#"ALTER TABLE "public"."notes" DISABLE TRIGGER "spoils""#;
    assert!(said.contains(remedy), "{said}");
    copy.server.execute(remedy).await;
    copy.applier(&["retry", "p"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM s ORDER BY 1").await, "1,1 2,1");
    assert_eq!(copy.rows("SELECT * FROM p ORDER BY 1").await, "3 4");
}

/// The same where foreign keys act on the table that it changes, whose own changes come in the same transaction; and where rows move
/// into other partitions, which counts as two changes.
#[tokio::test]
async fn what_a_trigger_changes_is_told_from_what_keys_and_moves_between_partitions_do() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text);
         CREATE TABLE o (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE, n int);
         CREATE TABLE ev (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM (0) TO (10);
         CREATE TABLE ev_2 PARTITION OF ev FOR VALUES FROM (10) TO (20);
         CREATE TABLE notes (p int REFERENCES p ON DELETE CASCADE, o int, at timestamptz);
         CREATE FUNCTION stamps() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN OLD.at = now(); RETURN OLD; END $$;
         CREATE FUNCTION spoils() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE public.o SET n = n + 100 WHERE id = OLD.o; RETURN NULL; END $$;
         CREATE TRIGGER stamps BEFORE DELETE ON notes FOR EACH ROW EXECUTE FUNCTION stamps();
         CREATE TRIGGER spoils AFTER DELETE ON notes FOR EACH ROW EXECUTE FUNCTION spoils();
         ALTER TABLE notes DISABLE TRIGGER spoils",
    )
    .await;
    copy.forge.relation("p", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("o", &["id integer not null", "p integer", "n integer"], &["id"]);
    copy.forge.relation("ev", &["id integer not null", "day integer not null", "v text"], &["id", "day"]);
    copy.applier(&["add-tables", "p", "o", "ev"]).succeed().await;
    let mut rows: Vec<String> = (1..=4).map(|id| come("p", &format!(r#""id":{id},"v":"v""#))).collect();
    rows.extend((1..=8).map(|id| come("o", &format!(r#""id":{id},"p":{},"n":0"#, 1 + id % 4))));
    rows.extend((1..=4).map(|id| come("ev", &format!(r#""id":{id},"day":1,"v":"v""#))));
    copy.forge.segment(&[rows]);
    copy.sync(0).await;
    copy.server.execute("INSERT INTO notes VALUES (1, 5), (2, 6)").await;
    copy.forge.segment(&[vec![
        gone("o", r#""id":4"#),
        gone("o", r#""id":8"#),
        gone("p", r#""id":1"#),
        changed("ev", r#""id":1,"day":1"#, r#""id":1,"day":11,"v":"v""#),
        changed("ev", r#""id":2,"day":1"#, r#""id":2,"day":1,"v":"w""#),
        changed("ev", r#""id":3,"day":1"#, r#""id":33,"day":12,"v":"x""#),
    ]]);
    let said = copy.sync(0).await;
    assert_eq!(states(&copy).await, "", "{said}");
    assert_eq!(copy.rows("SELECT * FROM ev ORDER BY 1").await, "1,11,v 2,1,w 4,1,v 33,12,x");

    copy.server.execute("ALTER TABLE notes ENABLE TRIGGER spoils").await;
    copy.forge.segment(&[vec![
        gone("o", r#""id":1"#),
        gone("o", r#""id":5"#),
        gone("p", r#""id":2"#),
        come("o", r#""id":9,"p":3,"n":0"#),
    ]]);
    let said = copy.sync(1).await;
    assert_eq!(states(&copy).await, "p,quarantined", "{said}");
    assert_eq!(copy.rows("SELECT sum(n) FROM o").await, "0", "{said}");
}

/// A trigger of a table that is not synced, which acts when nobody writes any more.
#[tokio::test]
async fn a_trigger_that_is_reached_and_deferred_is_watched_too() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE s (id int PRIMARY KEY, n int); CREATE TABLE u (id int);
         CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.u VALUES (NEW.id); RETURN NULL; END $$;
         CREATE FUNCTION spoils() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE public.s SET n = n + 100; RETURN NULL; END $$;
         CREATE TRIGGER notes AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION notes();
         CREATE CONSTRAINT TRIGGER spoils AFTER INSERT ON u DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION spoils();
         ALTER TABLE a ENABLE ALWAYS TRIGGER notes; ALTER TABLE u ENABLE ALWAYS TRIGGER spoils;
         ALTER TABLE u DISABLE TRIGGER spoils",
    )
    .await;
    copy.forge.relation("a", &["id integer not null"], &["id"]);
    copy.forge.relation("s", &["id integer not null", "n integer"], &["id"]);
    copy.applier(&["add-tables", "a", "s"]).succeed().await;
    copy.forge.segment(&[vec![come("a", r#""id":1"#), come("s", r#""id":1,"n":1"#)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM u").await, "1");
    copy.server.execute("ALTER TABLE u ENABLE ALWAYS TRIGGER spoils").await;
    copy.forge.segment(&[vec![come("a", r#""id":2"#), come("s", r#""id":2,"n":1"#)]]);
    let said = copy.sync(1).await;
    assert_eq!(states(&copy).await, "a,quarantined", "{said}");
    assert_eq!(copy.rows("SELECT * FROM s ORDER BY 1").await, "1,1 2,1", "{said}");
    copy.server.execute("ALTER TABLE u DISABLE TRIGGER spoils").await;
    copy.applier(&["retry", "a"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM s ORDER BY 1").await, "1,1 2,1");
}

/// Somebody has told a foreign key's trigger to act on what is applied.
#[tokio::test]
async fn a_foreign_key_that_acts_under_the_replica_role_is_noticed() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE);
         DO $$ DECLARE t record; BEGIN
             FOR t IN SELECT tgname, tgrelid::regclass AS tab FROM pg_trigger WHERE tgisinternal LOOP
                 EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.tab, t.tgname);
             END LOOP; END $$",
    )
    .await;
    copy.forge.relation("p", &["id integer not null"], &["id"]);
    copy.forge.relation("c", &["id integer not null", "p integer"], &["id"]);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![come("c", r#""id":7,"p":null"#)]]);
    copy.sync(0).await;
    copy.forge.segment(&[vec![come("p", r#""id":1"#)]]);
    let said = copy.sync(1).await;
    assert_eq!(states(&copy).await, "p,quarantined", "{said}");
    // Two triggers of the key act on the table.
    for _ in 0..2 {
        let remedy = r#"ALTER TABLE "public"."p" ENABLE TRIGGER "RI_ConstraintTrigger_a_"#;
        let reason = copy.rows("SELECT reason FROM data_sync_table_state WHERE table_name = 'p'").await;
        let at = reason.find(remedy).unwrap_or_else(|| panic!("{reason}"));
        let statement: String = reason[at..].chars().take_while(|letter| *letter != ';').collect();
        copy.server.execute(statement.trim_end_matches(',')).await;
        copy.applier(&["retry", "p"]).run().await;
    }
    assert_eq!(states(&copy).await, "", "it is as it was made");
}

/// Triggers of the copy change rows of a partitioned table beside its own changes: rows that are new, are overwritten, move between
/// partitions, or go and come again, and none of that hides what the trigger does.
#[tokio::test]
async fn what_a_trigger_changes_does_not_pass_for_rows_that_move_between_partitions() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE p (id int, r text, v int, note text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
         CREATE TABLE pa PARTITION OF p FOR VALUES IN ('a'); CREATE TABLE pb PARTITION OF p FOR VALUES IN ('b');
         CREATE TABLE f (id float8, r int, v int, seq int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
         CREATE TABLE fa PARTITION OF f FOR VALUES IN (1); CREATE TABLE fb PARTITION OF f FOR VALUES IN (2);
         CREATE TABLE o (id int PRIMARY KEY); CREATE TABLE audit (id int);
         CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.audit VALUES (1); RETURN NULL; END $$;
         CREATE FUNCTION touches() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF pg_trigger_depth() < 2 THEN UPDATE public.p SET note = 'touched' WHERE id = NEW.id; END IF; RETURN NULL; END $$;
         CREATE FUNCTION takes() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN DELETE FROM public.p WHERE id = 6; DELETE FROM public.f WHERE id = 6; RETURN NULL; END $$;
         CREATE TRIGGER notes AFTER INSERT ON o FOR EACH ROW EXECUTE FUNCTION notes();
         CREATE TRIGGER takes AFTER INSERT ON o FOR EACH ROW EXECUTE FUNCTION takes();
         CREATE TRIGGER touches AFTER UPDATE ON p FOR EACH ROW EXECUTE FUNCTION touches();
         ALTER TABLE o DISABLE TRIGGER takes; ALTER TABLE p DISABLE TRIGGER touches; ALTER TABLE o ENABLE ALWAYS TRIGGER notes",
    )
    .await;
    let p = ["id integer not null", "r text not null", "v integer", "note text"];
    copy.forge.relation("p", &p, &["id", "r"]);
    let f =
        ["id double precision not null", "r integer not null", "v integer", "seq integer not null always"];
    copy.forge.relation("f", &f, &["id", "r"]);
    copy.forge.relation("o", &["id integer not null"], &["id"]);
    copy.applier(&["add-tables", "p", "f", "o"]).succeed().await;
    let in_p = |id: u32, r: &str, v: u32| format!(r#""id":{id},"r":"{r}","v":{v},"note":"n""#);
    let in_f = |id: u32, r: u32, v: u32, seq: u32| format!(r#""id":{id},"r":{r},"v":{v},"seq":{seq}"#);
    let mut rows: Vec<String> = (1..=700).map(|id| come("p", &in_p(id, "a", 0))).collect();
    rows.extend((1..=9).map(|id| come("f", &in_f(id, 1, 0, id))));
    copy.forge.segment(&[rows]);
    copy.sync(0).await;

    // All that may happen to rows, beside a trigger that changes none of them. Few rows travel otherwise than many.
    let all = |o: u32, few: u32| {
        let mut rows = vec![
            come("o", &format!(r#""id":{o}"#)),
            changed("p", &format!(r#""id":{few},"r":"a""#), &in_p(few, "b", 1)),
            changed("p", &format!(r#""id":{},"r":"a""#, few + 1), &in_p(few + 1, "a", 1)),
            come("p", &in_p(few + 2, "a", 1)),
            come("p", &in_p(1000 + few, "a", 1)),
            gone("p", &format!(r#""id":{},"r":"a""#, few + 3)),
            changed("f", r#""id":1,"r":1"#, &in_f(1, 2, o, 1)),
            changed("f", r#""id":2,"r":1"#, &in_f(2, 1, o, 200 + o)),
            come("f", &in_f(3, 1, o, 3)),
            come("f", &in_f(4, 1, o, 400 + o)),
            come("f", &in_f(100 + o, 1, o, 500 + o)),
        ];
        rows.push(changed("f", r#""id":1,"r":2"#, &in_f(1, 1, o, 1)));
        rows
    };
    copy.forge.segment(&[all(1, 10)]);
    let many = (100..=699).flat_map(|id| {
        let to = if id % 2 == 0 { "b" } else { "a" };
        [come("p", &in_p(id + 2000, to, 1)), changed("p", &format!(r#""id":{id},"r":"a""#), &in_p(id, to, 2))]
    });
    copy.forge.segment(&[all(2, 20).into_iter().chain(many).collect()]);
    // Rows of which the copy has some already.
    let again = (2100..=2800).map(|id| come("p", &in_p(id, if id % 2 == 0 { "b" } else { "a" }, 1)));
    copy.forge.segment(&[all(3, 30).into_iter().chain(again).collect()]);
    let said = copy.sync(0).await;
    assert_eq!(states(&copy).await, "", "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM audit").await, "3");
    let counted = "SELECT count(*), sum(v) FROM p UNION ALL SELECT count(*), sum(v) FROM f";
    let before = copy.rows(counted).await;

    // A deleted row is none that has moved, whatever else moves and comes.
    copy.server.execute("ALTER TABLE o ENABLE ALWAYS TRIGGER takes").await;
    copy.forge.segment(&[vec![
        come("o", r#""id":4"#),
        changed("p", r#""id":40,"r":"a""#, &in_p(40, "b", 0)),
        come("p", &in_p(3000, "a", 0)),
    ]]);
    copy.sync(1).await;
    assert_eq!(states(&copy).await, "o,quarantined");
    copy.server.execute("ALTER TABLE o DISABLE TRIGGER takes").await;
    copy.applier(&["retry", "o"]).succeed().await;
    copy.server.execute("DELETE FROM p WHERE id = 3000; ALTER TABLE o ENABLE ALWAYS TRIGGER takes").await;
    copy.forge.segment(&[vec![
        come("o", r#""id":5"#),
        come("f", &in_f(900, 1, 0, 900)),
        changed("f", r#""id":5,"r":1"#, &in_f(5, 2, 0, 5)),
    ]]);
    copy.sync(1).await;
    assert_eq!(states(&copy).await, "o,quarantined");
    copy.server.execute("ALTER TABLE o DISABLE TRIGGER takes").await;
    copy.applier(&["retry", "o"]).succeed().await;
    copy.server.execute("DELETE FROM f WHERE id = 900").await;
    assert_eq!(copy.rows(counted).await, before);

    // As many rows as were updated.
    copy.server.execute("ALTER TABLE p ENABLE ALWAYS TRIGGER touches").await;
    copy.forge.segment(&[vec![
        changed("p", r#""id":50,"r":"a""#, &in_p(50, "a", 0)),
        changed("p", r#""id":51,"r":"a""#, &in_p(51, "a", 0)),
    ]]);
    copy.sync(1).await;
    assert_eq!(states(&copy).await, "p,quarantined");
    assert_eq!(copy.rows("SELECT count(*) FROM p WHERE note = 'touched'").await, "0");
}

/// A foreign key acts twice on a row, and one leads to a trigger that changes that row's table too.
#[tokio::test]
async fn a_trigger_does_not_hide_behind_a_row_on_which_keys_act_twice() {
    let mut copy = as_reporter(
        "CREATE TABLE g (id int PRIMARY KEY);
         CREATE TABLE two (id int PRIMARY KEY, a int REFERENCES g ON DELETE SET NULL, b int REFERENCES g ON DELETE SET NULL, n int);
         CREATE TABLE notes (g int REFERENCES g ON DELETE CASCADE); CREATE TABLE audit (id int);
         CREATE FUNCTION writes() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.audit VALUES (1); RETURN NULL; END $$;
         CREATE FUNCTION spoils() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN UPDATE public.two SET n = n + 100 WHERE id = 9; RETURN NULL; END $$;
         CREATE TRIGGER writes AFTER DELETE ON notes FOR EACH ROW EXECUTE FUNCTION writes();
         CREATE TRIGGER spoils AFTER DELETE ON notes FOR EACH ROW EXECUTE FUNCTION spoils();
         ALTER TABLE notes DISABLE TRIGGER spoils",
    )
    .await;
    copy.forge.relation("g", &["id integer not null"], &["id"]);
    copy.forge.relation("two", &["id integer not null", "a integer", "b integer", "n integer"], &["id"]);
    copy.applier(&["add-tables", "g", "two"]).succeed().await;
    let row = |id: u32, g: &str| format!(r#""id":{id},"a":{g},"b":{g},"n":0"#);
    let mut rows: Vec<String> = (1..=2).map(|id| come("g", &format!(r#""id":{id}"#))).collect();
    rows.extend([come("two", &row(1, "1")), come("two", &row(2, "2")), come("two", &row(9, "null"))]);
    copy.forge.segment(&[rows]);
    copy.sync(0).await;
    copy.server.execute("INSERT INTO notes VALUES (1), (2)").await;
    let goes = |id: u32| {
        let old = format!(r#""id":{id}"#);
        vec![gone("g", &old), changed("two", &old, &row(id, "null"))]
    };
    copy.forge.segment(&[goes(1)]);
    let said = copy.sync(0).await;
    assert_eq!(states(&copy).await, "", "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM audit").await, "1");
    copy.server.execute("ALTER TABLE notes ENABLE TRIGGER spoils").await;
    copy.forge.segment(&[goes(2)]);
    let said = copy.sync(1).await;
    assert_eq!(states(&copy).await, "g,quarantined", "{said}");
    assert_eq!(copy.rows("SELECT sum(n) FROM two").await, "0");
}
