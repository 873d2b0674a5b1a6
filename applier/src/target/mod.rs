//! Where rows end up.

pub mod postgres;
