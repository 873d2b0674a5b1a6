//! What surrounds the work of both programs: settings, and connections to servers.

mod connections;
mod found;
mod install;
mod json;
mod monitoring;
mod packages;
mod portable;
mod settings;
mod verified;
mod webhook;
