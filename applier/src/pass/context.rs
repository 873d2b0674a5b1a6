//! What a pass works with.

use std::sync::Arc;

use syncdata_formats::error::{Context as _, Result};
use syncdata_service::config::Config;
use syncdata_service::daemon::Stop;
use syncdata_service::faults;

use super::copy::LocalCopy;
use super::tally::Tally;
use crate::apply::lookahead::Ahead;
use crate::apply::transaction::{Done, Rules};
use crate::archive::fetch::Fetched;
use crate::archive::source::Source;
use crate::plan::Scope;
use crate::plan::position::Checkpoint;
use crate::proof::Proofs;

/// What a pass works with: archive, copy, settings.
#[derive(Debug)]
pub struct PassContext<'a, C> {
    pub copy: C,
    pub source: &'a Source,
    pub rules: &'a Rules,
    /// Asked, the pass ends after the transaction that is under way.
    pub stop: Stop,
    pub tally: Arc<Tally>,
}

/// How a pass has the copy digested where a mark is.
#[derive(Clone, Debug)]
pub struct Proving {
    pub proofs: Arc<Proofs>,
    pub config: Config,
}

impl<'a, C: LocalCopy> PassContext<'a, C> {
    pub fn new(copy: C, source: &'a Source, rules: &'a Rules) -> PassContext<'a, C> {
        PassContext { copy, source, rules, stop: Stop::new(), tally: Arc::default() }
    }

    /// Applies the group in one transaction and counts it.
    pub(super) async fn apply(
        &mut self,
        checkpoint: &Checkpoint,
        scope: &Scope,
        group: &[Fetched],
        ahead: Option<&mut Ahead<C::Prepared>>,
    ) -> Result<Done> {
        let (done, beside) = self.copy.apply(self.rules, checkpoint, scope, group, ahead).await;
        let done = done.map_err(|error| match files(group) {
            Some(files) => error.of_file(files),
            None => error,
        })?;
        self.tally.add(group.len(), &done);
        for (table, reason) in done.set_aside.iter().chain(&beside) {
            self.tally.table_set_aside(table, reason);
        }
        Ok(done)
    }
}

/// The group's first and last file.
fn files(group: &[Fetched]) -> Option<String> {
    let name = |fetched: &Fetched| {
        let manifest = fetched.segment.manifest();
        manifest.file.as_ref().map_or_else(|| manifest.name().manifest_name(), |file| file.file.clone())
    };
    let (first, last) = (name(group.first()?), name(group.last()?));
    Some(if first == last { first } else { format!("{first} to {last}") })
}

/// Gives the group's room in the cache back.
pub(super) fn clean(group: &[Fetched]) -> Result<()> {
    for fetched in group {
        fetched.clean()?;
    }
    faults::hit("apply.cache_cleaned").context(|| "cleaning the cache".to_owned())?;
    Ok(())
}
