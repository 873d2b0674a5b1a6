//! One poll, in this process.

use syncdata_formats::Result;

use crate::poll::archiver::Archiver;
use crate::poll::outcome::Outcome;

pub(crate) async fn poll(archiver: &mut Archiver) -> Result<Outcome> {
    archiver.poll().await
}
