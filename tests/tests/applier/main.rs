//! The applier as a program: its commands, its daemon, and what they say.

mod accepted;
mod alerts;
mod altered_by_hand;
mod altered_types;
mod baselines;
mod by_hand;
mod check;
mod clear;
mod columns;
mod commands;
mod daemon;
mod dead_letters;
mod executions;
mod follow;
mod groups;
mod health;
mod heirs;
mod local_writes;
mod numbers;
mod restored;
mod restored_elsewhere;
mod rewritten_by_hand;
mod rewritten_meanwhile;
mod setup;
mod truth;
mod uninstall;
mod walk_through;

use syncdata_tests::LocalCopy;

const USERS: &str = "CREATE TABLE users (id int PRIMARY KEY, name text);
    CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users)";

/// Two tables here and in the archive, whose first segment holds three rows.
async fn two_tables() -> LocalCopy {
    LocalCopy::with_orders(USERS).await
}

fn rename(id: u32, name: &str) -> String {
    format!(
        r#"{{"table":"users","op":"UPDATE","data":{{"id":{id},"name":"{name}"}},"old_keys":{{"id":{id}}}}}"#
    )
}
