//! `rrun-pods`: Kubernetes YAML on one machine, healed.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    rrun_pods::run(std::env::args_os())
}
