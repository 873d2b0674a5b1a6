//! The local side alone: a server, a folder as the archive, and the applier between them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::forge::Forge;
use crate::postgres::{PostgresOptions, PostgresServer};
use crate::program::Program;
use crate::scratch::Scratch;

/// What is waited for takes moments.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module. What production did is forged.
#[derive(Debug)]
pub struct LocalCopy {
    pub server: PostgresServer,
    pub forge: Forge,
    folder: Scratch,
    settings: Vec<(String, String)>,
}

impl LocalCopy {
    pub async fn start(schema: &str) -> LocalCopy {
        let server = PostgresServer::start_with(PostgresOptions::default().database("reporting")).await;
        server.execute(schema).await;
        let folder = Scratch::new("copy");
        std::fs::create_dir_all(folder.path().join("logs")).expect("the folder is ours");
        let forge = Forge::new(&folder.path().join("archive"));
        LocalCopy { server, forge, folder, settings: Vec::new() }
    }

    /// With tables `users` and `orders` here, of which the archive's first segment has three rows.
    pub async fn with_orders(schema: &str) -> LocalCopy {
        let mut copy = LocalCopy::start(schema).await;
        copy.forge.relation("users", &["id integer not null", "name text"], &["id"]);
        copy.forge.relation("orders", &["id integer not null", "user_id integer"], &["id"]);
        copy.forge.segment(&[
            vec![
                r#"{"table":"users","op":"INSERT","data":{"id":1,"name":"Ann"}}"#,
                r#"{"table":"users","op":"INSERT","data":{"id":2,"name":"Bob"}}"#,
            ],
            vec![r#"{"table":"orders","op":"INSERT","data":{"id":7,"user_id":1}}"#],
        ]);
        copy
    }

    /// A variable of the applier's environment: `SYNCDATA_ON_ERROR`.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.settings.push((name.into(), value.into()));
    }

    pub fn applier(&self, arguments: &[&str]) -> Program {
        let folder = self.folder.path();
        let program = Program::new("syncdata-applier", arguments, &folder.join("logs"))
            .env("HOME", folder)
            .env("STATE_DIRECTORY", folder.join("state"))
            .env("SYNCDATA_ARCHIVE_DIR", self.archive_dir())
            .env("PG_HOST", self.server.host())
            .env("PG_PORT", self.server.port().to_string())
            .env("PG_USER_NAME", self.server.user())
            .env("PG_DB_NAME", self.server.database());
        self.settings.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// `sync` that must succeed with that exit code; what it said.
    pub async fn sync(&self, code: i32) -> String {
        let done = self.applier(&["sync"]).run().await.expect_code(code);
        done.stdout + &done.stderr
    }

    pub fn archive_dir(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Asks again until the answer is as wanted.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn wait_until(&self, query: &str, is_wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.rows(query).await;
            if is_wanted(&answer) {
                return;
            }
            assert!(Instant::now() < deadline, "{query} still answers {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Of a table of the whitelist; `quarantined`.
    pub async fn state(&self, table: &str) -> String {
        self.rows(&format!("SELECT state FROM data_sync_table_state WHERE table_name = '{table}'")).await
    }

    pub async fn reason(&self, table: &str) -> String {
        self.rows(&format!("SELECT reason FROM data_sync_table_state WHERE table_name = '{table}'")).await
    }

    /// Rows on one line: `1,one 2,NULL`.
    pub async fn rows(&self, query: &str) -> String {
        let rows = self.server.query(query).await;
        let row = |row: Vec<Option<String>>| {
            let values: Vec<String> = row.into_iter().map(|value| value.unwrap_or("NULL".into())).collect();
            values.join(",")
        };
        rows.into_iter().map(row).collect::<Vec<_>>().join(" ")
    }
}
