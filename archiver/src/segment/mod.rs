//! From what the source yields to segments in the spool.

pub(crate) mod absent;
mod batch;
pub(crate) mod cut;
mod empty;
pub(crate) mod publish;
pub(crate) mod reading;
pub(crate) mod scratch;
pub(crate) mod segmenter;
mod targets;
