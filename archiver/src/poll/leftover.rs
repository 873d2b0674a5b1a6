//! The copy of the slot that an interrupted change of its plugin has left.

use syncdata_formats::Result;
use syncdata_formats::name::SlotName;
use tracing::warn;

use crate::source::catalog::{Position, Slot};
use crate::source::connection::Connection;
use crate::source::leftover::Leftover;
use crate::source::slot;
use crate::spool::Opened;

/// Whoever holds the lock of the slot and has found the slot itself knows that nobody goes on with its copy: a change of the
/// plugin holds that lock to its end. A copy that this spool has not made may be another archiver's slot, and is only named.
pub(super) async fn let_go(
    opened: &mut Opened,
    connection: &Connection,
    slot: &Slot,
    name: &SlotName,
) -> Result<()> {
    let Opened::Ours(spool) = opened else { return Ok(()) };
    if !spool.state().copies_slot {
        return Ok(());
    }
    let client = connection.session.client();
    let flush = Position::read(client).await?.flush;
    if let Some(leftover) = Leftover::find(client, name, slot, flush).await? {
        leftover.drop(client).await?;
        warn!(
            slot = %leftover.name, retained = leftover.retained_bytes,
            "a change of the plugin was interrupted: its copy of the slot, which nobody reads, is dropped"
        );
    }
    // One that the server is still busy with is there at the next poll.
    if Slot::read(client, &slot::aside(name)?).await?.is_none() {
        spool.update(|state| state.copies_slot = false)?;
    }
    Ok(())
}
