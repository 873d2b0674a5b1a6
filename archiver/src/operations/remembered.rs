//! What the spool remembers, for commands that only look.

use syncdata_archive::ArchiveHandle;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Program};
use syncdata_service::control::{self, Method};
use syncdata_service::own_files;

use crate::ship::shipper::Shipper;
use crate::spool::{Spool, State};

/// Where the daemon says it.
pub(crate) const PATH: &str = "/remembered";

/// From the spool itself, or, where that is closed to us, from the daemon that works in it; `None` when nobody ever did.
pub(crate) async fn remembered(config: &Config) -> Result<Option<State>> {
    let refused = match Spool::peek_state(&config.spool_dir) {
        Err(error) if own_files::is_of_another(&config.spool_dir) => error,
        read => return read,
    };
    let sockets = config.sockets(Program::Archiver);
    match control::call_first(&sockets, Method::Post, PATH, None).await? {
        Some(response) if response.is_success() => response.read_json(),
        Some(response) if response.status != 404 => {
            let words = String::from_utf8_lossy(&response.body).trim().to_owned();
            Err(refused.context(format!("the daemon does not tell it: {words}")))
        }
        // None, or one of an earlier version.
        _ => Err(refused.hint(
            "start the daemon (systemctl start syncdata-archiver), which tells it to members of its group, or run this \
             command with sudo",
        )),
    }
}

/// Of a command that goes on with what its spool has: one that is new beside an archive that is not is somebody else's
/// mistake, and would go on with the chain in the place of the daemon's.
pub(crate) async fn refuse_second_spool(config: &Config) -> Result<()> {
    if Spool::peek_state(&config.spool_dir)?.is_some() {
        return Ok(());
    }
    let shipper = Shipper::new(ArchiveHandle::spawn(syncdata_archive::open(config.archive()?)?)?);
    // A backup host that is away says nothing: then nothing can be adopted either.
    let Ok(Some(_)) = shipper.identity().await else { return Ok(()) };
    let message = format!(
        "the spool {} is new, and the archive {} is not",
        config.spool_dir.display(),
        shipper.location()
    );
    Err(Error::new(Kind::Refused, message).hint(
        "if the archiver works in another one, set spool_dir to that, or start the daemon (systemctl start \
         syncdata-archiver); if its spool is lost, one poll begins a new one: syncdata-archiver run --once",
    ))
}
