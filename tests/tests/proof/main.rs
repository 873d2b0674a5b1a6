//! Proofs end to end: production at work, the real programs, and an answer to "is the copy what production is?".

mod across;
mod alarms;
mod blame;
mod broken;
mod cleared;
mod computed;
mod damage;
mod drills;
mod kinds;
mod manual;
mod meanwhile;
mod newer_columns;
mod refused;
mod repairs;
mod scene;
mod told;
mod verdicts;
