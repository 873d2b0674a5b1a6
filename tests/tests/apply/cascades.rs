//! What acts on its own in the copy: cascades of foreign keys, triggers that always fire, constraints at the commit.

use syncdata_tests::LocalCopy;

/// Without the right to the replica role: foreign keys act on what is applied.
async fn as_reporter(tables: &str) -> LocalCopy {
    let schema = format!(
        "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter;
         GRANT ALL ON SCHEMA public TO reporter; SET ROLE reporter; {tables}"
    );
    let mut copy = LocalCopy::start(&schema).await;
    copy.set("PG_USER_NAME", "reporter");
    describe(&mut copy);
    copy
}

fn describe(copy: &mut LocalCopy) {
    copy.forge.relation("p", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("c", &["id integer not null", "p integer"], &["id"]);
}

fn parent(id: u32) -> String {
    format!(r#"{{"table":"p","op":"INSERT","data":{{"id":{id},"v":"x"}}}}"#)
}

fn renamed(id: u32) -> String {
    format!(r#"{{"table":"p","op":"UPDATE","data":{{"id":{id},"v":"y"}},"old_keys":{{"id":{id}}}}}"#)
}

fn child(id: u32, p: u32) -> String {
    format!(r#"{{"table":"c","op":"INSERT","data":{{"id":{id},"p":{p}}}}}"#)
}

fn moved(id: u32, p: u32) -> String {
    format!(r#"{{"table":"c","op":"UPDATE","data":{{"id":{id},"p":{p}}},"old_keys":{{"id":{id}}}}}"#)
}

fn gone(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"DELETE","old_keys":{{"id":{id}}}}}"#)
}

#[tokio::test]
async fn a_cascade_in_the_copy_takes_no_row_that_had_left_its_parent() {
    for action in ["CASCADE", "SET NULL", "SET DEFAULT"] {
        let mut copy = as_reporter(&format!(
            "CREATE TABLE p (id int PRIMARY KEY, v text);
             CREATE TABLE c (id int PRIMARY KEY, p int DEFAULT 1 REFERENCES p ON DELETE {action})"
        ))
        .await;
        copy.applier(&["add-tables", "p", "c"]).succeed().await;
        copy.forge.segment(&[vec![parent(1), parent(2), parent(3), child(7, 2), child(8, 2)]]);
        copy.sync(0).await;
        // Netted, the parent would go first: it is the first table of the batch.
        copy.forge.segment(&[vec![renamed(1), moved(7, 3), gone("p", 2), gone("c", 8)]]);
        copy.sync(0).await;
        assert_eq!(copy.rows("SELECT * FROM c ORDER BY id").await, "7,3", "{action}");
        assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "1 3", "{action}");
    }
}

/// Both are made anew together, and the one that it acts on cannot be.
#[tokio::test]
async fn a_base_that_takes_rows_of_a_table_along_whose_own_is_refused_is_noticed() {
    let mut copy = as_reporter(
        "CREATE TABLE a (id int PRIMARY KEY, v text CONSTRAINT held CHECK (v <> 'bad'));
         CREATE TABLE b (id int PRIMARY KEY, p int REFERENCES a ON DELETE CASCADE, CONSTRAINT odd CHECK (id <> 99))",
    )
    .await;
    copy.forge.relation("a", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("b", &["id integer not null", "p integer"], &["id"]);
    let a = |line: String| line.replace(r#""p","op""#, r#""a","op""#);
    let b = |line: String| line.replace(r#""c","op""#, r#""b","op""#);
    copy.applier(&["add-tables", "a", "b"]).succeed().await;
    copy.forge.segment(&[vec![a(parent(1)), a(parent(2)), b(child(7, 2))]]);
    copy.sync(0).await;
    copy.forge.segment(&[vec![a(parent(3)).replace(r#""x""#, r#""bad""#), b(child(99, 1))]]);
    let said = copy.sync(1).await;
    assert!(said.contains("a: quarantined") && said.contains("b: quarantined"), "{said}");
    copy.forge.segment(&[vec![b(moved(7, 1)), a(gone("p", 2))]]);
    copy.sync(1).await;
    copy.forge.snapshot(&[("a", &["1\tx", "3\tbad"]), ("b", &["7\t1", "99\t1"])]);
    copy.server.execute("ALTER TABLE a DROP CONSTRAINT held").await;
    copy.applier(&["resync", "a", "b"]).run().await.expect_code(1);
    assert_eq!((copy.state("a").await.as_str(), copy.state("b").await.as_str()), ("live", "quarantined"));
    assert_eq!(copy.rows("SELECT id FROM b").await, "", "it went with its parent");
    copy.server.execute("ALTER TABLE b DROP CONSTRAINT odd").await;
    let still = copy.applier(&["retry", "b"]).run().await.expect_code(1);
    assert!(still.stdout.contains("no longer those of its position"), "{still}");
    copy.applier(&["resync", "b"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM b ORDER BY id").await, "7,1 99,1");

    // The same where it was live.
    copy.forge.segment(&[vec![b(child(8, 1))]]);
    copy.sync(0).await;
    copy.server
        .execute(
            "INSERT INTO a VALUES (5, 'here alone'); UPDATE b SET p = 5 WHERE id = 7;
             ALTER TABLE b ADD CONSTRAINT odd CHECK (id <> 99) NOT VALID",
        )
        .await;
    copy.server.execute("UPDATE b SET p = 5 WHERE id = 8").await;
    copy.forge.snapshot(&[("a", &["1\tx", "3\tbad"]), ("b", &["7\t1", "8\t1", "99\t3"])]);
    copy.applier(&["resync", "a", "b"]).run().await.expect_code(1);
    assert_eq!((copy.state("a").await.as_str(), copy.state("b").await.as_str()), ("live", "quarantined"));
    assert!(copy.reason("b").await.contains("a foreign key of the copy changed rows of it"));
}

#[tokio::test]
async fn a_server_that_counts_nothing_hides_no_cascade() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE)",
    )
    .await;
    copy.server.execute("ALTER DATABASE reporting SET track_counts = off").await;
    copy.forge.segment(&[vec![parent(1), parent(2), child(7, 1)]]);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    let refused = copy.applier(&["sync"]).run().await.expect_code(2);
    let (_, statement) = refused.stderr.split_once("as superuser: ").unwrap_or_else(|| panic!("{refused}"));
    copy.server.execute(statement.lines().next().expect("it has one")).await;
    copy.sync(0).await;
    // The child is set aside, and its row goes with a parent that it had left at the source.
    copy.server.execute("ALTER TABLE c ADD CHECK (id <> 8)").await;
    copy.forge.segment(&[vec![child(8, 2)]]);
    copy.sync(1).await;
    copy.forge.segment(&[vec![moved(7, 2), gone("p", 1)]]);
    copy.sync(1).await;
    copy.server.execute("ALTER TABLE c DROP CONSTRAINT c_id_check").await;
    let still = copy.applier(&["retry", "c"]).run().await.expect_code(1);
    assert!(still.stdout.contains("no longer those of its position"), "{still}");
}

#[tokio::test]
async fn a_table_that_is_set_aside_takes_its_parent_along_where_a_deferred_key_binds_them() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED, CHECK (id <> 9))",
    )
    .await;
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![parent(1), parent(2), child(7, 2)]]);
    copy.sync(0).await;
    copy.forge.segment(&[vec![child(9, 1)], vec![gone("c", 7), gone("p", 2)]]);
    let said = copy.sync(1).await;
    assert!(said.contains("c: quarantined") && said.contains("p: quarantined"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "1 2");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "7");
    copy.server.execute("ALTER TABLE c DROP CONSTRAINT c_id_check").await;
    copy.applier(&["retry", "c", "p"]).succeed().await;
    assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "1");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "9");
}

#[tokio::test]
async fn a_deferred_key_of_a_table_that_nobody_syncs_sets_the_referenced_one_aside() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE c (id int PRIMARY KEY, p int);
         CREATE TABLE note (p int REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![parent(1), child(7, 1)]]);
    copy.sync(0).await;
    copy.server.execute("INSERT INTO note VALUES (1)").await;
    copy.forge.segment(&[vec![gone("p", 1), child(8, 1)]]);
    let said = copy.sync(1).await;
    assert!(said.contains("p: quarantined") && said.contains("note"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "7 8");
}

/// No waiting and no other order of rows makes it possible.
#[tokio::test]
async fn a_truncate_that_can_never_be_is_its_table_s_own_affair() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE c (id int PRIMARY KEY, p int);
         CREATE TABLE outsider (p int REFERENCES p)",
    )
    .await;
    describe(&mut copy);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![parent(1), child(7, 1)]]);
    copy.sync(0).await;
    let truncate = |table: &str| format!(r#"{{"table":"{table}","op":"TRUNCATE"}}"#);
    copy.forge.segment(&[vec![child(8, 1)], vec![truncate("p"), child(9, 1)], vec![parent(2)]]);
    let said = copy.sync(1).await;
    assert!(said.contains("p: quarantined") && said.contains("outsider"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM p").await, "1");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "7 8 9");
    copy.server.execute("DROP TABLE outsider").await;
    copy.applier(&["retry", "p"]).succeed().await;
    assert_eq!(copy.rows("SELECT id FROM p").await, "2");
    // The server itself refuses it.
    copy.server
        .execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'rows are kept'; END $$;
             CREATE TRIGGER keep BEFORE TRUNCATE ON c EXECUTE FUNCTION keep(); ALTER TABLE c ENABLE ALWAYS TRIGGER keep",
        )
        .await;
    copy.forge.segment(&[vec![truncate("c"), parent(3)], vec![child(10, 1)]]);
    let said = copy.sync(1).await;
    assert!(said.contains("c: quarantined") && said.contains("rows are kept"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM p ORDER BY id").await, "2 3");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "7 8 9");
    copy.server.execute("DROP TRIGGER keep ON c").await;
    copy.applier(&["retry", "c"]).succeed().await;
    assert_eq!(copy.rows("SELECT id FROM c").await, "10");
}

#[tokio::test]
async fn duplicates_that_were_there_before_are_no_reason_to_try_for_ever() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE p (id int PRIMARY KEY, v text UNIQUE DEFERRABLE); CREATE TABLE c (id int PRIMARY KEY, p int)",
    )
    .await;
    describe(&mut copy);
    copy.forge
        .segment(&[vec![r#"{"table":"p","op":"INSERT","data":{"id":2,"v":"two"}}"#.to_owned(), child(6, 2)]]);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute("SET session_replication_role = replica; INSERT INTO p VALUES (10, 'x'), (11, 'x')")
        .await;
    copy.forge
        .segment(&[vec![r#"{"table":"p","op":"INSERT","data":{"id":1,"v":"one"}}"#.to_owned(), child(7, 1)]]);
    let said = copy.sync(1).await;
    assert!(said.contains("p: quarantined"), "{said}");
    assert_eq!(copy.rows("SELECT id FROM c ORDER BY id").await, "6 7");
}

#[tokio::test]
async fn cascades_and_triggers_of_the_copy_delete_nothing_twice() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE p (id int PRIMARY KEY, v text);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE);
         CREATE TABLE audit (at int);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.audit VALUES (OLD.id); RETURN OLD; END $$;
         CREATE TRIGGER ordinary AFTER DELETE ON c FOR EACH ROW EXECUTE FUNCTION f();
         CREATE TRIGGER always AFTER DELETE ON c FOR EACH ROW EXECUTE FUNCTION f();
         ALTER TABLE c ENABLE ALWAYS TRIGGER always",
    )
    .await;
    describe(&mut copy);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![parent(1), parent(2), child(7, 1), child(8, 2)]]);
    copy.sync(0).await;
    // As the WAL has it: the parent, then what its cascade removed.
    copy.forge.segment(&[vec![gone("p", 1), gone("c", 7)]]);
    let said = copy.sync(0).await;
    assert!(!said.contains("were not here"), "{said}");
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c)").await, "1,1");
    assert_eq!(
        copy.rows("SELECT at FROM audit").await,
        "7",
        "the ordinary trigger is off, the other one fires once"
    );
    let missing = "SELECT coalesce(sum(rows_missing), 0) FROM data_sync_logs";
    assert_eq!(copy.rows(missing).await, "0");
    let check = copy.applier(&["check"]).succeed().await;
    assert!(check.stdout.contains("always of public.c always fires"), "{check}");
}

#[tokio::test]
async fn check_names_the_cascades_that_will_act() {
    let copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE);
         CREATE TABLE plain (id int PRIMARY KEY, p int REFERENCES p)",
    )
    .await;
    copy.applier(&["add-tables", "p", "c", "plain"]).succeed().await;
    let check = copy.applier(&["check"]).run().await;
    assert!(check.stdout.contains("c_p_fkey of public.c"), "{check}");
    assert!(check.stdout.contains("ON DELETE CASCADE"), "{check}");
    assert!(!check.stdout.contains("plain_p_fkey"), "{check}");
}

#[tokio::test]
async fn a_trigger_that_comes_after_what_is_applied_changes_no_synced_table_in_silence() {
    let schema = |does: &str| {
        format!(
            "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int);
             CREATE TABLE audit (id int);
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NULL; END $$;
             CREATE TRIGGER f AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE t ENABLE ALWAYS TRIGGER f"
        )
    };
    let insert =
        |table: &str, id: u32| format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":1}}}}"#);
    let rows = "SELECT id, v FROM t ORDER BY id";
    for (does, is_harmless) in [
        ("INSERT INTO public.audit VALUES (1)", true),
        ("UPDATE public.t SET v = 7 WHERE id = NEW.id AND v = 1", false),
        ("UPDATE public.u SET v = 7", false),
        ("DELETE FROM public.u", false),
    ] {
        for (first, last) in [(10, 12), (10, 900)] {
            let mut copy = LocalCopy::start(&schema(does)).await;
            for table in ["t", "u"] {
                copy.forge.relation(table, &["id integer not null", "v integer"], &["id"]);
            }
            copy.forge.segment(&[vec![insert("u", 1)]]);
            copy.applier(&["add-tables", "t", "u"]).succeed().await;
            copy.sync(0).await;
            copy.forge.segment(&[(first..last).map(|id| insert("t", id)).collect()]);
            // Rows that are there already, a key that moves, and what goes.
            copy.forge.segment(&[vec![
                insert("t", 10),
                r#"{"table":"t","op":"UPDATE","data":{"id":5,"v":2},"old_keys":{"id":10}}"#.to_owned(),
                r#"{"table":"t","op":"DELETE","old_keys":{"id":11}}"#.to_owned(),
            ]]);
            let said = copy.sync(if is_harmless { 0 } else { 1 }).await;
            if !is_harmless {
                assert!(said.contains("t: quarantined"), "{does}: {said}");
                copy.server.execute("ALTER TABLE \"public\".\"t\" DISABLE TRIGGER \"f\"").await;
                assert!(said.contains("ALTER TABLE \"public\".\"t\" DISABLE TRIGGER \"f\""), "{said}");
                copy.applier(&["retry", "t"]).succeed().await;
            }
            assert_eq!(copy.rows("SELECT id, v FROM u").await, "1,1", "{does}");
            // A base copy is held up by it too.
            if does.starts_with("UPDATE public.t") && last > 20 {
                copy.server.execute("ALTER TABLE t ENABLE ALWAYS TRIGGER f").await;
                copy.server
                    .execute("SET session_replication_role = replica; DELETE FROM t WHERE id = 20")
                    .await;
                let refused = copy.applier(&["resync", "t"]).run().await.expect_code(1);
                assert!(refused.stdout.contains("DISABLE TRIGGER"), "{refused}");
                copy.server.execute("ALTER TABLE t DISABLE TRIGGER f").await;
                copy.applier(&["resync", "t"]).succeed().await;
            }
            let expected: Vec<String> = (12..last).map(|id| format!("{id},1")).collect();
            assert_eq!(copy.rows(rows).await, format!("5,2 {}", expected.join(" ")).trim(), "{does}");
        }
    }
}

#[tokio::test]
async fn a_trigger_of_the_copy_that_acts_with_the_commit_changes_no_synced_table() {
    for does in ["UPDATE public.u SET v = 7", "RAISE EXCEPTION 'never'"] {
        let schema = format!(
            "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int);
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER f AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE t ENABLE ALWAYS TRIGGER f"
        );
        let mut copy = LocalCopy::start(&schema).await;
        for table in ["t", "u"] {
            copy.forge.relation(table, &["id integer not null", "v integer"], &["id"]);
        }
        let insert = |table: &str, id: u32| {
            format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":1}}}}"#)
        };
        copy.forge.segment(&[vec![insert("u", 1)]]);
        copy.applier(&["add-tables", "t", "u"]).succeed().await;
        copy.sync(0).await;
        copy.forge.segment(&[vec![insert("t", 1), insert("u", 2)]]);
        let said = copy.sync(1).await;
        assert!(said.contains("t: quarantined"), "{does}: {said}");
        assert_eq!(copy.rows("SELECT id, v FROM u ORDER BY id").await, "1,1 2,1", "{does}");
        let remedy = "ALTER TABLE \"public\".\"t\" DISABLE TRIGGER \"f\"";
        assert!(said.contains(remedy), "{said}");
        copy.server.execute(remedy).await;
        copy.applier(&["retry", "t"]).succeed().await;
        copy.sync(0).await;

        // Nor does a base, or a repair.
        copy.server.execute("DELETE FROM t; ALTER TABLE t ENABLE ALWAYS TRIGGER f").await;
        let refused = copy.applier(&["resync", "t"]).run().await.expect_code(1);
        assert!(refused.stdout.contains(remedy), "{refused}");
        let range = ["replay", "--yes", "--from", "2026-01-01", "--to", "2027-01-01", "--tables", "t"];
        let refused = copy.applier(&range).run().await.expect_code(2);
        assert!(refused.stderr.contains(remedy), "{refused}");
        copy.server.execute(remedy).await;
        copy.applier(&range).succeed().await;
        copy.applier(&["resync", "t"]).succeed().await;
        assert_eq!(copy.rows("SELECT id, v FROM t").await, "1,1", "{does}");
        assert_eq!(copy.rows("SELECT id, v FROM u ORDER BY id").await, "1,1 2,1", "{does}");
    }
}

/// A trigger that comes after what is written, while its table is made anew or repaired at once.
#[tokio::test]
async fn a_trigger_changes_no_other_synced_table_beside_a_base_or_a_repair() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE public.u SET v = 7; RETURN NULL; END $$;
         CREATE TRIGGER f AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    )
    .await;
    for table in ["t", "u"] {
        copy.forge.relation(table, &["id integer not null", "v integer"], &["id"]);
    }
    let insert =
        |table: &str, id: u32| format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":1}}}}"#);
    copy.forge.segment(&[vec![insert("u", 1), insert("t", 1)]]);
    copy.applier(&["add-tables", "t", "u"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("DELETE FROM t; ALTER TABLE t ENABLE ALWAYS TRIGGER f").await;

    let remedy = "ALTER TABLE \"public\".\"t\" DISABLE TRIGGER \"f\"";
    let range = ["replay", "--yes", "--from", "2026-01-01", "--to", "2027-01-01", "--tables", "t"];
    let refused = copy.applier(&range).run().await.expect_code(2);
    assert!(refused.stderr.contains(remedy), "{refused}");
    let refused = copy.applier(&["resync", "t"]).run().await.expect_code(1);
    assert!(refused.stdout.contains(remedy), "{refused}");
    assert_eq!(copy.rows("SELECT id, v FROM u").await, "1,1");

    copy.server.execute(remedy).await;
    copy.applier(&["resync", "t"]).succeed().await;
    assert_eq!(copy.rows("SELECT id, v FROM t").await, "1,1");
    assert_eq!(copy.rows("SELECT id, v FROM u").await, "1,1");
    copy.sync(0).await;
}

/// Foreign keys act in the same batch: what they change is told from what the trigger does.
#[tokio::test]
async fn a_trigger_is_watched_while_foreign_keys_act_beside_it() {
    let mut copy = LocalCopy::start(
        "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter; GRANT ALL ON SCHEMA public TO reporter;
         CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE);
         CREATE TABLE t (id int PRIMARY KEY, v int);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.t WHERE id = 1; RETURN NULL; END $$;
         CREATE TRIGGER f AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION f();
         ALTER TABLE p OWNER TO reporter; ALTER TABLE c OWNER TO reporter; ALTER TABLE t OWNER TO reporter",
    )
    .await;
    copy.set("PG_USER_NAME", "reporter");
    copy.forge.relation("p", &["id integer not null"], &["id"]);
    copy.forge.relation("c", &["id integer not null", "p integer"], &["id"]);
    copy.forge.relation("t", &["id integer not null", "v integer"], &["id"]);
    let one = |table: &str, data: &str| format!(r#"{{"table":"{table}","op":"INSERT","data":{{{data}}}}}"#);
    copy.server.execute("ALTER TABLE t DISABLE TRIGGER f").await;
    copy.forge.segment(&[vec![
        one("p", r#""id":1"#),
        one("c", r#""id":1,"p":1"#),
        one("t", r#""id":1,"v":1"#),
        one("t", r#""id":2,"v":1"#),
    ]]);
    copy.applier(&["add-tables", "p", "c", "t"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE t ENABLE ALWAYS TRIGGER f").await;
    copy.forge.segment(&[vec![
        r#"{"table":"p","op":"DELETE","old_keys":{"id":1}}"#.to_owned(),
        r#"{"table":"c","op":"DELETE","old_keys":{"id":1}}"#.to_owned(),
        one("t", r#""id":3,"v":1"#),
    ]]);
    let said = copy.sync(1).await;
    let remedy = "ALTER TABLE \"public\".\"t\" DISABLE TRIGGER \"f\"";
    assert!(said.contains("t: quarantined") && said.contains(remedy), "{said}");
    assert!(!said.contains("c: quarantined") && !said.contains("p: quarantined"), "{said}");
    copy.server.execute(remedy).await;
    copy.applier(&["retry", "t"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT id, v FROM t ORDER BY id").await, "1,1 2,1 3,1");
    assert_eq!(copy.rows("SELECT id FROM p UNION ALL SELECT id FROM c").await, "");
}
