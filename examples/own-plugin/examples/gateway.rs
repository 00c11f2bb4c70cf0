//! headgate with one more plugin.

use std::process::ExitCode;

use headgate::Headgate;
use headgate_example_own_plugin::STARTS_WITH;

fn main() -> ExitCode {
    Headgate::builder().plugin(&STARTS_WITH).run()
}
