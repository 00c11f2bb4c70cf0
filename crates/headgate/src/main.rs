//! The program: parse, run, exit code.
#![forbid(unsafe_code)]

mod cli;
mod console;
mod demo;

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
