//! Shapes that are known to go wrong: the random tests keep away from them until they are mended. An entry goes
//! with its mend; `SYNCDATA_TEST_NOT_YET=1` lets them come.

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {}

const NOT_YET: &[(Shape, &str)] = &[];

/// Whether the random tests may make it.
pub fn is_mended(shape: Shape) -> bool {
    std::env::var_os("SYNCDATA_TEST_NOT_YET").is_some() || NOT_YET.iter().all(|(known, _)| *known != shape)
}
