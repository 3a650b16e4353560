//! How a remote command ended, as a `metav1.Status` on the error channel (v4 and later).

use serde::{Deserialize, Serialize};

const NON_ZERO_EXIT: &str = "NonZeroExitCode";
const EXIT_CODE: &str = "ExitCode";

/// The fields of Kubernetes' `metav1.Status` that the error channel uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Object metadata; always empty here, but Go clients expect the field.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    #[serde(default)]
    pub status: String,
    /// What went wrong, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What went wrong, for programs: `NonZeroExitCode` or `InternalError`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The exit code, among others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// The HTTP status that says the same; 0 where there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// One cause, `ExitCode`, for a command that ended with another code than 0.
    #[serde(default)]
    pub causes: Vec<Cause>,
}

/// `metav1.StatusCause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What kind of cause this is.
    #[serde(default)]
    pub reason: String,
    /// Its value: the exit code in decimal.
    #[serde(default)]
    pub message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(code: &u16) -> bool {
    *code == 0
}

impl Status {
    /// The command ended with exit code 0.
    pub fn success() -> Self {
        Self {
            metadata: serde_json::Map::new(),
            status: "Success".to_owned(),
            message: String::new(),
            reason: String::new(),
            details: None,
            code: 0,
        }
    }

    /// The command ended with `code`; 0 gives [`Status::success`].
    pub fn exited(code: i32) -> Self {
        if code == 0 {
            return Self::success();
        }
        let cause = Cause {
            reason: EXIT_CODE.to_owned(),
            message: code.to_string(),
        };
        Self {
            status: "Failure".to_owned(),
            message: format!("command terminated with non-zero exit code: exit code {code}"),
            reason: NON_ZERO_EXIT.to_owned(),
            details: Some(Details {
                causes: vec![cause],
            }),
            ..Self::success()
        }
    }

    /// The command could not be run, or its end is not known; `message` says why.
    pub fn failure(message: impl Into<String>) -> Self {
        Self {
            status: "Failure".to_owned(),
            message: message.into(),
            reason: "InternalError".to_owned(),
            code: 500,
            ..Self::success()
        }
    }

    /// Whether the command ended with exit code 0.
    pub fn is_success(&self) -> bool {
        self.status == "Success"
    }

    /// The command's exit code; none where it did not run to its end.
    pub fn exit_code(&self) -> Option<i32> {
        if self.is_success() {
            return Some(0);
        }
        if self.reason != NON_ZERO_EXIT {
            return None;
        }
        let causes = &self.details.as_ref()?.causes;
        let cause = causes.iter().find(|cause| cause.reason == EXIT_CODE)?;
        cause.message.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_survives_the_wire() {
        for code in [0, 1, 42, 137, 255] {
            let text = serde_json::to_vec(&Status::exited(code)).unwrap();
            let status: Status = serde_json::from_slice(&text).unwrap();
            assert_eq!(status.exit_code(), Some(code));
        }
    }

    #[test]
    fn a_failure_has_no_exit_code() {
        assert_eq!(Status::failure("no such container").exit_code(), None);
    }

    /// client-go compares the reason and the cause by these words.
    #[test]
    fn the_words_are_those_that_clients_look_for() {
        let status = serde_json::to_value(Status::exited(3)).unwrap();
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        assert_eq!(status["metadata"], serde_json::json!({}));
    }
}
