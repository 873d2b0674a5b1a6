//! Which wal2json the server has.

use syncdata_formats::Error;
use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::db_error;

use super::filter;
use super::peek::Peek;
use crate::source::connection::Connection;

/// The output plugin that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugin {
    /// `wal2json 2.7`, or what can be known of it.
    pub name: String,
    /// Can it print NaN and the infinities?
    pub numbers_as_text: bool,
}

impl Plugin {
    /// Asks what the server's wal2json understands. Needs the slot, reads next to nothing, and is asked once.
    pub(crate) async fn probe(connection: &mut Connection, slot: &SlotName) -> Result<Plugin> {
        let mut plugin = Plugin { name: String::new(), numbers_as_text: true };
        match plugin.try_on(connection, slot).await {
            Err(error) if is_unknown_option(&error) => {
                plugin.numbers_as_text = false;
                plugin.try_on(connection, slot).await?;
            }
            probed => probed?,
        }
        plugin.name = plugin.name_on(connection).await?;
        Ok(plugin)
    }

    async fn try_on(&self, connection: &mut Connection, slot: &SlotName) -> Result<()> {
        let (numbers_as_text, upto) = (self.numbers_as_text, Lsn::from_u64(1));
        let peek = Peek { slot, numbers_as_text, filter: filter::NOTHING, upto, lines_max: Some(1) };
        peek.run(connection, |_| Ok(())).await
    }

    /// PostgreSQL 18 names the versions of loaded modules; before, only the options tell.
    async fn name_on(&self, connection: &Connection) -> Result<String> {
        if connection.facts.major() >= 18 {
            let sql = "SELECT version FROM pg_get_loaded_modules() \
                WHERE file_name ~ '^wal2json' AND version IS NOT NULL";
            let rows = connection.session.client().query_typed(sql, &[]).await;
            if let Some(row) = rows.context(|| "asking for wal2json's version".to_owned())?.first() {
                return Ok(format!("wal2json {}", row.get::<_, &str>(0)));
            }
        }
        Ok(if self.numbers_as_text { "wal2json 2.6 or newer" } else { "wal2json 2.5 or older" }.to_owned())
    }

    /// What this plugin cannot say, as manifests and `status` name it.
    pub(crate) fn degraded(&self) -> Vec<String> {
        if self.numbers_as_text { Vec::new() } else { vec!["numeric-nan".to_owned()] }
    }
}

fn is_unknown_option(error: &Error) -> bool {
    db_error(error).is_some_and(|said| said.message().contains("numeric-data-types-as-string"))
}
