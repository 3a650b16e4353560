//! Where the linked program begins, and in which order its functions are.
#![forbid(unsafe_code)]

use std::env::var;

/// A static, optimized program begins at `rrun_sys::entry`: there is no loader before it, and what
/// is compiled without optimization may call functions of libc where none was written.
///
/// A libseccomp that was compiled for glibc prints its filters' pseudo code, for which nobody asks
/// here, by a function that musl has not.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=order.ld");
    let is = |name: &str, value: &str| var(name).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_ENV", "musl") {
        println!("cargo:rustc-link-arg-bins=-Wl,--defsym=__fprintf_chk=abort");
    }
    let has_static =
        var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|all| all.split(',').any(|f| f == "crt-static"));
    if has_static && is("CARGO_CFG_TARGET_ARCH", "x86_64") && !is("OPT_LEVEL", "0") {
        println!("cargo:rustc-link-arg-bins=-Wl,-e,rrun_entry");
        let folder = var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{folder}/order.ld");
    }
}
