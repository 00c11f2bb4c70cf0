//! The command line: `test`, `version`, `run` with a broken file, and the pid file commands.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use headgate_testkit::process::{Finished, run};
use headgate_testkit::{Gateway, Port, SOON, proc, wait};
use serde_json::Value;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn headgate(arguments: &[&str]) -> Finished {
    run(Command::new(BIN).args(arguments).env("NO_COLOR", "1"), SOON)
}

/// Writes `yaml` to a file and runs `headgate test` on it.
fn test(yaml: &str) -> (Finished, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config.yaml");
    fs::write(&file, yaml).expect("written");
    (headgate(&["test", "-c", &file.display().to_string()]), folder)
}

/// Problems in the answer of `headgate test --format json`, whatever they are wrapped in.
fn problems(yaml: &str) -> (Option<i32>, Vec<Value>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config.yaml");
    fs::write(&file, yaml).expect("written");
    let done = headgate(&["test", "-c", &file.display().to_string(), "--format", "json"]);
    let json: Value = serde_json::from_str(&done.stdout)
        .unwrap_or_else(|error| panic!("not JSON ({error}): {}", done.output()));
    let list = match &json {
        Value::Array(list) => list.clone(),
        Value::Object(members) => members
            .get("problems")
            .and_then(Value::as_array)
            .unwrap_or_else(|| panic!("no `problems` in {json}"))
            .clone(),
        other => panic!("neither list nor object: {other}"),
    };
    (done.code(), list)
}

/// The line of a problem in JSON, on its own or inside its place.
fn line(problem: &Value) -> Option<u64> {
    [problem, &problem["place"]].iter().find_map(|value| value["line"].as_u64())
}

struct Broken {
    name: &'static str,
    yaml: &'static str,
    /// Line of the problem, from 1.
    line: u64,
    code: &'static str,
    /// What has to stand somewhere in the report.
    says: &'static [&'static str],
}

/// The file begins with this, so that nothing but the problem is wrong.
const BROKEN: &[Broken] = &[
    Broken {
        name: "a port beyond the end",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 91000\n",
        line: 5,
        code: "stream-proxy/port",
        says: &["port out of range (1-65535): 91000"],
    },
    Broken {
        name: "a range that runs backwards",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    udp:\n      - \"2100-2000\"\n",
        line: 5,
        code: "stream-proxy/range",
        says: &["invalid port range (start > end): 2100-2000"],
    },
    Broken {
        name: "no port at all",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - \"127.0.0.1:\"\n",
        line: 5,
        code: "stream-proxy/port",
        says: &["missing port: 127.0.0.1:"],
    },
    Broken {
        name: "neither a port nor an address",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - \"80.5\"\n",
        line: 5,
        code: "stream-proxy/format",
        says: &["invalid port format: 80.5"],
    },
    Broken {
        name: "the classic mistake",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9333\n        tls: true\n",
        line: 5,
        code: "yaml/list-item",
        says: &["addr: 9333", "tls: true"],
    },
    Broken {
        name: "a mode that does not exist",
        yaml: "apisix:\n  proxy_mode: quic\n  stream_proxy:\n    tcp:\n      - 9333\n",
        line: 2,
        code: "config/value",
        says: &["proxy_mode", "http&stream"],
    },
    Broken {
        name: "the wrong type",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9333\nnginx_config:\n  event:\n    worker_connections: many\n",
        line: 8,
        code: "",
        says: &["worker_connections"],
    },
    Broken {
        name: "a variable that is not set",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - ${{HEADGATE_NO_SUCH_VARIABLE}}\n",
        line: 5,
        code: "config/environment",
        says: &["can't find environment variable HEADGATE_NO_SUCH_VARIABLE"],
    },
    Broken {
        name: "not YAML",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy: [\n",
        line: 0,
        code: "yaml/syntax",
        says: &[],
    },
    Broken {
        name: "a tab",
        yaml: "apisix:\n\tproxy_mode: stream\n",
        line: 2,
        code: "yaml/tab",
        says: &["tab"],
    },
    Broken {
        name: "a key twice",
        yaml: "apisix:\n  proxy_mode: stream\n  proxy_mode: http\n",
        line: 3,
        code: "yaml/duplicate-key",
        says: &["proxy_mode"],
    },
    Broken {
        name: "a network that is none",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9333\ndeployment:\n  admin:\n    allow_admin:\n      - 10.0.0.0/40\n",
        line: 9,
        code: "admin/allow",
        says: &["10.0.0.0/40"],
    },
    Broken {
        name: "a provider of later times",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9333\ndeployment:\n  role_traditional:\n    config_provider: etcd\n",
        line: 8,
        code: "deployment/provider-not-built",
        says: &["etcd"],
    },
    Broken {
        name: "a key of the wrong length",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9333\n  data_encryption:\n    keyring:\n      - short\n",
        line: 8,
        code: "encryption/keyring",
        says: &["16"],
    },
];

#[test]
fn every_mistake_is_explained_with_place_code_and_help() {
    for broken in BROKEN {
        let (done, _folder) = test(broken.yaml);
        let output = done.output();
        let name = broken.name;
        assert_eq!(done.code(), Some(1), "{name}: {output}");
        assert!(output.contains("error"), "{name}: {output}");
        assert!(output.contains("help"), "{name}: no help in {output}");
        if !broken.code.is_empty() {
            assert!(output.contains(&format!("[{}]", broken.code)), "{name}: {output}");
        }
        if broken.line > 0 {
            let place = format!("config.yaml:{}:", broken.line);
            assert!(output.contains(&place), "{name}: no {place} in {output}");
            let excerpt = broken.yaml.lines().nth(broken.line as usize - 1).expect("a line");
            assert!(output.contains(excerpt.trim()), "{name}: no excerpt in {output}");
        }
        for said in broken.says {
            assert!(output.contains(said), "{name}: no `{said}` in {output}");
        }
    }
}

#[test]
fn the_same_as_json() {
    for broken in BROKEN {
        let (code, list) = problems(broken.yaml);
        let name = broken.name;
        assert_eq!(code, Some(1), "{name}");
        let found = list
            .iter()
            .find(|problem| broken.code.is_empty() || problem["code"] == broken.code)
            .unwrap_or_else(|| panic!("{name}: no {} in {list:#?}", broken.code));
        assert_eq!(found["severity"], "error", "{name}");
        assert!(found["message"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
        if broken.line > 0 {
            assert_eq!(line(found), Some(broken.line), "{name}: {found}");
        }
    }
}

/// Files kept in the repository, one mistake each.
#[test]
fn kept_fixtures_are_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/broken-config");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 12, "a dozen broken configurations: {files:?}");
    for file in files {
        let done = headgate(&["test", "-c", &file.display().to_string()]);
        let output = done.output();
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(done.code(), Some(1), "{name}: {output}");
        assert!(output.contains(&format!("{name}:")), "{name}: no place in {output}");
        assert!(output.contains("error["), "{name}: no code in {output}");
        assert!(output.contains("help"), "{name}: no help in {output}");
    }
}

#[test]
fn all_problems_are_shown_at_once() {
    let yaml = "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 91000\n      - \"5-4\"\n    udp:\n      - \"x:\"\ndeployment:\n  admin:\n    allow_admin:\n      - nowhere\n";
    let (done, _folder) = test(yaml);
    assert_eq!(done.code(), Some(1));
    for line in [5, 6, 8, 12] {
        let place = format!("config.yaml:{line}:");
        assert!(done.output().contains(&place), "no {place} in {}", done.output());
    }
}

#[test]
fn two_entries_for_one_port_are_both_shown() {
    for (yaml, first, second) in [
        (
            "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9100\n      - addr: 9100\n",
            5,
            6,
        ),
        (
            "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - \"9000-9200\"\n      - 7\n      - \"127.0.0.1:9100\"\n",
            5,
            7,
        ),
        (
            "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    udp:\n      - \"2000-2010\"\n      - \"2010-2020\"\n",
            5,
            6,
        ),
    ] {
        let (done, _folder) = test(yaml);
        let output = done.output();
        assert_eq!(done.code(), Some(1), "{output}");
        assert!(output.contains("stream-proxy/duplicate"), "{output}");
        for line in [first, second] {
            let text = yaml.lines().nth(line - 1).expect("a line").trim();
            assert!(output.contains(text), "line {line} is not shown: {output}");
        }
        // Both line numbers stand beside the excerpts.
        let (code, list) = problems(yaml);
        assert_eq!(code, Some(1));
        let problem = list
            .iter()
            .find(|problem| problem["code"] == "stream-proxy/duplicate")
            .unwrap_or_else(|| panic!("{list:#?}"));
        let text = problem.to_string();
        for line in [first, second] {
            assert!(text.contains(&format!("\"line\":{line}")), "{text}");
        }
    }
    // TCP and UDP do not clash.
    let (done, _folder) = test(
        "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9100\n    udp:\n      - 9100\n",
    );
    assert_eq!(done.code(), Some(0), "{}", done.output());
}

#[test]
fn a_listener_on_the_admin_port_is_found_before_binding() {
    let yaml = "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9180\n";
    let (done, _folder) = test(yaml);
    assert_eq!(done.code(), Some(1), "{}", done.output());
    assert!(done.output().contains("9180"), "{}", done.output());
}

#[test]
fn slips_of_the_pen_and_keys_without_effect_are_warnings() {
    let yaml = "apisix:\n  proxy_mode: stream\n  stream_proxi:\n    tcp:\n      - 9100\n  stream_proxy:\n    tcp:\n      - 9100\n  extra_lua_path: \"/x/?.lua\"\n";
    let (done, _folder) = test(yaml);
    let output = done.output();
    assert_eq!(done.code(), Some(0), "{output}");
    assert!(output.contains("stream_proxy") && output.contains("did you mean"), "{output}");
    assert!(output.contains("config.yaml:3:"), "{output}");
    assert!(output.contains("extra_lua_path") && output.contains("config.yaml:9:"), "{output}");
}

#[test]
fn old_forms_are_understood_and_the_new_form_is_shown() {
    let yaml = "apisix:\n  enable_admin: true\n  allow_admin:\n    - 127.0.0.0/24\n  admin_key:\n    - name: admin\n      key: edd1c9f034335f136f87ad84b625c8f1\n      role: admin\n  stream_proxy:\n    only: true\n    tcp:\n      - 9100\n";
    let (done, _folder) = test(yaml);
    let output = done.output();
    assert_eq!(done.code(), Some(0), "{output}");
    assert!(output.contains("deployment") && output.contains("config/deprecated"), "{output}");
}

#[test]
fn a_good_file_passes_quietly() {
    let (done, _folder) =
        test("apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9100\n");
    assert_eq!(done.code(), Some(0), "{}", done.output());
    assert!(done.output().contains("configuration test is successful"), "{}", done.output());
    let (code, list) =
        problems("apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9100\n");
    assert_eq!((code, list.len()), (Some(0), 0));
}

#[test]
fn the_shipped_files_pass() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conf");
    for name in ["config.yaml", "config.example.yaml"] {
        let done = headgate(&["test", "-c", &conf.join(name).display().to_string()]);
        assert_eq!(done.code(), Some(0), "{name}: {}", done.output());
    }
}

#[test]
fn a_missing_file_is_named() {
    let done = headgate(&["test", "-c", "/nonexistent/config.yaml"]);
    assert_eq!(done.code(), Some(1));
    assert!(done.output().contains("/nonexistent/config.yaml"), "{}", done.output());
    let done = headgate(&["run", "-c", "/nonexistent/config.yaml"]);
    assert!(!done.status.success());
    assert!(done.stderr.contains("/nonexistent/config.yaml"), "{}", done.output());
}

#[test]
fn environment_variables_are_put_in() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config.yaml");
    fs::write(
        &file,
        "apisix:\n  proxy_mode: ${{MODE:=stream}}\n  stream_proxy:\n    tcp:\n      - ${{PORT}}\n",
    )
    .expect("written");
    let with = |port: &str| {
        run(Command::new(BIN).arg("test").arg("-c").arg(&file).env("PORT", port), SOON)
    };
    assert_eq!(with("9100").code(), Some(0), "{}", with("9100").output());
    let bad = with("99999");
    assert_eq!(bad.code(), Some(1));
    assert!(
        bad.output().contains("config.yaml:5:") && bad.output().contains("99999"),
        "{}",
        bad.output()
    );
}

#[test]
fn version_and_usage() {
    let version = headgate(&["version"]).success();
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", version.stdout);
    let unknown = headgate(&["conquer"]);
    assert!(!unknown.status.success());
    assert!(unknown.stderr.contains("conquer"), "{}", unknown.output());
    let help = headgate(&["--help"]).success();
    for command in ["run", "test", "version", "demo", "stop", "quit", "reload"] {
        assert!(help.stdout.contains(command), "`{command}` is not in:\n{}", help.stdout);
    }
    let completions = headgate(&["completions", "bash"]).success();
    assert!(completions.stdout.contains("headgate"), "{}", completions.stdout);
}

#[test]
fn run_with_a_broken_file_prints_every_problem_and_fails() {
    let gateway = Gateway::builder(BIN).tcp(1).prepare();
    let port = gateway.tcp_port(0);
    let yaml = gateway
        .config()
        .replace(&format!("- {port}\n"), &format!("- {port}\n      - 91000\n      - \"9-8\"\n"));
    gateway.write_config(&yaml);
    let mut gateway = gateway;
    gateway.spawn();
    let done = gateway.finished(SOON);
    assert!(done.code().is_some_and(|code| code != 0), "{}", done.status);
    assert!(done.stderr.contains("91000") && done.stderr.contains("9-8"), "{}", done.stderr);
    assert!(!proc::tcp_listens(port));
}

#[test]
fn run_with_a_taken_port_says_which_and_fails() {
    let taken = Port::take();
    let _occupant = std::net::TcpListener::bind(("0.0.0.0", taken.number())).expect("a free port");
    let gateway = Gateway::builder(BIN).tcp(1).prepare();
    let yaml = gateway
        .config()
        .replace(&format!("- {}\n", gateway.tcp_port(0)), &format!("- {}\n", taken.number()));
    gateway.write_config(&yaml);
    let mut gateway = gateway;
    gateway.spawn();
    let done = gateway.finished(SOON);
    assert!(done.code().is_some_and(|code| code != 0), "{}", done.status);
    assert!(done.stderr.contains(&taken.number().to_string()), "{}", done.stderr);
}

#[test]
fn sigterm_and_sigint_end_a_run_with_success() {
    for signal in ["TERM", "INT"] {
        let mut gateway = Gateway::builder(BIN).tcp(1).udp(1).start();
        gateway.signal(signal);
        assert!(gateway.wait_exit(SOON).success(), "SIG{signal}");
        assert!(!proc::tcp_listens(gateway.tcp_port(0)));
        assert!(!proc::udp_bound(gateway.udp_port(0)));
    }
}

#[test]
fn stop_quit_and_reload_find_the_process_by_its_pid_file() {
    let mut gateway = Gateway::builder(BIN).tcp(1).start();
    let file = gateway.config_path().display().to_string();
    let call = |command: &str| headgate(&[command, "-c", &file]);
    let mark = gateway.mark();
    let _ = call("reload").success();
    gateway.wait_for_log_after(mark, "reload");
    assert!(proc::tcp_listens(gateway.tcp_port(0)));
    let _ = call("quit").success();
    assert!(gateway.wait_exit(SOON).success());
    gateway.launch();
    let _ = call("stop").success();
    assert!(gateway.wait_exit(SOON).success());
    // Nobody there any more.
    let done = call("stop");
    assert!(!done.status.success(), "{}", done.output());
    assert!(!done.output().trim().is_empty());
    // A process that was killed leaves a pid file behind, which is no obstacle.
    gateway.launch();
    gateway.kill();
    assert!(!call("reload").status.success());
    gateway.launch();
    wait::until_true("serving again", SOON, || proc::tcp_listens(gateway.tcp_port(0)));
}
