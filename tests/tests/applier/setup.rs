//! `setup`: from a server that knows nobody to tables that take the archive.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::{Finished, Installation, LocalCopy};

const ROLE: &str = "it's \"me\"";

/// As a DBA runs what a command has printed.
fn psql(copy: &LocalCopy, script: &str) {
    let mut psql = Command::new(Installation::chosen().program("psql"));
    psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-p", &copy.server.port().to_string()]);
    psql.arg("-h").arg(copy.server.socket_folder()).arg("postgres").stdin(Stdio::piped());
    let mut psql = psql.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql is installed");
    psql.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("it reads");
    let done = psql.wait_with_output().expect("it ends");
    assert!(done.status.success(), "{}\n{script}", String::from_utf8_lossy(&done.stderr));
}

fn column(name: &str, type_name: &str) -> Column {
    Column { name: name.into(), type_name: type_name.into(), ..Column::default() }
}

fn described(columns: Vec<Column>, types: &[(&str, &[&str])]) -> Relation {
    let labels = |labels: &&[&str]| labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
    let types: BTreeMap<_, _> = types.iter().map(|(name, of)| ((*name).to_owned(), labels(of))).collect();
    Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, types)
}

fn insert(table: &str, data: &str) -> String {
    format!(r#"{{"table":{},"op":"INSERT","data":{data}}}"#, serde_json::json!(table))
}

/// `mail` has what travels; the others what does not.
async fn copy() -> LocalCopy {
    let mut copy = LocalCopy::start("SELECT").await;
    let not_null = |column: Column| Column { not_null: true, ..column };
    let with = |column: Column, default: &str| Column { default: Some(default.into()), ..column };
    let mood: &[&str] = &["sad", "it's; DROP TABLE x; --", "fine"];
    copy.forge.describe(
        "sales.mail",
        described(
            vec![
                not_null(column("id", "integer")),
                with(column("size", "numeric(8,2)"), "1.50"),
                with(column("mood", "public.mood"), "'sad'::public.mood"),
                with(column("at", "timestamp(3) with time zone"), "now()"),
            ],
            &[("public.mood", mood)],
        ),
    );
    copy.forge.describe(
        "odd",
        described(vec![not_null(column("id", "integer")), column("x", "public.odd_type")], &[]),
    );
    let hostile = "\"t\"\"); DROP TABLE x; --\"";
    copy.forge.describe(
        hostile,
        described(
            vec![
                not_null(column("id", "integer")),
                column("a\" text); DROP TABLE x; --", "text"),
                with(column("d", "text"), "'a'::text); DROP TABLE x; --"),
            ],
            &[],
        ),
    );
    copy.forge.segment(&[vec![
        insert("sales.mail", r#"{"id":1,"size":"2.50","mood":"fine","at":"2026-01-01 00:00:00+00"}"#),
        insert(hostile, r#"{"id":1,"a\" text); DROP TABLE x; --":"b","d":null}"#),
    ]]);
    copy.server.execute("CREATE TABLE x (id int)").await;
    copy
}

fn says(done: &Finished, words: &str) {
    assert!(done.stderr.contains(words), "{words:?} is not said:\n{done}");
}

#[tokio::test]
async fn a_script_for_psql_makes_role_and_database_and_setup_makes_the_tables() {
    let mut copy = copy().await;
    copy.set("PG_USER_NAME", ROLE);
    copy.set("PG_DB_NAME", "my \"db");
    copy.set("PG_PASSWORD", "canary");
    let told = copy.applier(&["setup", "--create-role", "--create-database"]).run().await.expect_code(1);
    assert!(!told.stdout.contains("canary") && !told.stderr.contains("canary"), "{told}");
    says(&told, "next: run the statements above as superuser");
    for _ in 0..2 {
        psql(&copy, &told.stdout);
    }
    // It may make tables in the schema of our own alone.
    let told = copy.applier(&["setup", "--create-tables", "--json"]).run().await.expect_code(1);
    assert!(
        told.json()["next"][0].as_str().is_some_and(|next| next.starts_with("run the statements")),
        "{told}"
    );
    let told = copy.applier(&["setup", "--create-tables"]).run().await.expect_code(1);
    says(&told, "no table may be made in schema \"sales\"");
    psql(&copy, &format!("\\connect \"my \"\"db\"\n{}", told.stdout));
    let done = copy.applier(&["setup", "--create-tables"]).run().await;
    says(&done, "sales.mail created, with the type mood, without the default of column \"at\"");
    says(&done, "odd: the archive does not say what it looks like yet");
    let columns = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || attnotnull || coalesce(' '
        || pg_get_expr(adbin, adrelid), ''), ', ' ORDER BY attnum) FROM pg_attribute
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = 'sales.mail'::regclass AND attnum > 0";
    copy.server.use_database("my \"db");
    assert_eq!(
        copy.server.value(columns).await,
        "id integertrue, size numeric(8,2)false 1.50, mood moodfalse 'sad'::mood, at timestamp(3) with time zonefalse"
    );
    let key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'sales.mail'::regclass AND contype = 'p'";
    assert_eq!(copy.server.value(key).await, "PRIMARY KEY (id)");
    let labels = "SELECT string_agg(enumlabel, '|' ORDER BY enumsortorder) FROM pg_enum";
    assert_eq!(copy.server.value(labels).await, "sad|it's; DROP TABLE x; --|fine");
    let odd = "SELECT string_agg(attname, '|' ORDER BY attnum) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE relname = 't\"); DROP TABLE x; --' AND attnum > 0";
    assert_eq!(copy.server.value(odd).await, "id|a\" text); DROP TABLE x; --|d");

    copy.applier(&["add-tables", "sales.mail", "\"t\"\"); DROP TABLE x; --\""]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    assert_eq!(copy.rows("SELECT id, size, mood FROM sales.mail").await, "1,2.50,fine");
}

#[tokio::test]
async fn a_dba_can_have_all_of_it_made_at_once_and_again() {
    let mut copy = copy().await;
    copy.set("PG_USER_NAME", "syncdata");
    copy.server.execute("CREATE ROLE plain LOGIN").await;
    let told = copy.applier(&["setup", "--create-role", "--as", "plain"]).run().await.expect_code(1);
    says(&told, "role: syncdata cannot be created by this role");
    copy.set("PG_DB_NAME", "fresh");
    let told = copy.applier(&["setup", "--create-database", "--as", "plain"]).run().await.expect_code(1);
    says(&told, "database: fresh cannot be created by plain");
    let arguments = [
        "setup",
        "--create-role",
        "--create-database",
        "--create-tables",
        "--tables",
        "sales.*",
        "--as",
        "postgres",
    ];
    let made = copy.applier(&arguments).succeed().await;
    says(&made, "database: fresh created");
    says(&made, "role: syncdata created");
    says(&made, "password of syncdata, shown only now: ");
    says(&made, "rights: syncdata was given what it lacked");
    says(&made, "next: syncdata-applier add-tables sales.mail");
    assert_eq!(made.stdout, "", "nothing is left for a DBA: {made}");
    let again = copy.applier(&arguments).succeed().await;
    for words in [
        "fresh exists already",
        "syncdata exists already",
        "all 1 are here already",
        "syncdata has what it needs",
    ] {
        says(&again, words);
    }
    copy.applier(&["add-tables", "sales.mail"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    copy.server.use_database("fresh");
    assert_eq!(copy.rows("SELECT id FROM sales.mail").await, "1");
    let owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'sales.mail'::regclass";
    assert_eq!(copy.server.value(owner).await, "postgres", "what a DBA makes is the DBA's");
}

#[tokio::test]
async fn a_table_whose_type_is_unknown_here_is_named_and_not_made() {
    let mut copy = copy().await;
    copy.forge.segment(&[vec![insert("odd", r#"{"id":1,"x":"?"}"#)]]);
    let told = copy.applier(&["setup", "--create-tables", "--tables", "odd"]).run().await.expect_code(1);
    says(&told, "odd is not made: column \"x\" has the type public.odd_type, which is not known here");
    assert_eq!(copy.rows("SELECT to_regclass('odd')").await, "NULL");
    copy.server.execute("CREATE DOMAIN odd_type AS text").await;
    copy.applier(&["setup", "--create-tables", "--tables", "odd"]).succeed().await;
    let strange =
        copy.applier(&["setup", "--create-tables", "--tables", "nobody"]).run().await.expect_code(2);
    says(&strange, "nobody is not captured, says the archive");
    assert_eq!(copy.rows("SELECT count(*) FROM x").await, "0", "no words of the archive were run");
}
