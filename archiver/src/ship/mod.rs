//! From the spool to the backup host, and whether spool, archive and source belong together.

pub(crate) mod adoption;
pub(crate) mod origin;
pub(crate) mod ownership;
pub(crate) mod shipper;

mod files;
mod head;
mod parcel;
