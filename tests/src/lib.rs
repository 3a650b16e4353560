//! Test kit of the workspace: privilege probes, programs under test, a loopback
//! registry and bundles. Every crate may use it as a dev-dependency.
#![forbid(unsafe_code)]

mod bundle;
mod line;
mod need;
mod noise;
mod port;
mod programs;
mod registry;
mod wait;

pub use bundle::{Bundle, busybox_rootfs, copy_program, write_script};
pub use line::{Line, PATIENCE};
pub use need::{Need, missing, report_skip};
pub use noise::noise;
pub use port::Port;
pub use programs::{find_program, program};
pub use registry::Registry;
pub use wait::wait_until;

/// Skips the calling test, by name and with the reason, where a [`Need`] is not met.
///
/// ```
/// use rrun_tests::{Need, require};
/// fn my_test() {
///     require!(Need::Root, Need::Program("skopeo"));
///     // …
/// }
/// ```
///
/// The skip is written to standard error past the capture of the test harness, and
/// appended to the file named by `RRUN_SKIPS`, from which `integration/test` prints
/// its summary. A test that lacks a privilege never passes silently.
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        if let Some(why) = $crate::missing(&[$($need),+]) {
            $crate::report_skip(module_path!(), &why);
            return;
        }
    };
}
