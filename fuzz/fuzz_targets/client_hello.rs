#![no_main]

#[path = "../checks/client_hello.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
