//! Every `unsafe` is on the list in `docs/internals/unsafe.md`, and has a `SAFETY` comment.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    crates.and_then(Path::parent).expect("the workspace").to_owned()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Lines that begin an unsafe block, function or implementation.
fn count(text: &str) -> usize {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.map(|line| {
        ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern "]
            .iter()
            .map(|form| line.matches(form).count())
            .sum::<usize>()
    })
    .sum()
}

#[test]
fn the_list_of_unsafe_code_is_complete() {
    let root = root();
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("crates")).expect("the crates").flatten() {
        rust_files(&entry.path(), &mut files);
    }
    let mut found = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        let name = file.strip_prefix(&root).expect("below it").display().to_string();
        match count(&text) {
            0 => {}
            count => drop(found.insert(name, count)),
        }
    }
    let page = fs::read_to_string(root.join("docs/internals/unsafe.md")).expect("the page");
    let listed: BTreeMap<String, usize> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let name = cells.next()?.trim().trim_end_matches('`').to_owned();
            Some((name, cells.next()?.trim().parse().ok()?))
        })
        .collect();
    assert_eq!(
        found, listed,
        "docs/internals/unsafe.md does not list what there is (left): correct its table"
    );
    for name in found.keys().filter(|name| !name.starts_with("crates/net/src/")) {
        assert!(name.contains("/tests/"), "{name}: unsafe code belongs into headgate-net");
    }
}
