//! `check`: every line with its remedy; warnings alone are success.

use serde_json::Value;
use syncdata_formats::signature::SigningKey;
use syncdata_tests::{Finished, LocalCopy};

use super::two_tables;

/// `level subject: message` of everything that is not ok, and the statements.
fn wrong(check: &Finished) -> String {
    let document = check.json();
    let findings = document["findings"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for finding in findings.iter().filter(|finding| finding["level"] != "ok") {
        let (level, subject) = (text(&finding["level"]), text(&finding["subject"]));
        assert!(finding["remedy"].is_string(), "no remedy: {finding}");
        lines.push(format!("{level} {subject}: {}", text(&finding["message"])));
        lines.extend(finding["statements"].as_array().into_iter().flatten().map(text));
    }
    lines.join("\n")
}

/// A role that may do nothing by itself.
async fn as_plain_role(copy: &mut LocalCopy) {
    copy.server.execute("CREATE ROLE syncdata LOGIN; GRANT CREATE ON SCHEMA public TO syncdata").await;
    copy.set("PG_USER_NAME", "syncdata");
}

#[tokio::test]
async fn a_sound_copy_has_warnings_at_most() {
    let copy = two_tables().await;
    let empty = copy.applier(&["check", "--json"]).succeed().await;
    assert!(wrong(&empty).contains("warn tables: No tables in whitelist"), "{empty}");
    assert_eq!(copy.rows("SELECT to_regclass('tables_to_sync')").await, "NULL", "it changes nothing");
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    let check = copy.applier(&["check"]).succeed().await;
    for line in [
        "ok    archive: ",
        "ok    freshness: ",
        "ok    newest manifest: segment 0000000001, no verify_key",
        "ok    tables: 2 ",
    ] {
        assert!(check.stdout.lines().any(|found| found.starts_with(line)), "{line:?}\n{check}");
    }
    assert!(!check.stdout.contains("fail"), "{check}");
}

#[tokio::test]
async fn tables_that_cannot_take_the_archive_are_named_with_the_statement_that_mends_them() {
    let mut copy = two_tables().await;
    copy.forge.relation("users", &["id integer not null", "name text", "mail text"], &["id"]);
    copy.forge
        .segment(&[vec![r#"{"table":"users","op":"INSERT","data":{"id":3,"name":"Cid","mail":null}}"#]]);
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.server.execute("ALTER TABLE users ALTER name TYPE varchar(3)").await;
    copy.server.execute("DROP TABLE orders").await;
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let wrong = wrong(&check);
    for line in [
        "fail tables: Table not found locally: orders",
        "fail tables: column \"name\" of users is character varying(3) here and text at the source",
        "ALTER TABLE \"public\".\"users\" ALTER COLUMN \"name\" TYPE text;",
        "fail tables: column \"mail\" of users does not exist locally",
        "ALTER TABLE \"public\".\"users\" ADD COLUMN \"mail\" text;",
    ] {
        assert!(wrong.contains(line), "{line:?} is not in\n{wrong}");
    }
}

#[tokio::test]
async fn what_acts_on_applied_rows_is_named() {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.server
        .execute(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER plain AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION f();
             CREATE TRIGGER \"al ways\" AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE users ENABLE ALWAYS TRIGGER \"al ways\";
             CREATE TRIGGER rep AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE users ENABLE REPLICA TRIGGER rep;
             ALTER TABLE users ADD UNIQUE (name) DEFERRABLE",
        )
        .await;
    let check = copy.applier(&["check", "--json"]).succeed().await;
    let wrong = wrong(&check);
    for line in [
        "warn trigger: al ways of public.users always fires",
        "ALTER TABLE public.users DISABLE TRIGGER \"al ways\";",
        "warn trigger: rep of public.users fires under the replica role",
        "warn foreign key: orders refers to users and is not synced",
        "warn deferrable constraint: unique (\"name\") of users",
    ] {
        assert!(wrong.contains(line), "{line:?} is not in\n{wrong}");
    }
    assert!(!wrong.contains("plain of"), "{wrong}");
}

#[tokio::test]
async fn rights_that_are_missing_come_with_the_grant() {
    let mut copy = two_tables().await;
    as_plain_role(&mut copy).await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.server.execute("GRANT SELECT, INSERT, DELETE ON users TO syncdata").await;
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let wrong = wrong(&check);
    let grant = "fail rights: syncdata may not UPDATE, TRUNCATE users\n\
        GRANT UPDATE, TRUNCATE ON TABLE \"public\".\"users\" TO \"syncdata\";";
    assert!(wrong.contains(grant), "{wrong}");
    assert!(wrong.contains("GRANT SET ON PARAMETER session_replication_role TO \"syncdata\";"), "{wrong}");
    copy.server.execute("GRANT UPDATE, TRUNCATE ON users TO syncdata").await;
    copy.server.execute("GRANT SET ON PARAMETER session_replication_role TO syncdata").await;
    let mended = copy.applier(&["check", "--json"]).succeed().await;
    let rest = self::wrong(&mended);
    assert!(!rest.contains("rights") && !rest.contains("session_replication_role"), "{rest}");
    copy.applier(&["sync"]).succeed().await;
}

#[tokio::test]
async fn whatever_is_out_of_reach_is_one_line_of_several() {
    let mut copy = two_tables().await;
    copy.set("PG_PORT", "1");
    std::fs::remove_file(copy.archive_dir().join("archive.json")).expect("it was there");
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let document = check.json();
    let subjects: Vec<&str> = document["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|f| f["subject"].as_str())
        .collect();
    assert_eq!(subjects, ["settings", "archive", "local server"], "{check}");
    assert!(check.stdout.contains("archive.json is missing"), "{check}");
}

#[tokio::test]
async fn a_signature_that_is_asked_for_is_looked_at() {
    let mut copy = two_tables().await;
    let (_, public) = SigningKey::generate().expect("randomness is to be had");
    let key = copy.folder().join("syncdata.pub");
    std::fs::write(&key, public).expect("the folder is ours");
    copy.set("SYNCDATA_VERIFY_KEY", key.to_str().expect("a plain name"));
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    assert!(wrong(&check).contains("fail newest manifest: segments/"), "{check}");
    assert!(wrong(&check).contains("is missing, and verify_key is set"), "{check}");
}
