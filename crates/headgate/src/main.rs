//! The program: the gateway with its built-in plugins.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use headgate::Headgate;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Headgate::builder().run()
}
