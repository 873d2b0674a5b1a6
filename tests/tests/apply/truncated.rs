//! Triggers of the copy that act on a TRUNCATE, or beside it: they change no synced table in silence.

use syncdata_tests::LocalCopy;

const T_AND_U: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int);
    CREATE TABLE c (id int PRIMARY KEY, t int); CREATE TABLE audit (id int)";

fn insert(table: &str, id: u32) -> String {
    let column = if table == "c" { "t" } else { "v" };
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"{column}":1}}}}"#)
}

fn truncate(table: &str) -> String {
    format!(r#"{{"table":"{table}","op":"TRUNCATE"}}"#)
}

/// With two rows in `t` and one in `u`, live, and that trigger told to act always.
async fn live(more: &str, when: &str, does: &str) -> LocalCopy {
    let mut copy = LocalCopy::start(&format!("{T_AND_U}; {more}")).await;
    for (table, column) in [("t", "v integer"), ("u", "v integer"), ("c", "t integer")] {
        copy.forge.relation(table, &["id integer not null", column], &["id"]);
    }
    copy.forge.segment(&[vec![insert("t", 1), insert("t", 2), insert("u", 1)]]);
    copy.applier(&["add-tables", "t", "u", "c"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute(&format!(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NULL; END $$;
             CREATE TRIGGER f {when} EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER f"
        ))
        .await;
    copy
}

const REFERRED_TO: &str = "ALTER TABLE c ADD FOREIGN KEY (t) REFERENCES t";

#[tokio::test]
async fn a_trigger_of_a_truncated_table_changes_no_synced_one_in_silence() {
    for (more, when, does) in [
        ("", "AFTER TRUNCATE ON t", "INSERT INTO public.t VALUES (0, 7)"),
        ("", "BEFORE TRUNCATE ON t", "UPDATE public.u SET v = 7"),
        ("", "AFTER TRUNCATE ON t", "UPDATE public.u SET v = 7"),
        ("", "AFTER TRUNCATE ON t", "DELETE FROM public.u"),
        ("", "AFTER INSERT ON t FOR EACH ROW", "UPDATE public.t SET v = v + 100"),
        (
            "",
            "AFTER INSERT ON t",
            "IF pg_trigger_depth() = 1 THEN INSERT INTO public.t VALUES (8, 8); END IF",
        ),
        // Emptied row by row, because a table refers to it that goes on by itself.
        (REFERRED_TO, "AFTER DELETE ON t FOR EACH ROW", "UPDATE public.u SET v = 7"),
        (REFERRED_TO, "AFTER DELETE ON t", "INSERT INTO public.t VALUES (0, 7) ON CONFLICT DO NOTHING"),
    ] {
        for rows in [false, true] {
            if !rows && when.contains("INSERT") {
                continue;
            }
            let mut copy = live(more, when, does).await;
            let mut changes = vec![truncate("t")];
            changes.extend(rows.then(|| insert("t", 5)));
            // What came before in the same local transaction is not counted with it.
            copy.forge.segment(&[vec![insert("u", 2)], vec![insert("c", 9)]]);
            copy.forge.segment(&[changes]);
            let said = copy.sync(1).await;
            assert!(said.contains("t: quarantined"), "{when} {does} {rows}: {said}");
            let remedy = "ALTER TABLE \"public\".\"t\" DISABLE TRIGGER \"f\"";
            assert!(said.contains(remedy), "{said}");
            assert_eq!(copy.rows("SELECT id, v FROM u ORDER BY id").await, "1,1 2,1", "{when} {does}");
            copy.server.execute(remedy).await;
            copy.applier(&["retry", "t"]).succeed().await;
            let expected = if rows { "5,1" } else { "" };
            assert_eq!(copy.rows("SELECT id, v FROM t").await, expected, "{when} {does}");
            assert_eq!(copy.rows("SELECT id, v FROM u ORDER BY id").await, "1,1 2,1", "{when} {does}");
        }
    }
}

#[tokio::test]
async fn a_trigger_that_writes_elsewhere_holds_up_no_truncate() {
    for (more, when) in [
        ("", "AFTER TRUNCATE ON t"),
        ("", "AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON t"),
        (REFERRED_TO, "AFTER DELETE ON t FOR EACH ROW"),
        (REFERRED_TO, "AFTER INSERT OR DELETE ON t"),
    ] {
        let mut copy = live(more, when, "INSERT INTO public.audit VALUES (1)").await;
        // Rows before, between and after, in one local transaction.
        copy.forge.segment(&[vec![insert("t", 3), insert("u", 2)]]);
        copy.forge.segment(&[vec![truncate("t"), insert("t", 4), insert("t", 5)], vec![insert("u", 3)]]);
        copy.forge.segment(&[vec![truncate("t"), truncate("u")], vec![insert("t", 6), insert("u", 9)]]);
        copy.forge.segment(&[vec![
            r#"{"table":"t","op":"DELETE","old_keys":{"id":6}}"#.to_owned(),
            insert("t", 7),
        ]]);
        copy.sync(0).await;
        assert_eq!(copy.rows("SELECT id, v FROM t").await, "7,1", "{when}");
        assert_eq!(copy.rows("SELECT id, v FROM u").await, "9,1", "{when}");
        assert_ne!(copy.rows("SELECT count(*) FROM audit").await, "0", "{when}");
    }
}
