//! The page over a copy of two thousand tables.

use std::time::Duration;

use serde_json::{Value, json};
use syncdata_tests::{Browser, LocalCopy, Scheme, free_address};

const TABLES: usize = 2000;

/// So many tables take a while on a machine under load.
const PATIENCE: Duration = Duration::from_secs(600);

const LIVE: &str = "t1234";

/// Tables of one transaction.
const AT_ONCE: usize = 200;

/// Of the page's document, for each table: its name, state, times and counts.
const BYTES_OF_A_TABLE_MAX: u64 = 700;

/// All else in it, whatever was done how often.
const BYTES_BESIDE_MAX: u64 = 200_000;

#[tokio::test]
async fn two_thousand_tables_are_shown_a_few_at_a_time_and_one_is_found_by_its_name() {
    let names: Vec<String> = (0..TABLES).map(|number| format!("t{number:04}")).collect();
    let mut copy = LocalCopy::start("").await;
    // A transaction with all of them takes more locks than a server as it comes has room for.
    for names in names.chunks(AT_ONCE) {
        let create = |name| format!("CREATE TABLE {name} (id int PRIMARY KEY, note text);");
        let create: String = names.iter().map(create).collect();
        copy.server.execute(&create).await;
    }
    for name in &names {
        copy.forge.relation(name, &["id integer not null", "note text"], &["id"]);
        // All but one wait for their first base: what loads of them cost is of no interest here.
        if name != LIVE {
            copy.forge.had_rows(name);
        }
    }
    let row =
        |name: &String| vec![format!(r#"{{"table":"{name}","op":"INSERT","data":{{"id":1,"note":"a"}}}}"#)];
    for names in names.chunks(AT_ONCE) {
        copy.forge.segment(&names.iter().map(row).collect::<Vec<_>>());
    }
    copy.set("SYNCDATA_STALE_AFTER", "3650d");
    copy.applier(&["add-tables", "*"]).patience(PATIENCE).succeed().await;
    copy.applier(&["sync"]).patience(PATIENCE).succeed().await;
    let address = free_address();
    copy.set("SYNCDATA_HTTP_LISTEN", &address);
    let mut daemon = copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;

    let browser = Browser::start().await;
    browser.looks(1280, 900, Scheme::Light).await;
    browser.go(&format!("http://{address}/")).await;
    browser.wait_until("#tables-title", |title| title.contains("Tables (2") && title.contains("000")).await;
    let shown = async || {
        let script = "return [...document.querySelectorAll('#tables tr th')].map((name) => name.textContent)";
        let names = browser.run(script, Value::Null).await;
        names.as_array().expect("a list").iter().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    let first = shown().await;
    assert!(!first.is_empty() && first.len() < TABLES / 10, "{first:?}");
    // One that is not among the first.
    browser.types("#find", "T1234").await;
    browser.wait_until("#tables", |rows| rows.contains("t1234") && rows.contains("live")).await;
    assert_eq!(shown().await.len(), 1);
    browser.types("#find", "5").await;
    browser.wait_until("#tables-none", |words| words.contains("None of that name")).await;
    let clear = "const find = document.getElementById('find'); find.value = ''; find.dispatchEvent(new Event('input', {bubbles: true}))";
    browser.run(clear, json!(null)).await;
    browser.click("#tables-all").await;
    browser.wait_until("#tables", |rows| rows.contains("t0000") && rows.contains("t1999")).await;
    assert_eq!(shown().await.len(), TABLES);
    // Found among all of them too, while answers keep coming.
    browser.types("#find", "t0777").await;
    browser.wait_until("#tables", |rows| rows.contains("t0777") && !rows.contains("t0776")).await;
    assert_eq!(shown().await.len(), 1);
    let console = crate::of_scripts(browser.console().await);
    assert!(console.is_empty(), "{console:?}");

    let sizes = "return fetch('/api/v1/data-sync/monitoring/dashboard').then((answer) => answer.ok ? answer.text() : '')
        .then(async (text) => [text.length, (await (await fetch('/status')).text()).length])";
    let sizes = browser.run(sizes, json!(null)).await;
    let largest = sizes.as_array().expect("two").iter().filter_map(Value::as_u64).max().expect("numbers");
    let bound = BYTES_OF_A_TABLE_MAX * TABLES as u64 + BYTES_BESIDE_MAX;
    assert!(largest > 0 && largest < bound, "{sizes}, and {bound} are the most");
    daemon.stop().await.expect_code(0);
}
