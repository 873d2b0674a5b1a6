//! `drop-slot`: the slot goes, unless changes wait in it.

use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{PinnedSettings, Session, drop_role};
use tokio_postgres::types::Type;
use tracing::warn;

use crate::operations::pending::{self, Pending};
use crate::operations::publication;
use crate::source::catalog::Slot;
use crate::source::connection::{Connection, Work};
use crate::source::pinned::APPLICATION_NAME;
use crate::source::role::ROLE;
use crate::source::slot;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    Now,
    WasNotThere,
}

/// With `force` even while changes wait: they are lost.
pub(crate) async fn drop_slot(config: &Config, force: bool) -> Result<Dropped> {
    let name = &config.slot_name;
    let mut connection = Connection::open(config).await?;
    // A running archiver would not even notice before its next poll.
    connection.lock(Work::Reading, name).await?;
    let Some(slot) = Slot::read(connection.session.client(), name).await? else {
        if !force {
            slot::refuse_half_switched(connection.session.client(), name).await?;
        }
        drop_aside(&connection, name).await?;
        publication::remove(config, &connection.session).await?;
        return Ok(Dropped::WasNotThere);
    };
    if !force && slot.lost_because().is_none() {
        refuse_while_pending(config, &mut connection).await?;
    }
    let sql = "SELECT pg_drop_replication_slot($1)";
    let dropped = connection.session.client().query_typed(sql, &[(&name.as_str(), Type::NAME)]).await;
    dropped.context(|| format!("dropping the replication slot {name}"))?;
    drop_aside(&connection, name).await?;
    for statement in publication::remove(config, &connection.session).await? {
        warn!(statement, "left behind: somebody who may has to run this");
    }
    Ok(Dropped::Now)
}

/// What a change of its plugin left behind.
async fn drop_aside(connection: &Connection, name: &SlotName) -> Result<()> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
    let Ok(aside) = slot::aside(name) else { return Ok(()) };
    let dropped = connection.session.client().query_typed(sql, &[(&aside.as_str(), Type::NAME)]).await;
    dropped.context(|| format!("dropping the replication slot {aside}")).map(|_| ())
}

/// The role that `setup --create-user` makes.
pub(crate) async fn drop_role(config: &Config) -> Result<Finding> {
    let session = Session::open(config.postgres()?, APPLICATION_NAME, &PinnedSettings::new()).await?;
    drop_role::drop_role(&session, ROLE).await
}

/// WAL that is no change of a captured table may wait: there is always some on a busy server.
async fn refuse_while_pending(config: &Config, connection: &mut Connection) -> Result<()> {
    let name = &config.slot_name;
    let hint = "run `syncdata-archiver run --once` first, or say --force: the changes are then lost";
    let refuse = |what: &str| Error::new(Kind::Refused, format!("{what} in the slot {name}")).hint(hint);
    let waits = pending::waits(config, connection).await;
    match waits.map_err(|error| refuse("nobody can say whether changes wait").caused_by(error))? {
        Pending::Nothing => Ok(()),
        Pending::Changes => Err(refuse("changes wait")),
        Pending::TooMuchToTell => Err(refuse("there is more than one poll reads")),
    }
}
