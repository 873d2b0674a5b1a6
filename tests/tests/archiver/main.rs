//! The archiver against real servers: what it captures, what it survives.

mod away;
mod capture;
mod commands;
mod doctor;
mod failover;
mod faults;
mod forgotten;
mod fuse;
mod gaps;
mod guard;
mod hidden;
mod identity;
mod identity_random;
mod locks;
mod memory;
mod operator;
mod past;
mod poison;
mod positions;
mod reader;
mod replay;
mod scene;
mod strangers;
mod tables;
mod types;
mod values;
