//! `drop-slot`: the slot goes, unless changes wait in it.

use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Source};
use syncdata_service::faults;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{PinnedSettings, Session, drop_role};
use tokio_postgres::types::Type;

use crate::operations::pending::{self, Pending};
use crate::operations::{publication, triggers};
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

/// The slot is gone, and perhaps something beside it is not.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub slot: Dropped,
    /// For a superuser: what our role may not remove.
    pub left: Option<Finding>,
}

/// With `force` even while changes wait: they are lost.
pub(crate) async fn drop_slot(config: &Config, force: bool) -> Result<Removal> {
    let name = &config.slot_name;
    let mut connection = Connection::open(config).await?;
    // A running archiver would not even notice before its next poll.
    connection.lock(Work::Reading, name).await?;
    let Some(slot) = Slot::read(connection.session.client(), name).await? else {
        if !force {
            slot::refuse_half_switched(connection.session.client(), name).await?;
        }
        let left = drop_beside(config, &connection).await?;
        return Ok(Removal { slot: Dropped::WasNotThere, left });
    };
    if config.source == Source::Triggers {
        if !force {
            triggers::refuse_while_pending(config, &connection).await?;
        }
        let left = triggers::remove(config).await?;
        return Ok(Removal { slot: Dropped::Now, left });
    }
    if !force && slot.lost_because().is_none() {
        refuse_while_pending(config, &mut connection).await?;
    }
    let sql = "SELECT pg_drop_replication_slot($1)";
    let dropped = connection.session.client().query_typed(sql, &[(&name.as_str(), Type::NAME)]).await;
    dropped.context(|| format!("dropping the replication slot {name}"))?;
    faults::hit("drop_slot.slot_dropped")?;
    let left = drop_beside(config, &connection).await?;
    Ok(Removal { slot: Dropped::Now, left })
}

/// What belongs to the slot, whether or not it is still there: a command that was interrupted is run again.
async fn drop_beside(config: &Config, connection: &Connection) -> Result<Option<Finding>> {
    drop_aside(connection, &config.slot_name).await?;
    faults::hit("drop_slot.aside_dropped")?;
    publication::remove(config, &connection.session).await
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
