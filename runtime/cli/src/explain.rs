//! `--explain`: the plan before it is executed, and the times after, to standard error.

use crate::args;
use lexopt::Parser;
use rrun_core::explain::{self, Step, trace};
use rrun_core::{Error, Result};

/// Whether and how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Explain {
    /// Not asked for.
    #[default]
    No,
    /// For a person.
    Text,
    /// One JSON document on a line before, `{"plan": [...]}`, one after, `{"times": [...]}`.
    Json,
}

impl Explain {
    /// The value of the option just read.
    pub fn parse(parser: &mut Parser) -> Result<Self> {
        match parser
            .optional_value()
            .map(args::string)
            .transpose()?
            .as_deref()
        {
            None | Some("text") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            Some(other) => Err(Error::Usage(format!(
                "invalid value {other:?} for --explain: text or json"
            ))),
        }
    }

    /// Shows the steps, and begins to keep their times.
    pub fn before(
        self,
        title: &str,
        steps: impl FnOnce() -> Result<Vec<Step>>,
    ) -> Result<Vec<Step>> {
        if self == Self::No {
            return Ok(Vec::new());
        }
        let steps = steps()?;
        match self {
            Self::Json => eprintln!("{}", serde_json::json!({"plan": steps})),
            _ => eprint!("{}", explain::text(title, &steps)),
        }
        trace::start()?;
        Ok(steps)
    }

    /// Shows how long they took.
    pub fn after(self, steps: &[Step]) {
        if self == Self::No {
            return;
        }
        let times = explain::times(steps, &trace::spans());
        match self {
            Self::Json => eprintln!("{}", serde_json::json!({"times": times})),
            _ => eprint!("{}", explain::times_text(steps, &times)),
        }
    }
}
