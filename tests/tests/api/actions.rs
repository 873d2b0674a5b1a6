//! What is asked for, and what comes of it.

use serde_json::{Value, json};

use super::{API, Answer, Served, get, post, rename, served};

/// The execution that an answer names, once it is over.
async fn ended(served: &Served, answer: Answer) -> Value {
    let answer = answer.expect(202);
    let id = answer.json()["execution"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.header("location"), Some(format!("{API}/sync/executions/{id}").as_str()));
    let query = format!("SELECT ended_at IS NOT NULL FROM sync_executions WHERE id = '{id}'");
    served.copy.wait_until(&query, |answer| answer == "t").await;
    get(&served.address, &format!("{API}/sync/executions/{id}")).expect(200).json()
}

#[tokio::test]
async fn what_is_asked_for_is_done_as_for_a_command_and_told_as_an_execution() {
    let mut served = served(&[]).await;
    let address = served.address.clone();

    served.copy.forge.segment(&[vec![rename(1, "Eve")]]);
    let done = ended(&served, post(&address, &format!("{API}/sync/run"), "", "")).await;
    assert_eq!(
        (&done["state"], &done["kind"], &done["trigger"]),
        (&json!("succeeded"), &json!("pass"), &json!("api"))
    );
    assert_eq!(done["counts"]["records"], 1, "{done}");
    assert_eq!(served.copy.rows("SELECT name FROM users WHERE id = 1").await, "Eve");

    // A record that no table takes: seen, tried again in vain, mended, tried again, and another one passed over.
    served.copy.server.execute("ALTER TABLE users ADD CONSTRAINT good CHECK (name NOT LIKE 'Bad%')").await;
    served.copy.forge.segment(&[vec![rename(2, "Bad")]]);
    ended(&served, post(&address, &format!("{API}/sync/run"), "{}", "")).await;
    let queue = get(&address, &format!("{API}/sync/dead-letter-queue")).expect(200).json();
    assert_eq!(queue["items"].as_array().map(Vec::len), Some(1), "{queue}");
    let id = queue["items"][0]["operation_id"].as_str().expect("an id").to_owned();
    let letter = get(&address, &format!("{API}/sync/dead-letter-queue/{id}")).expect(200).json();
    assert_eq!(letter["record"]["data"]["name"], "Bad", "{letter}");
    assert!(!get(&address, "/status").body.contains("(2, Bad)"), "the server's DETAIL quotes rows");
    let retry = format!("{API}/sync/dead-letter-queue/{id}/retry");
    let failed = ended(&served, post(&address, &retry, "", "")).await;
    assert_eq!((&failed["state"], &failed["tables"]), (&json!("failed"), &json!(["users"])), "{failed}");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("users is quarantined")), "{failed}");
    served.copy.server.execute("ALTER TABLE users DROP CONSTRAINT good").await;
    let done = ended(&served, post(&address, &format!("{API}/sync/table/users/retry"), "", "")).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    post(&address, &format!("{API}/sync/table/users/retry"), "", "").expect(409);
    post(&address, &retry, "", "").expect(409);

    served.copy.server.execute("UPDATE users SET name = 'Bob' WHERE id = 2").await;
    served.copy.server.execute("ALTER TABLE users ADD CONSTRAINT good CHECK (name NOT LIKE 'Bad%')").await;
    served.copy.forge.segment(&[vec![rename(2, "Bad2")], vec![rename(1, "Eva")]]);
    ended(&served, post(&address, &format!("{API}/sync/run"), "", "")).await;
    let queue = get(&address, &format!("{API}/sync/dead-letter-queue")).expect(200).json();
    let id = queue["items"][0]["operation_id"].as_str().expect("an id").to_owned();
    let skip = format!("{API}/sync/dead-letter-queue/{id}/skip");
    post(&address, &skip, "", "").expect(422);
    post(&address, &skip, r#"{"reason":" "}"#, "").expect(422);
    let done = ended(&served, post(&address, &skip, r#"{"reason":"a test row"}"#, "")).await;
    assert_eq!(
        (&done["state"], &done["counts"]["skipped_records"]),
        (&json!("succeeded"), &json!(1)),
        "{done}"
    );
    assert_eq!(served.copy.rows("SELECT name FROM users ORDER BY id").await, "Eva Bob");
    let kept = "SELECT resolution FROM data_sync_quarantine WHERE resolution LIKE '%a test row%'";
    assert!(!served.copy.rows(kept).await.is_empty());

    // Made anew, repaired, compared.
    served.copy.forge.snapshot(&[("users", &["1\tEve", "2\tBea"]), ("orders", &["7\t1"])]);
    served.copy.forge.set_clock("2026-02-06T10:00:00Z");
    served.copy.forge.segment(&[vec![rename(1, "Eva")]]);
    served.copy.applier(&["sync"]).run().await;
    let full = format!("{API}/sync/table/users/full?batch_size=5000");
    let done = ended(&served, post(&address, &full, "", "")).await;
    assert_eq!((&done["state"], &done["kind"]), (&json!("succeeded"), &json!("load")), "{done}");
    assert_eq!(served.copy.rows("SELECT name FROM users ORDER BY id").await, "Eva Bea");
    served.copy.server.execute("ALTER TABLE users DROP CONSTRAINT good").await;
    served.copy.server.execute("UPDATE users SET name = 'by hand' WHERE id = 1").await;
    let since = format!("{API}/sync/table/users/incremental");
    let done = ended(&served, post(&address, &since, r#"{"since":"2026-02-06T10:00:00Z"}"#, "")).await;
    assert_eq!((&done["state"], &done["kind"]), (&json!("succeeded"), &json!("replay")), "{done}");
    assert_eq!(served.copy.rows("SELECT name FROM users WHERE id = 1").await, "Eva");
    let check = r#"{"tables":["public.*","orders"],"check_types":["row_count","data_hash"]}"#;
    let done = ended(&served, post(&address, &format!("{API}/consistency/check"), check, "")).await;
    assert_eq!(
        (&done["state"], &done["counts"]["without_proof"]),
        (&json!("succeeded"), &json!(2)),
        "{done}"
    );
    let row = get(&address, &format!("{API}/consistency/validate/users?primary_key=1")).expect(200).json();
    assert_eq!((&row["table"], &row["differing"]), (&json!("users"), &json!(0)), "{row}");

    // The same list in pages as in one.
    let all = get(&address, &format!("{API}/sync/executions?limit=500")).expect(200).json();
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&address, &format!("{API}/sync/executions?limit=3{cursor}")).expect(200).json();
        paged.extend(page["items"].as_array().expect("a list").clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(Some(&paged), all["items"].as_array());
    let of_api = paged.iter().filter(|one| one["trigger"] == "api").count();
    assert_eq!(of_api, 9, "each once: {paged:?}");
    served.daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn a_key_gives_the_same_execution_to_everybody_who_repeats_it() {
    let served = served(&[]).await;
    let address = served.address.clone();
    let run = format!("{API}/sync/run");
    let rivals: Vec<_> = (0..8)
        .map(|_| {
            let (address, run) = (address.clone(), run.clone());
            tokio::task::spawn_blocking(move || post(&address, &run, "{}", "Idempotency-Key: one\r\n"))
        })
        .collect();
    let mut ids = Vec::new();
    for rival in rivals {
        ids.push(rival.await.expect("it ends").expect(202).json()["execution"]["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let of_api = "SELECT count(*) FROM sync_executions WHERE trigger = 'api'";
    assert_eq!(served.copy.rows(of_api).await, "1");

    let since = format!("{API}/sync/table/users/incremental");
    let key = "Idempotency-Key: two\r\n";
    post(&address, &since, r#"{"since":"2026-01-01"}"#, key).expect(202);
    post(&address, &since, r#"{ "since" : "2026-01-01" }"#, key).expect(202);
    post(&address, &since, r#"{"since":"2026-01-02"}"#, key).expect(422);
    // A key is for one path.
    post(&address, &format!("{API}/sync/table/orders/incremental"), r#"{"since":"2026-01-02"}"#, key)
        .expect(202);
    assert_eq!(served.copy.rows(of_api).await, "3");

    // Who dies with it leaves it to be called abandoned, and the key with it.
    served
        .copy
        .wait_until("SELECT count(*) FROM sync_executions WHERE ended_at IS NULL", |count| count == "0")
        .await;
    served.daemon.kill().await;
    let queued = "UPDATE sync_executions SET state = 'queued', ended_at = NULL WHERE request_key = 'one'";
    served.copy.server.execute(queued).await;
    let mut daemon = served.copy.applier(&["start"]).spawn();
    daemon.says("pass done").await;
    let again = post(&address, &run, "{}", "Idempotency-Key: one\r\n").expect(202).json();
    assert_eq!(
        (&again["execution"]["id"], &again["execution"]["state"]),
        (&ids[0], &json!("abandoned")),
        "{again}"
    );
    // After a day it is a new one.
    served.copy.server.execute("UPDATE sync_executions SET asked_at = asked_at - interval '1 day'").await;
    let new = post(&address, &run, "{}", "Idempotency-Key: one\r\n").expect(202).json();
    assert_ne!(new["execution"]["id"], ids[0], "{new}");
    // A table that is said often is looked at once: nobody waits behind thousands of sessions.
    let often = json!({"tables": vec!["users"; 3000]}).to_string();
    let check = post(&address, &format!("{API}/consistency/check"), &often, "").expect(202).json();
    let tables = "SELECT tables FROM sync_executions WHERE kind = 'check'";
    assert_eq!(served.copy.rows(tables).await, "{users}", "{check}");
    daemon.stop().await.expect_code(0);
}

/// What users of an earlier service type, and the words for what has no place here.
#[tokio::test]
async fn every_question_of_the_earlier_service_has_its_answer() {
    let served = served(&[]).await;
    let address = served.address.clone();
    let status = get(&address, &format!("{API}/sync/status")).expect(200).json();
    assert_eq!((&status["is_running"], &status["healthy"]), (&json!(true), &json!(true)), "{status}");
    let cdc = get(&address, &format!("{API}/cdc/status")).expect(200).json();
    assert_eq!((&cdc["applied"]["segment"], &cdc["waiting_segments"]), (&json!(1), &json!(0)), "{cdc}");
    assert!(cdc["archive"]["covered_lsn"].is_string() && cdc["archive"]["covered_at"].is_string(), "{cdc}");
    let tables = get(&address, &format!("{API}/sync/tables?limit=1")).expect(200).json();
    assert_eq!(
        (&tables["items"][0]["table"], &tables["next_cursor"]),
        (&json!("orders"), &json!("orders")),
        "{tables}"
    );
    let rest = get(&address, &format!("{API}/sync/tables?limit=1&cursor=orders")).expect(200).json();
    assert_eq!((&rest["items"][0]["table"], &rest["next_cursor"]), (&json!("users"), &Value::Null), "{rest}");
    for (path, has) in [
        ("/consistency/status", "\"tables\""),
        ("/sync/dead-letter-queue", "\"items\":[]"),
        ("/monitoring/health", "\"healthy\":true"),
        ("/monitoring/alerts", "\"items\":[]"),
        ("/monitoring/metrics/prometheus", "syncdata_applier_records_total 3"),
        ("/openapi.json", "\"openapi\":\"3.1.0\""),
    ] {
        let answer = get(&address, &format!("{API}{path}")).expect(200);
        assert!(answer.body.contains(has), "{path}: {answer:?}");
    }
    super::assert_committed(&address, "applier.json");

    // The dual write of the earlier service.
    let operation = r#"{"table_name":"users","operation_type":"create","data":{"id":"123","name":"John"},
        "consistency_level":"strong","strategy":"real_time"}"#;
    let refused = post(&address, &format!("{API}/sync/operation"), operation, "").expect(501).json();
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("data_sync_wait_for")), "{refused}");
    assert_eq!(served.copy.rows("SELECT count(*) FROM users").await, "2");
    // curl -d without a type says that it is a form.
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let body = r#"{"since": "2024-01-01T00:00:00Z"}"#;
    let head = format!("Authorization: Bearer {}\r\n{form}Content-Length: {}", super::TOKEN, body.len());
    let request = format!(
        "POST {API}/sync/table/users/incremental HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n{body}"
    );
    let refused = super::send(&address, &request).expect(415).json();
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("application/json")), "{refused}");
    post(&address, &format!("{API}/sync/table/users/incremental"), body, "").expect(202);
    served.daemon.stop().await.expect_code(0);
}

/// Every step of a load at which it can die.
const OF_A_LOAD: [&str; 5] =
    ["load.part_fetched", "load.filled", "load.caught_up", "load.before_commit", "load.after_commit"];

#[tokio::test]
async fn a_daemon_that_is_killed_in_the_middle_of_a_resync_tells_it_and_no_table_is_live_and_wrong() {
    let served = served(&[]).await;
    let Served { mut copy, mut daemon, address } = served;
    let good = "ALTER TABLE users ADD CONSTRAINT good CHECK (name NOT LIKE 'Bad%') NOT VALID";
    for (round, step) in OF_A_LOAD.into_iter().enumerate() {
        daemon.stop().await.expect_code(0);
        copy.server.execute(good).await;
        let bad = format!("Bad {round}");
        copy.forge.segment(&[vec![rename(2, &bad)]]);
        copy.sync(1).await;
        assert_eq!(copy.state("users").await, "quarantined");
        copy.server
            .execute("ALTER TABLE users DROP CONSTRAINT good; UPDATE users SET name = 'by hand'")
            .await;
        // A base with what it could not take, and a change after it.
        copy.forge.snapshot(&[("users", &["1\tAnn", &format!("2\t{bad}")]), ("orders", &["7\t1"])]);
        copy.forge.segment(&[vec![rename(1, &format!("Eve {round}"))]]);
        let after = format!("Eve {round} {bad}");

        daemon = copy.applier(&["start"]).fault(&format!("{step}=kill")).spawn();
        daemon.says("pass done").await;
        let asked = post(&address, &format!("{API}/sync/table/users/full"), "", "").expect(202).json();
        let killed = daemon.ended().await;
        assert!(killed.was_killed(), "{step}: {killed}");
        // As it was, or as it is to be, and live only then.
        let is_made = step == "load.after_commit";
        let names = copy.rows("SELECT name FROM users ORDER BY id").await;
        assert_eq!(names, if is_made { after.as_str() } else { "by hand by hand" }, "{step}");
        assert_eq!(copy.state("users").await, if is_made { "live" } else { "quarantined" }, "{step}");

        daemon = copy.applier(&["start"]).spawn();
        daemon.says("pass done").await;
        let id = asked["execution"]["id"].as_str().expect("an id");
        let told = get(&address, &format!("{API}/sync/executions/{id}")).expect(200).json();
        assert_eq!(told["state"], "abandoned", "{step}: {told}");
        assert!(told["ended_at"].is_string(), "{step}: {told}");
        // What was asked for is done all the same.
        copy.wait_until("SELECT string_agg(name, ' ' ORDER BY id) FROM users", |names| names == after).await;
        let wishes = "SELECT count(*) FROM data_sync_table_state WHERE state <> 'live' OR load IS NOT NULL";
        copy.wait_until(wishes, |count| count == "0").await;
    }
    daemon.stop().await.expect_code(0);
}
