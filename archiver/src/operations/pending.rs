//! Does anything wait in the slot that would travel?

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_service::config::Config;

use crate::capture::Capture;
use crate::operations::remembered::remembered;
use crate::source::catalog::{self, Position};
use crate::source::connection::Connection;
use crate::source::event::{Event, Place, Row};
use crate::source::pgoutput::publication;
use crate::source::production::{Production, Session};
use crate::source::{Source as _, Stretch};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    Nothing,
    Changes,
    /// Nothing among what one poll reads, and there is more.
    TooMuchToTell,
}

/// Looks as a poll does, and keeps nothing.
pub(crate) async fn waits(config: &Config, connection: &mut Connection) -> Result<Pending> {
    let state = remembered(config).await?;
    let archived = state.as_ref().map_or(Lsn::from_u64(0), |state| state.position());
    let memory = state.map(|state| state.memory).unwrap_or_default();
    let source = Production::probe(connection, config).await?;
    let upto = Position::read(connection.session.client()).await?.flush;
    let (schemas, catalog) =
        catalog::catalog(connection.session.client(), publication::of(config).as_deref()).await?;
    let capture = Capture::resolve(&config.tables, &schemas, &catalog, &memory)?;

    let stretch = Stretch { capture: &capture, upto, lines_max: Some(config.poll_max_changes.get()) };
    let (mut changes, mut is_new) = (false, true);
    let waiting = connection.waiting.clone();
    let tx = connection.transaction().await?;
    let read = source
        .read(&Session { tx: &tx, waiting: &waiting, stream: None, batch: None }, &stretch, |event| {
            match event {
                Event::Begin(begin) => is_new = !begin.lies_before(archived),
                Event::Row(Row { place, .. }) | Event::Truncate(place) => {
                    changes |= is_new && travels(&capture, place);
                }
                Event::Commit(_) => {}
            }
            Ok(())
        })
        .await?;

    Ok(match changes {
        true => Pending::Changes,
        false if read.was_cut => Pending::TooMuchToTell,
        false => Pending::Nothing,
    })
}

/// A name that cannot be read may be a captured table's.
fn travels(capture: &Capture, place: Place<'_>) -> bool {
    place.relation().ok().is_none_or(|relation| {
        capture.table_of(&relation).is_some() || !capture.route(&relation).doubts.is_empty()
    })
}
