//! Which process of the server answers.

use std::fmt;

use syncdata_formats::error::Result;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::Client;

/// The server's end of a session: a crash of the server, and a pooler, put another one in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerProcess {
    pub pid: i32,
    started: String,
}

impl ServerProcess {
    pub(crate) async fn of(client: &Client) -> Result<ServerProcess> {
        let sql = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let row = client.query_typed_one(sql, &[]).await;
        let row = row.context(|| "asking the source for its process".to_owned())?;
        Ok(ServerProcess { pid: row.get(0), started: row.get(1) })
    }
}

impl fmt::Display for ServerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.pid, self.started)
    }
}
