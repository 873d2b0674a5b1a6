//! One question to the source, whose parameters have types: a pooler may not know prepared statements.
//!
//! A session that follows a slot asks the same some times a second, and most of what that costs production is the planning:
//! there is no pooler where a stream passes, and so its questions are planned once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use syncdata_formats::{Error, Kind, Result};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row, Statement};

type Parameters<'p> = [(&'p (dyn ToSql + Sync), Type)];
type Answer = Result<Vec<Row>, tokio_postgres::Error>;

/// Whom questions are put to.
pub(crate) trait Asked: Sync {
    fn rows(&self, sql: &str, parameters: &Parameters<'_>) -> impl Future<Output = Answer> + Send;
}

impl<C: GenericClient + Sync> Asked for C {
    async fn rows(&self, sql: &str, parameters: &Parameters<'_>) -> Answer {
        self.query_typed(sql, parameters).await
    }
}

/// The plans of one session's questions, where it keeps them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plans(Option<Arc<Mutex<HashMap<String, Statement>>>>);

impl Plans {
    pub(crate) fn kept() -> Plans {
        Plans(Some(Arc::default()))
    }

    /// `client` is of the session that they belong to: itself, or a transaction in it.
    pub(crate) fn of<'c, C: GenericClient>(&self, client: &'c C) -> Planned<'c, C> {
        Planned { client, plans: self.clone() }
    }
}

pub(crate) struct Planned<'c, C> {
    client: &'c C,
    plans: Plans,
}

impl<C: GenericClient + Sync> Asked for Planned<'_, C> {
    async fn rows(&self, sql: &str, parameters: &Parameters<'_>) -> Answer {
        let Some(plans) = &self.plans.0 else { return self.client.query_typed(sql, parameters).await };
        let known = plans.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let types: Vec<Type> = parameters.iter().map(|(_, r#type)| r#type.clone()).collect();
                let statement = self.client.prepare_typed(sql, &types).await?;
                plans
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        self.client.query(&statement, &values).await
    }
}

pub(super) async fn many(
    asked: &impl Asked,
    doing: &str,
    sql: &str,
    parameters: &Parameters<'_>,
) -> Result<Vec<Row>> {
    asked.rows(sql, parameters).await.context(|| doing.to_owned())
}

pub(super) async fn one(
    asked: &impl Asked,
    doing: &str,
    sql: &str,
    parameters: &Parameters<'_>,
) -> Result<Row> {
    let mut rows = many(asked, doing, sql, parameters).await?;
    rows.pop().ok_or_else(|| Error::new(Kind::NotFound, format!("{doing}: no answer")))
}
