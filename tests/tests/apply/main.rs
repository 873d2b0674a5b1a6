//! One pass of the applier, against real servers: what arrives in the copy, and what a fault leaves there.

mod acting;
mod archives;
mod bank;
mod basics;
mod between_passes;
mod by_name;
mod cascades;
mod computed_elsewhere;
mod disk;
mod finding;
mod hostile;
mod kills;
mod memory;
mod netting;
mod other_shapes;
mod other_target;
mod positions;
mod refused;
mod schema;
mod seeds;
mod troubles;
mod truncated;
