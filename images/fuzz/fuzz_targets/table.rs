#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rrun_images::fuzzing::table(data));
