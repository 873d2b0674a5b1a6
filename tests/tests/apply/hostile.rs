//! Archives with names and values that no PostgreSQL has, servers that fail inside, records that cannot be kept: each
//! holds up its own table, and the others go on.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::LocalCopy;

const OTHERS: &str = "CREATE TABLE other (id int PRIMARY KEY, v text);";

/// `{"table":TABLE,"op":"INSERT","data":DATA}`.
fn insert(table: &str, data: &str) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{data}}}"#)
}

fn other(id: u32) -> String {
    insert("other", &format!(r#"{{"id":{id},"v":"x"}}"#))
}

/// Tables `other` and `odd`, in the copy and in the archive.
async fn beside(schema: &str, odd: &[&str]) -> LocalCopy {
    let mut copy = LocalCopy::start(&format!("{OTHERS}{schema}")).await;
    copy.forge.relation("other", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("odd", odd, &["id"]);
    copy
}

/// The table is set aside with a reason; the others take this segment and the next.
async fn only_odd_is_held_up(copy: &mut LocalCopy, code: &str, why: &str) {
    copy.applier(&["add-tables", "*"]).succeed().await;
    let said = copy.sync(1).await;
    assert!(said.contains("odd: quarantined"), "{said}");
    assert!(said.contains(why), "{why:?} is not in {said}");
    copy.forge.segment(&[vec![other(90)]]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT count(*) FROM other WHERE id = 90").await, "1");
    let states = "SELECT table_name, state FROM data_sync_table_state ORDER BY 1";
    assert_eq!(copy.rows(states).await, "odd,quarantined other,live");
    assert_eq!(copy.rows("SELECT coalesce(sqlstate, '') FROM data_sync_quarantine").await, code);
}

#[tokio::test]
async fn a_nul_in_the_name_of_a_column_holds_up_its_table_alone() {
    let odd = "CREATE TABLE odd (id int PRIMARY KEY)";
    let mut copy = beside(odd, &["id integer not null", "a\0b integer"]).await;
    copy.forge.segment(&[vec![other(1), insert("odd", r#"{"id":1,"a\u0000b":2}"#)]]);
    only_odd_is_held_up(&mut copy, "", "does not exist locally").await;
}

#[tokio::test]
async fn a_nul_in_the_name_of_a_type_holds_up_its_table_alone() {
    let odd = "CREATE TABLE odd (id int PRIMARY KEY, v int)";
    let mut copy = beside(odd, &["id integer not null", "v te\0xt"]).await;
    copy.forge.segment(&[vec![other(1), insert("odd", r#"{"id":1,"v":"2"}"#)]]);
    only_odd_is_held_up(&mut copy, "", "column \"v\" of odd is integer here").await;
}

#[tokio::test]
async fn a_nul_in_a_value_or_a_label_holds_up_its_table_alone() {
    for rows in [1, 600] {
        let odd = "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE odd (id int PRIMARY KEY, m mood, v text)";
        let mut copy = beside(odd, &["id integer not null"]).await;
        let column = |name: &str, type_name: &str| Column {
            name: name.into(),
            type_name: type_name.into(),
            ..Column::default()
        };
        let columns = vec![column("id", "integer"), column("m", "public.mood"), column("v", "text")];
        let types = BTreeMap::from([("public.mood".to_owned(), vec!["sa\0d".to_owned()])]);
        let relation = Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, types);
        copy.forge.describe("odd", relation);
        let bad = insert("odd", r#"{"id":1,"m":"sad","v":"a\u0000b"}"#);
        let good = (2..=rows).map(|id| insert("odd", &format!(r#"{{"id":{id},"m":"sad","v":"b"}}"#)));
        let transaction: Vec<String> = [other(1), bad].into_iter().chain(good).collect();
        copy.forge.segment(&[transaction]);
        only_odd_is_held_up(&mut copy, "22021", "SQLSTATE 22021").await;
    }
    // Beside a value that the server refuses first, and in the label itself.
    for bad in [r#"{"id":"x","m":"sad","v":"a\u0000b"}"#, r#"{"id":1,"m":"ha\u0000ppy","v":"x"}"#] {
        let odd = "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE odd (id int PRIMARY KEY, m mood, v text)";
        let mut copy = beside(odd, &["id integer not null", "m public.mood", "v text"]).await;
        copy.forge.segment(&[vec![other(1), insert("odd", bad)]]);
        let code = if bad.contains("happy") || bad.contains("ha\\") { "22021" } else { "22P02" };
        only_odd_is_held_up(&mut copy, code, "SQLSTATE 22").await;
    }
}

#[tokio::test]
async fn a_nul_in_the_name_of_a_table_holds_up_no_other() {
    let mut copy = beside("CREATE TABLE odd (id int PRIMARY KEY)", &["id integer not null"]).await;
    copy.forge.relation("no\0table", &["id integer not null"], &["id"]);
    copy.forge.segment(&[vec![
        other(1),
        insert("odd", r#"{"id":1}"#),
        insert("no\\u0000table", r#"{"id":1}"#),
    ]]);
    copy.applier(&["add-tables", "*"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM other").await, "1");
    copy.applier(&["verify"]).succeed().await;
}

#[tokio::test]
async fn a_base_copy_with_a_nul_in_a_name_holds_up_its_table_alone() {
    let mut copy =
        beside("CREATE TABLE odd (id int PRIMARY KEY)", &["id integer not null", "a\0b integer"]).await;
    copy.forge.segment(&[vec![other(1)]]);
    copy.forge.had_rows("odd");
    copy.forge.segment(&[vec![other(2)]]);
    copy.forge.snapshot(&[("odd", &["1\t2"])]);
    copy.forge.segment(&[vec![other(3)]]);
    copy.applier(&["add-tables", "other"]).succeed().await;
    copy.applier(&["add-tables", "odd", "--from", "snapshot"]).succeed().await;
    let said = copy.sync(1).await;
    assert!(said.contains("odd: quarantined"), "{said}");
    assert_eq!(copy.rows("SELECT count(*) FROM other").await, "3");
}

/// What the server calls an internal error, a damaged file, a missing library: of one table, or of what hangs on it.
#[tokio::test]
async fn an_internal_error_of_the_server_holds_up_its_table_alone() {
    for code in ["XX000", "XX001", "XX002", "58P01"] {
        let odd = format!(
            "CREATE TABLE odd (id int PRIMARY KEY, v text);
             CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER fails BEFORE INSERT ON odd FOR EACH ROW EXECUTE FUNCTION fails();
             ALTER TABLE odd ENABLE ALWAYS TRIGGER fails"
        );
        let mut copy = beside(&odd, &["id integer not null", "v text"]).await;
        copy.forge.segment(&[vec![other(1), insert("odd", r#"{"id":1,"v":"x"}"#)]]);
        only_odd_is_held_up(&mut copy, code, &format!("SQLSTATE {code}")).await;
    }
}

/// A local database of another encoding takes neither the record nor, as it is, the note about it.
#[tokio::test]
async fn a_record_that_the_quarantine_cannot_hold_as_it_is_holds_up_its_table_alone() {
    let mut copy = LocalCopy::start("SELECT 1").await;
    let latin = format!("{}_latin", copy.server.database());
    copy.server
        .execute(&format!("CREATE DATABASE {latin} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"))
        .await;
    copy.server.use_database(&latin);
    copy.server.execute(&format!("{OTHERS} CREATE TABLE odd (id int PRIMARY KEY, v text)")).await;
    copy.forge.relation("other", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("odd", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("таблица", &["id integer not null"], &["id"]);
    copy.forge.segment(&[vec![
        other(1),
        insert("odd", r#"{"id":1,"v":"5 €"}"#),
        insert("таблица", r#"{"id":1}"#),
    ]]);
    only_odd_is_held_up(&mut copy, "22P05", "SQLSTATE 22P05").await;
    let kept = "SELECT position('\\u20ac' IN record) > 0 FROM data_sync_quarantine";
    assert_eq!(copy.rows(kept).await, "t");
}

/// One encoding of PostgreSQL makes another character of one, and says nothing; another one cuts and pads by bytes.
#[tokio::test]
async fn a_local_database_that_makes_another_character_of_one_takes_nothing() {
    for encoding in ["EUC_JP", "SQL_ASCII"] {
        let mut copy = LocalCopy::start("SELECT 1").await;
        let lossy = format!("{}_lossy", copy.server.database());
        copy.server
            .execute(&format!("CREATE DATABASE {lossy} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"))
            .await;
        copy.server.use_database(&lossy);
        copy.server.execute("CREATE TABLE odd (id int PRIMARY KEY, v text, c char(5))").await;
        copy.forge.relation("odd", &["id integer not null", "v text", "c character(5)"], &["id"]);
        copy.forge.segment(&[vec![insert("odd", r#"{"id":1,"v":"\u00a6","c":"\u00e9    "}"#)]]);
        for arguments in [&["add-tables", "odd"][..], &["sync"]] {
            let refused = copy.applier(arguments).run().await.expect_code(2);
            assert!(refused.stderr.contains(encoding), "{refused}");
            assert!(refused.stderr.contains("make the local database anew, in UTF8"), "{refused}");
        }
        let check = copy.applier(&["check"]).run().await.expect_code(1);
        assert!(check.stdout.contains(&format!("the local database is in {encoding}")), "{check}");
    }
}

/// As where a pooler hands us another server's session between two transactions.
#[tokio::test]
async fn what_a_session_has_forgotten_is_pinned_again_in_each_transaction() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE other (id int PRIMARY KEY, v text); CREATE TABLE odd (id int PRIMARY KEY, v text[]);
         CREATE FUNCTION forgets() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET array_nulls = off; RETURN NULL; END $$;
         CREATE TRIGGER forgets AFTER INSERT ON other EXECUTE FUNCTION forgets(); ALTER TABLE other ENABLE ALWAYS TRIGGER forgets",
    )
    .await;
    copy.set("SYNCDATA_APPLY_BATCH_CHANGES", "1");
    copy.forge.relation("other", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("odd", &["id integer not null", "v text[]"], &["id"]);
    copy.applier(&["add-tables", "other", "odd"]).succeed().await;
    copy.forge.segment(&[vec![other(1)]]);
    copy.forge.segment(&[vec![insert("odd", r#"{"id":1,"v":"{NULL,a}"}"#)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT v[1] IS NULL FROM odd").await, "t");
}

#[tokio::test]
async fn a_record_that_is_too_long_for_the_quarantine_is_named_there_by_its_place() {
    let odd = "CREATE TABLE odd (id int PRIMARY KEY, v text CHECK (v IS NULL))";
    let mut copy = beside(odd, &["id integer not null", "v text"]).await;
    let long = format!(r#"{{"id":1,"v":"{}"}}"#, "\\u0001".repeat(12 << 20));
    copy.forge.segment(&[vec![other(1), insert("odd", &long)]]);
    only_odd_is_held_up(&mut copy, "23514", "SQLSTATE 23514").await;
    let kept = "SELECT seq, line, record IS NULL, position('too long to be kept' IN reason) > 0 FROM data_sync_quarantine";
    assert_eq!(copy.rows(kept).await, "1,2,t,t");
}

const SECRET: &str = "canary-4711";

/// Everything that is said of it, and who may read it without a password.
async fn everything_said(copy: &LocalCopy, sync: &[&str]) -> String {
    let run = copy.applier(sync).run().await;
    let mut said = run.to_string();
    for arguments in [&["status"][..], &["--json", "status"], &["check"]] {
        said.push_str(&copy.applier(arguments).run().await.to_string());
    }
    for table in ["data_sync_logs", "data_sync_table_state"] {
        said.push_str(&copy.rows(&format!("SELECT t::text FROM {table} t")).await);
    }
    said
}

#[tokio::test]
async fn values_of_rows_are_in_the_quarantine_and_nowhere_else() {
    let raise = "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not %', NEW.v USING ERRCODE = '#'; END $$;
        CREATE TRIGGER fails BEFORE INSERT ON odd FOR EACH ROW EXECUTE FUNCTION fails();
        ALTER TABLE odd ENABLE ALWAYS TRIGGER fails";
    let text = "CREATE TABLE odd (id int PRIMARY KEY, v text)";
    let dynamic = "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE 'SELECT \"' || NEW.v || '\"'; RETURN NEW; END $$;
        CREATE TRIGGER fails BEFORE INSERT ON odd FOR EACH ROW EXECUTE FUNCTION fails();
        ALTER TABLE odd ENABLE ALWAYS TRIGGER fails";
    for (schema, code) in [
        ("CREATE TABLE odd (id int PRIMARY KEY, v int)".to_owned(), "22P02"),
        ("CREATE TABLE odd (id int PRIMARY KEY, v date)".to_owned(), "22007"),
        (
            "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE odd (id int PRIMARY KEY, v mood)".to_owned(),
            "22P02",
        ),
        ("CREATE TABLE odd (id int PRIMARY KEY, v text CHECK (v = ''))".to_owned(), "23514"),
        (
            "CREATE TABLE odd (id int PRIMARY KEY, v text, n int NOT NULL DEFAULT 1, UNIQUE (v, n))"
                .to_owned(),
            "23505",
        ),
        (format!("{text}; {}", raise.replace('#', "P0001")), "P0001"),
        (format!("{text}; {}", raise.replace('#', "XX000")), "XX000"),
        (format!("{text}; {}", raise.replace('#', "23514")), "23514"),
        (format!("{text}; {}", raise.replace('#', "42501")), "42501"),
        (format!("{text}; {dynamic}"), "42703"),
    ] {
        for rows in [1, 600] {
            let type_name =
                schema.split_once(", v ").and_then(|(_, rest)| rest.split([')', ' ', ',']).next());
            let type_name = type_name.map_or("text", |name| match name {
                "int" => "integer",
                "mood" => "public.mood",
                name => name,
            });
            let mut copy = beside(&schema, &["id integer not null", &format!("v {type_name}")]).await;
            let row = |id: u32| insert("odd", &format!(r#"{{"id":{id},"v":"{SECRET}"}}"#));
            let mut rows: Vec<String> = (1..=rows).map(row).collect();
            rows.extend([row(1000), row(1001), other(1)]);
            copy.forge.segment(&[rows]);
            copy.applier(&["add-tables", "*"]).succeed().await;
            let said = everything_said(&copy, &["sync", "-vvv"]).await;
            assert!(!said.contains(SECRET), "{code}: {schema}: {said}");
            assert!(said.contains(&format!("SQLSTATE {code}")), "{code}: {schema}: {said}");
            let kept = "SELECT position('canary' IN record) > 0, sqlstate FROM data_sync_quarantine";
            assert_eq!(copy.rows(kept).await, format!("t,{code}"));
        }
    }
}

/// What the server says of the value that it refuses is kept where the record is.
#[tokio::test]
async fn the_server_s_own_words_are_kept_in_the_quarantine() {
    let odd = "CREATE TABLE odd (id int PRIMARY KEY, n int, v int)";
    let mut copy = beside(odd, &["id integer not null", "n integer", "v integer"]).await;
    copy.forge.segment(&[vec![insert("odd", &format!(r#"{{"id":1,"n":2,"v":"{SECRET}"}}"#)), other(1)]]);
    only_odd_is_held_up(&mut copy, "22P02", "column \"v\"").await;
    assert_eq!(
        copy.rows("SELECT position('canary-4711' IN reason) > 0 FROM data_sync_quarantine").await,
        "t"
    );
}

#[tokio::test]
async fn a_load_that_fails_says_no_value_in_the_log_the_status_or_over_http() {
    for type_name in ["int", "date", "mood", "text CHECK (v = '')", "varchar(3)"] {
        let schema =
            format!("CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE odd (id int PRIMARY KEY, v {type_name})");
        let source = match type_name {
            "int" => "integer",
            "varchar(3)" => "character varying(3)",
            "mood" => "public.mood",
            name => name.split(' ').next().expect("a type"),
        };
        let mut copy = beside(&schema, &["id integer not null", &format!("v {source}")]).await;
        copy.forge.segment(&[vec![other(1)]]);
        copy.forge.had_rows("odd");
        copy.forge.segment(&[vec![other(2)]]);
        copy.forge.snapshot(&[("odd", &[&format!("1\t{SECRET}")])]);
        copy.forge.segment(&[vec![other(3)]]);
        let address = syncdata_tests::free_address();
        copy.set("SYNCDATA_HTTP_LISTEN", &address);
        copy.applier(&["add-tables", "*"]).succeed().await;
        let daemon = copy.applier(&["start", "-vv"]).spawn();
        copy.wait_until("SELECT state FROM data_sync_table_state WHERE table_name = 'odd'", |state| {
            state == "quarantined"
        })
        .await;
        let mut said = everything_said(&copy, &["sync"]).await;
        for path in ["/status", "/health", "/metrics"] {
            let mut stream = TcpStream::connect(&address).expect("the daemon listens");
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
            stream.read_to_string(&mut said).expect("it answers");
        }
        said.push_str(&daemon.stop().await.to_string());
        assert!(!said.contains(SECRET), "{type_name}: {said}");
        assert!(said.contains("odd is quarantined") && said.contains("SQLSTATE 2"), "{type_name}: {said}");
        if type_name == "int" {
            assert!(said.contains("column \\\"v\\\"") || said.contains("column \"v\""), "{said}");
        }
    }
}

/// Every way in which columns can be sent is a statement of its own; the server keeps a bounded number of them.
#[tokio::test]
async fn statements_that_were_prepared_do_not_pile_up_in_the_server() {
    let columns: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
    let local: Vec<String> = columns.iter().map(|name| format!("{name} int")).collect();
    let mut copy = beside(
        &format!("CREATE TABLE odd (id int PRIMARY KEY, {})", local.join(", ")),
        &["id integer not null"],
    )
    .await;
    let described: Vec<String> = columns.iter().map(|name| format!("{name} integer")).collect();
    let described: Vec<&str> =
        std::iter::once("id integer not null").chain(described.iter().map(String::as_str)).collect();
    copy.forge.relation("odd", &described, &["id"]);
    let update = |set: u32| {
        let sent = columns.iter().enumerate().filter(|(place, _)| set >> place & 1 == 1);
        let data: Vec<String> = sent.map(|(_, name)| format!(r#""{name}":{set}"#)).collect();
        format!(
            r#"{{"table":"odd","op":"UPDATE","data":{{"id":{set},{}}},"old_keys":{{"id":{set}}}}}"#,
            data.join(",")
        )
    };
    let rows = (1..4096).map(|id| insert("odd", &format!(r#"{{"id":{id}}}"#)));
    copy.forge.segment(&[rows.collect(), (1..4096).map(update).collect::<Vec<_>>()]);
    // The view belongs to a session: a trigger of ours looks at the one that applies.
    copy.server
        .execute(
            "CREATE TABLE seen (n int);
             CREATE FUNCTION looks() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen SELECT count(*) FROM pg_prepared_statements; RETURN NULL; END $$;
             CREATE TRIGGER looks AFTER UPDATE ON odd FOR EACH STATEMENT EXECUTE FUNCTION looks();
             ALTER TABLE odd ENABLE ALWAYS TRIGGER looks",
        )
        .await;
    copy.applier(&["add-tables", "odd", "other"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM odd WHERE c11 = id").await, "2048");
    let most: u32 = copy.rows("SELECT max(n) FROM seen").await.parse().expect("a number");
    assert!((10..400).contains(&most), "{most} prepared statements");
}

/// Names that would end a line, a comment or a word of a shell: what is printed can be run as it stands.
#[tokio::test]
async fn a_statement_that_is_printed_is_one_line_that_can_be_run() {
    let odd = "CREATE TABLE odd (id int PRIMARY KEY, \"old\nname\" int)";
    let mut copy = beside(odd, &["id integer not null", "new\nname integer"]).await;
    copy.forge.segment(&[vec![other(1), insert("odd", r#"{"id":1,"new\nname":7}"#)]]);
    copy.applier(&["add-tables", "*"]).succeed().await;
    let said = copy.sync(1).await;
    let line = said.lines().find(|line| line.contains("; run: ")).expect("a remedy");
    let (_, statement) = line.split_once("; run: ").expect("a remedy");
    assert!(statement.starts_with("ALTER TABLE \"public\".\"odd\" RENAME COLUMN"), "{said}");
    copy.server.execute(statement).await;
    copy.applier(&["retry", "odd"]).succeed().await;
    assert_eq!(copy.rows("SELECT \"new\nname\" FROM odd").await, "7");
}

#[tokio::test]
async fn a_command_that_is_printed_can_be_run_in_a_shell() {
    let schema = "CREATE TABLE \"Odd $(id) 'n''\" (id int PRIMARY KEY CHECK (id <> 2))";
    let mut copy = LocalCopy::start(&format!("{OTHERS}{schema}")).await;
    let name = r#""Odd $(id) 'n''""#;
    copy.forge.relation(name, &["id integer not null"], &["id"]);
    copy.forge.segment(&[vec![insert(&name.replace('"', "\\\""), r#"{"id":2}"#)]]);
    copy.applier(&["add-tables", "*"]).succeed().await;
    let said = copy.sync(1).await;
    let (_, command) = said.split_once("then run: syncdata-applier ").expect("a remedy");
    let words = format!("printf '%s\\n' {}", command.lines().next().expect("a line"));
    let shell = std::process::Command::new("sh").args(["-c", &words]).output().expect("a shell");
    assert_eq!(String::from_utf8_lossy(&shell.stdout), format!("retry\n{name}\n"), "{said}");
}

#[tokio::test]
async fn a_type_of_the_archive_stands_in_no_statement_that_is_none() {
    let bad = "bigint; DROP TABLE other; --";
    let odd = "CREATE TABLE odd (id int PRIMARY KEY, v smallint)";
    let mut copy = beside(odd, &["id integer not null", "v bigint"]).await;
    copy.forge.segment(&[vec![other(1), insert("odd", r#"{"id":1,"v":70000}"#)]]);
    copy.applier(&["add-tables", "*"]).succeed().await;
    let said = copy.sync(1).await;
    assert!(said.contains("ALTER COLUMN \"v\" TYPE bigint"), "{said}");
    copy.applier(&["retry", "odd"]).run().await.expect_code(1);
    let column =
        |type_name: &str| Column { name: "v".into(), type_name: type_name.into(), ..Column::default() };
    let id = Column { name: "id".into(), type_name: "integer".into(), ..Column::default() };
    for local in ["text", "smallint"] {
        let mut copy = beside(
            &format!("CREATE TABLE odd (id int PRIMARY KEY, v {local} CHECK (v::text <> '7'))"),
            &["id integer not null"],
        )
        .await;
        copy.forge.describe(
            "odd",
            Relation::new(vec![id.clone(), column(bad)], vec!["id".into()], ReplicaIdentity::Default),
        );
        copy.forge.segment(&[vec![
            other(1),
            insert("odd", r#"{"id":1,"v":"x"}"#),
            insert("odd", r#"{"id":2,"v":"7"}"#),
        ]]);
        copy.applier(&["add-tables", "*"]).succeed().await;
        let said = copy.sync(1).await;
        assert!(!said.contains(" TYPE bigint;"), "{said}");
    }
}
