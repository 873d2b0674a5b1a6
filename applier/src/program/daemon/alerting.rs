//! What the daemon's alerts are made of, and that they are in `data_sync_alerts` too.

use syncdata_formats::error::Result;
use syncdata_formats::time::Timestamp;
use syncdata_service::alerts::{Alert, Look, Watched};
use syncdata_service::circuit::Circuits;
use syncdata_service::config::{Config, Program};

use super::life::Life;
use crate::operations::alerts::{Limits, conditions};
use crate::target::postgres::alerts;

impl Watched for Life {
    fn program(&self) -> Program {
        Program::Applier
    }

    fn config(&self) -> Config {
        Life::config(self)
    }

    fn circuits(&self) -> &Circuits {
        Life::circuits(self)
    }

    async fn news(&self) {
        self.pass_ended().await;
    }

    /// While the database is away, what was seen last goes on growing old.
    async fn look(&self, now: Timestamp) -> Look {
        let (status, is_whole) = self.seen().await;
        let bad = conditions(&status, &Limits::of(&Life::config(self)), now);
        Look { bad, is_whole, ..Look::default() }
    }

    fn alerts_are(&self, open: Vec<Alert>) {
        Life::alerts_are(self, open);
    }

    const HAS_PLACE_OF_ITS_OWN: bool = true;

    async fn left(&self) -> Result<Option<Vec<Alert>>> {
        let Some(local) = self.session() else { return Ok(None) };
        alerts::unfinished(local.session.client(), &local.meta).await.map(Some)
    }

    async fn keep(&self, alert: &Alert) -> Result<bool> {
        let Some(local) = self.session() else { return Ok(false) };
        alerts::keep(local.session.client(), &local.meta, alert).await.map(|()| true)
    }
}
