//! Base copies: first loads and resyncs.

mod altered_meanwhile;
mod archives;
mod bases;
mod captured;
mod end_to_end;
mod exchanged;
mod let_go;
mod older_rows;
mod own_rows;
mod parents;
mod renamed_meanwhile;
mod truncates;

use syncdata_tests::LocalCopy;

const USERS: &[&str] = &["id integer not null", "name text"];

async fn users() -> LocalCopy {
    let mut copy = LocalCopy::start("CREATE TABLE users (id int PRIMARY KEY, name text)").await;
    copy.forge.relation("users", USERS, &["id"]);
    copy
}

fn insert(id: u32, name: &str) -> String {
    format!(r#"{{"table":"users","op":"INSERT","data":{{"id":{id},"name":"{name}"}}}}"#)
}

fn update(id: u32, name: &str) -> String {
    format!(r#"{{"table":"users","op":"UPDATE","data":{{"name":"{name}"}},"old_keys":{{"id":{id}}}}}"#)
}

async fn state(copy: &LocalCopy, table: &str) -> String {
    copy.rows(&format!("SELECT state FROM data_sync_table_state WHERE table_name = '{table}'")).await
}
