#![no_main]

#[path = "../checks/config_yaml.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
