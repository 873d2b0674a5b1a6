//! From the spool to the backup host.

pub(crate) mod ownership;
pub(crate) mod shipper;
