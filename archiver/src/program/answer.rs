//! What the daemon answers a command with.

use serde::{Deserialize, Serialize};

use crate::poll::outcome::Outcome;
use crate::proof::Made;
use crate::prune::Plan;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub exit_code: u8,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Made>,
}

impl Answer {
    pub(crate) fn new(exit_code: u8, message: impl Into<String>) -> Answer {
        Answer { exit_code, message: message.into(), plan: None, proof: None }
    }

    pub(crate) fn of_poll(outcome: &Outcome) -> Answer {
        Answer::new(u8::from(!outcome.is_clean()), "")
    }

    pub(crate) fn of_proof(made: Made) -> Answer {
        Answer { proof: Some(made), ..Answer::new(0, "") }
    }

    pub(crate) fn of_prune(plan: Plan) -> Answer {
        Answer { plan: Some(plan), ..Answer::new(0, "") }
    }
}
