//! From what the source yields to segments in the spool.

pub(crate) mod reading;
pub(crate) mod segmenter;
