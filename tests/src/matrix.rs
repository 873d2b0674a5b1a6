//! The widest matrix runs on one version of PostgreSQL: `SYNCDATA_TEST_MATRIX=narrow` leaves every third case of it, where
//! the cases differ in what no version of a server decides.

/// Those of the cases that are to run here; the first is always among them.
pub fn cases<T>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let is_narrow = std::env::var("SYNCDATA_TEST_MATRIX").is_ok_and(|width| width == "narrow");
    all.into_iter().step_by(if is_narrow { 3 } else { 1 }).collect()
}
