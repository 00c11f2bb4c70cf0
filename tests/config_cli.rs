//! The command line: `test`, `version`, `run` with a broken file, and the pid file commands.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use headgate_testkit::gateway::READY;
use headgate_testkit::process::{Finished, run};
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, client, http, proc, wait};
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
    problems_of(&file)
}

fn problems_of(file: &Path) -> (Option<i32>, Vec<Value>) {
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
        name: "a provider that does not go with the role",
        yaml: "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9333\ndeployment:\n  role_traditional:\n    config_provider: json\n",
        line: 8,
        code: "deployment/provider",
        says: &["json", "embedded, etcd, yaml"],
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
            // Secrets are not shown, not even to the operator's terminal.
            let excerpt = excerpt.trim().replace("short", "*****");
            assert!(output.contains(&excerpt), "{name}: no excerpt in {output}");
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
    let mut failing = 0;
    for file in files {
        let done = headgate(&["test", "-c", &file.display().to_string()]);
        let output = done.output();
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let (code, list) = problems_of(&file);
        assert!(!list.is_empty(), "{name}: nothing found");
        let fails = list.iter().any(|problem| problem["severity"] == "error");
        assert_eq!(code, Some(i32::from(fails)), "{name}: {list:#?}");
        assert_eq!(done.code(), code, "{name}: {output}");
        for problem in &list {
            let severity = problem["severity"].as_str().expect("a severity");
            let problem_code = problem["code"].as_str().expect("a code");
            let shown = format!("{severity}[{problem_code}]");
            assert!(output.contains(&shown), "{name}: no {shown} in {output}");
        }
        assert!(output.contains(&format!("{name}:")), "{name}: no place in {output}");
        assert!(output.contains("help"), "{name}: no help in {output}");
        if fails {
            failing += 1;
        }
    }
    assert!(failing >= 12, "a dozen of them fail: {failing}");
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
            "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - \"7000-7200\"\n      - 7\n      - addr: 7100\n",
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
fn a_listener_on_a_management_port_is_found_before_binding() {
    // At its default, which has no line to show.
    let yaml = "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - 9180\n";
    let (done, _folder) = test(yaml);
    assert_eq!(done.code(), Some(1), "{}", done.output());
    assert!(done.output().contains("admin port listens on 0.0.0.0:9180"), "{}", done.output());
    // Where the file says so, both places are shown.
    let listeners =
        "apisix:\n  proxy_mode: stream\n  stream_proxy:\n    tcp:\n      - \"7000-7009\"\n";
    for (more, line, subject) in [
        ("deployment:\n  admin:\n    admin_listen:\n      port: 7003\n", 9, "admin port"),
        ("  control:\n    port: 7004\n", 7, "control port"),
        ("  status:\n    port: 7005\n", 7, "status port"),
    ] {
        let yaml = format!("{listeners}{more}");
        let (done, _folder) = test(&yaml);
        let output = done.output();
        assert_eq!(done.code(), Some(1), "{output}");
        for part in ["[stream-proxy/clash]", subject, "7000-7009", "config.yaml:5:"] {
            assert!(output.contains(part), "no {part} in {output}");
        }
        let text = yaml.lines().nth(line - 1).expect("a line").trim();
        assert!(output.contains(text), "line {line} is not shown: {output}");
        let (_, list) = problems(&yaml);
        let text = Value::from(list).to_string();
        for line in [5, line] {
            assert!(text.contains(&format!("\"line\":{line}")), "no line {line} in {text}");
        }
    }
    // And of two management ports.
    let yaml = "apisix:\n  control:\n    port: 7003\ndeployment:\n  admin:\n    admin_listen:\n      port: 7003\n";
    let (done, _folder) = test(yaml);
    let output = done.output();
    assert_eq!(done.code(), Some(1), "{output}");
    for line in [3, 7] {
        assert!(output.contains(&format!("{line} |")), "line {line} is not shown: {output}");
    }
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

/// Files as users of 2.x still paste them; they start and work.
#[test]
fn old_forms_start_and_work() {
    const OLD_KEY: &str = "edd1c9f034335f136f87ad84b625c8f1";
    const OLD_VIEWER: &str = "4054f7cf07e344346cd3f287985e76a2";
    let (tcp, admin) = (Port::take(), Port::take());
    let old = |only: &str, allow: &str| {
        format!(
            "apisix:\n  enable_admin: true\n  enable_control: false\n  admin_listen:\n    ip: 127.0.0.1\n    port: {}\n\
             \x20 allow_admin:\n    - {allow}\n  admin_key:\n    - name: admin\n      key: {OLD_KEY}\n      role: admin\n\
             \x20   - name: viewer\n      key: {OLD_VIEWER}\n      role: viewer\n\
             \x20 stream_proxy:\n    only: {only}\n    tcp:\n      - {}\n\
             plugin_attr:\n  prometheus:\n    enable_export_server: false\n\
             nginx_config:\n  error_log_level: info\n",
            admin.number(),
            tcp.number()
        )
    };
    let call = |method: &str, path: &str, key: &str, body: Option<&str>| {
        let headers = [("X-API-KEY", key)];
        let path = format!("/apisix/admin/{path}");
        http::request(admin.local(), method, &path, &headers, body.map(str::as_bytes), SOON)
            .expect("an answer")
    };
    let node = TcpPeer::named("a");
    for only in ["true", "false"] {
        let mut gateway = Gateway::builder(BIN).prepare();
        gateway.write_config(&old(only, "127.0.0.0/24"));
        gateway.spawn();
        gateway.wait_for_log(READY, SOON);
        // With enable_admin the Admin API is there, whatever `only` says.
        let body = serde_json::json!({"server_port": tcp.number(), "upstream": {"nodes": {node.node(): 1}}});
        let text = body.to_string();
        assert_eq!(call("PUT", "stream_routes/1", "wrong", Some(&text)).status, 401);
        assert_eq!(call("PUT", "stream_routes/1", OLD_VIEWER, Some(&text)).status, 401);
        let _ = call("PUT", "stream_routes/1", OLD_KEY, Some(&text)).expect(201);
        let _ = call("GET", "stream_routes/1", OLD_VIEWER, None).expect(200);
        assert_eq!(client::reach(tcp.local()).as_deref(), Some("a"), "only: {only}");
        let log = gateway.log().text();
        for key in ["admin_key", "allow_admin", "admin_listen"] {
            assert!(log.contains(&format!("apisix.{key}")), "no word of {key} in:\n{log}");
        }
        assert!(log.contains("deployment.admin"), "no word of the new form in:\n{log}");
        assert!(!log.contains(OLD_KEY) && !log.contains(OLD_VIEWER), "a key in:\n{log}");
        gateway.stop();
        assert!(!proc::tcp_listens(tcp.number()));
    }
    // `allow_admin` means what it meant.
    let mut gateway = Gateway::builder(BIN).prepare();
    gateway.write_config(&old("true", "127.9.0.0/16"));
    gateway.spawn();
    gateway.wait_for_log(READY, SOON);
    assert_eq!(call("GET", "stream_routes", OLD_KEY, None).status, 403);
    gateway.stop();
    // `only: true` with `enable_admin: false`: a data plane, no Admin API.
    gateway.write_config(
        &old("true", "127.0.0.0/24").replace("enable_admin: true", "enable_admin: false"),
    );
    gateway.spawn();
    gateway.wait_for_log(READY, SOON);
    assert!(proc::tcp_listens(tcp.number()) && !proc::tcp_listens(admin.number()));
    gateway.stop();
}

/// Both at once is legal, and the narrower listener gets what is meant for it.
#[test]
fn a_wildcard_and_one_of_its_addresses_may_share_a_port() {
    let gateway = Gateway::builder(BIN).tcp(1).prepare();
    let port = gateway.tcp_port(0);
    let yaml = gateway
        .config()
        .replace(&format!("- {port}\n"), &format!("- {port}\n      - \"127.0.0.7:{port}\"\n"));
    gateway.write_config(&yaml);
    let mut gateway = gateway;
    gateway.launch();
    let node = TcpPeer::named("a");
    let body = serde_json::json!({"upstream": {"nodes": {node.node(): 1}}});
    gateway.put("stream_routes/1", &body).expect(201);
    for address in ["127.0.0.1", "127.0.0.7"] {
        let to = (address.parse::<std::net::IpAddr>().expect("ip"), port).into();
        for _ in 0..10 {
            assert_eq!(client::reach(to).as_deref(), Some("a"), "{to}");
        }
    }
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
