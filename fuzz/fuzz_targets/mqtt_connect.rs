#![no_main]

#[path = "../checks/mqtt_connect.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
