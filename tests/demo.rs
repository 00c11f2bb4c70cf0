//! `headgate demo`: the first command that a newcomer runs.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::process::Command;
use std::time::Duration;

use headgate_testkit::process::{Process, need, run};
use headgate_testkit::{Alone, SOON, wait};

/// The demo takes the ports of the manuals when they are free; two that look at the same moment find
/// the same ones.
const STARTING: &str = "demo";

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn start() -> (Process, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Whatever the demo leaves behind would be in here.
    let process = Process::spawn(
        Command::new(BIN).arg("demo").current_dir(folder.path()).env("TMPDIR", folder.path()),
    );
    (process, folder)
}

/// The commands on standard output that begin with `curl`, with lines continued by a backslash.
fn curl_commands(output: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut continues = false;
    for line in output.lines() {
        let text = line.trim().trim_start_matches("$ ");
        if continues {
            let last = commands.last_mut().expect("a command to continue");
            last.push('\n');
            last.push_str(text);
        } else if text.starts_with("curl ") {
            commands.push(text.to_owned());
        } else {
            continue;
        }
        // A quoted body may also span lines.
        let command = commands.last().expect("just pushed");
        continues = text.ends_with('\\') || command.matches('\'').count() % 2 == 1;
    }
    commands
}

fn wait_until_settled(process: &mut Process) -> String {
    wait::until("the demo says how to end it", SOON * 2, || {
        assert_eq!(process.ended(), None, "ended by itself:\n{}", process.stderr.text());
        let text = process.stdout.text();
        text.contains("Ctrl-C").then_some(text)
    })
}

#[test]
fn it_moves_bytes_prints_curl_lines_and_ends_on_ctrl_c() {
    let alone = Alone::hold(STARTING);
    let (mut process, folder) = start();
    let output = wait_until_settled(&mut process);
    drop(alone);
    let commands = curl_commands(&output);
    let routes = commands.iter().filter(|line| line.contains("stream_routes")).count();
    assert!(routes >= 2, "a TCP and a UDP route as curl lines in:\n{output}");
    let lower = output.to_lowercase();
    assert!(lower.contains("tcp") && lower.contains("udp"), "{output}");

    // Each can be pasted as it stands, as long as the demo runs.
    if need("curl", "curl").is_some() {
        for command in &commands {
            let done = run(Command::new("sh").args(["-c", command]), SOON);
            assert!(done.status.success(), "{command}\n{}", done.output());
            assert!(!done.stdout.contains("error_msg"), "{command}\n{}", done.stdout);
        }
    }

    process.signal("INT");
    let status = process.wait(SOON).unwrap_or_else(|| panic!("still runs after SIGINT"));
    assert!(status.success(), "{status}:\n{}", process.stderr.text());
    assert!(!process.stderr.text().contains("panicked"), "{}", process.stderr.text());
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn two_demos_run_at_once() {
    let alone = Alone::hold(STARTING);
    let (mut first, _first_folder) = start();
    wait_until_settled(&mut first);
    let (mut second, _second_folder) = start();
    wait_until_settled(&mut second);
    drop(alone);
    for process in [&mut first, &mut second] {
        process.signal("TERM");
        let status = process.wait(SOON + Duration::from_secs(5)).expect("an end after SIGTERM");
        assert!(status.success(), "{status}");
    }
}
