//! Proofs of the archive, each read with every check that there is.

use syncdata_archive::proofs;
use syncdata_formats::error::Result;
use syncdata_formats::proof::{Buckets, ProofId, ProofManifest, ProvedTable};
use uuid::Uuid;

use crate::archive::source::Source;

impl Source {
    /// Every proof that is there whole, from the newest to the oldest.
    pub async fn proof_ids(&self) -> Result<Vec<ProofId>> {
        self.ask(|archive| {
            let found = proofs::file_names(archive)?.into_iter().rev();
            Ok(found.filter(|(_, entries)| proofs::has_manifest(entries)).map(|(id, _)| id).collect())
        })
        .await
    }

    /// `None`: it is not there, or not yet.
    pub async fn proof(&self, id: &ProofId, archive_id: Uuid) -> Result<Option<ProofManifest>> {
        let (id, key) = (id.clone(), self.verify_key().cloned());
        self.ask(move |archive| proofs::read(archive, &id, Some(archive_id), key.as_ref())).await
    }

    /// What production's table was reduced to.
    pub async fn buckets(&self, id: &ProofId, table: &ProvedTable) -> Result<Buckets> {
        let (id, table) = (id.clone(), table.clone());
        self.ask(move |archive| proofs::buckets(archive, &id, &table)).await
    }
}
