//! The local PostgreSQL: its tables, our tables in it, and how rows get in.

pub mod alerts;
pub mod apply;
pub mod bystanders;
pub mod captured;
pub mod cascades;
mod copied_lines;
pub mod cursor;
pub mod emptying;
pub mod executions;
mod files;
mod found;
pub mod identity;
pub(crate) mod kept;
pub(crate) mod labels;
pub mod ledger;
pub mod local;
pub mod lost;
pub mod meta;
mod older;
pub(crate) mod others;
pub mod quarantine;
pub(crate) mod rules;
pub mod schema;
pub mod step;
pub mod transaction;
pub mod values;
