//! What plugins are told of: numbers and methods of the protocol's events.

/// An event that a plugin can subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    RunPodSandbox = 1,
    StopPodSandbox = 2,
    RemovePodSandbox = 3,
    CreateContainer = 4,
    PostCreateContainer = 5,
    StartContainer = 6,
    PostStartContainer = 7,
    UpdateContainer = 8,
    PostUpdateContainer = 9,
    StopContainer = 10,
    RemoveContainer = 11,
    UpdatePodSandbox = 12,
    PostUpdatePodSandbox = 13,
    ValidateContainerAdjustment = 14,
}

impl Event {
    /// Every event.
    pub const ALL: i32 = (1 << 14) - 1;

    /// Its bit in a subscription.
    pub fn bit(self) -> i32 {
        1 << (self as i32 - 1)
    }

    /// The plugin's method.
    pub fn method(self) -> String {
        format!("{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_names_are_the_protocols() {
        assert_eq!(Event::RunPodSandbox.bit(), 1);
        assert_eq!(Event::ValidateContainerAdjustment.bit(), 1 << 13);
        assert_eq!(Event::ALL, 0x3fff);
        assert_eq!(Event::PostStartContainer.method(), "PostStartContainer");
    }
}
