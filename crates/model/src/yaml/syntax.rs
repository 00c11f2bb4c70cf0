//! Explains syntax errors: most come from a handful of slips that deserve their own words.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::node::Failure;
use super::{is_filler, place_in};
use crate::problem::{Problem, Related};

/// One line of the text and where it begins.
struct Line<'a> {
    start: usize,
    text: &'a str,
}

/// The problem for a text that could not be read.
pub(super) fn explain(text: &str, file: &Arc<PathBuf>, failure: &Failure) -> Problem {
    let lines = lines(text);
    if failure.too_large {
        let message = format!("this document is refused: {}", tidy(&failure.message));
        return Problem::error("yaml/too-large", "", message)
            .at(Some(place_in(text, file, spot(text, &lines, failure))))
            .help("use fewer aliases (*name) and less nesting");
    }
    item_with_members(text, file, &lines)
        .or_else(|| tab(text, file, &lines, failure))
        .unwrap_or_else(|| plain(text, file, &lines, failure))
}

/// `- 9333` followed by an indented `tls: true`: a scalar cannot have members.
fn item_with_members(text: &str, file: &Arc<PathBuf>, lines: &[Line<'_>]) -> Option<Problem> {
    let mut spoken = lines.iter().filter(|line| !is_filler(line.text.trim())).peekable();
    while let Some(line) = spoken.next() {
        let Some(next) = spoken.peek() else { break };
        let Some((indent, item)) = scalar_item(line) else { continue };
        let member = next.text.trim_start();
        let deeper = next.text.len() - member.len();
        let name = member.split(':').next().unwrap_or_default();
        let known = ["tls", "tls_passthrough", "proxy_protocol", "proxy_protocol_to_upstream"];
        if deeper <= indent || member.len() == name.len() || !known.contains(&name.trim_end()) {
            continue;
        }
        let value = text.get(item.clone()).unwrap_or_default();
        let pad = " ".repeat(indent);
        let first = member.split('#').next().unwrap_or_default().trim_end();
        let message = format!(
            "the list item {value} is a plain value, so {name} on the next line cannot belong to it"
        );
        let mut problem = Problem::error("yaml/list-item", "apisix.stream_proxy.tcp", message)
            .at(Some(place_in(text, file, item)))
            .label("write this as addr: ...")
            .help(format!("use the addr form:\n{pad}- addr: {value}\n{pad}  {first}"));
        let start = next.start + deeper;
        problem.related.push(Related {
            place: place_in(text, file, start..start + first.len()),
            label: "this needs an item that is a mapping".to_owned(),
        });
        return Some(problem);
    }
    None
}

/// Indentation and byte range of the value of `- value`.
fn scalar_item(line: &Line<'_>) -> Option<(usize, Range<usize>)> {
    let trimmed = line.text.trim_start();
    let indent = line.text.len() - trimmed.len();
    let rest = trimmed.strip_prefix("- ")?;
    let value = rest.split(" #").next().unwrap_or(rest).trim();
    let open = value.is_empty() || value.starts_with(['{', '&', '*', '|', '>', '!']);
    if open || value.contains(": ") || value.ends_with(':') {
        return None;
    }
    let start = line.start + line.text.find(value)?;
    Some((indent, start..start + value.len()))
}

/// A tab in the indentation, at or before the place where reading stopped.
fn tab(text: &str, file: &Arc<PathBuf>, lines: &[Line<'_>], failure: &Failure) -> Option<Problem> {
    let near = lines.iter().take(failure.line.max(1) + 1).skip(failure.line.saturating_sub(2));
    let (line, at) = near.filter(|line| !is_filler(line.text.trim())).find_map(|line| {
        let indent = line.text.len() - line.text.trim_start().len();
        line.text.get(..indent).and_then(|space| space.find('\t')).map(|at| (line, at))
    })?;
    let start = line.start + at;
    Some(
        Problem::error("yaml/tab", "", "a tab is used for indentation; YAML only allows spaces")
            .at(Some(place_in(text, file, start..start + 1)))
            .label("tab")
            .help("replace the tab with spaces, as many as the neighbouring lines use"),
    )
}

fn plain(text: &str, file: &Arc<PathBuf>, lines: &[Line<'_>], failure: &Failure) -> Problem {
    let said = tidy(&failure.message);
    let help = if said.contains("mapping values are not allowed") || said.contains("simple key") {
        "check the indentation of this line and the one before; quote values that contain \": \""
    } else if said.contains("multiple") && said.contains("document") {
        "keep only one document: remove the second --- line and what follows"
    } else if said.contains("anchor") {
        "define the anchor (&name) before the alias (*name), or quote a value that begins with *"
    } else {
        "check indentation, brackets and quotes at this line and the one before"
    };
    Problem::error("yaml/syntax", "", format!("this is not valid YAML: {said}"))
        .at(Some(place_in(text, file, spot(text, lines, failure))))
        .label("reading stopped here")
        .help(help)
}

/// Where reading stopped: the rest of the line, or the last line that says something.
fn spot(text: &str, lines: &[Line<'_>], failure: &Failure) -> Range<usize> {
    let offset = failure.offset.unwrap_or_else(|| {
        lines.get(failure.line.saturating_sub(1)).map_or(text.len(), |line| line.start)
    });
    let start = text.floor_char_boundary(offset.min(text.trim_end().len()));
    let rest = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let blank = rest.len() - rest.trim_start().len();
    let (start, rest) = (start + blank, rest.trim_start());
    start..start + rest.trim_end().len()
}

/// The crate's message without its own position and its advice about its own API.
fn tidy(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.split(" at line ").next().unwrap_or(line);
    let line = line.split(";").next().unwrap_or(line);
    line.trim_start_matches("error: ").trim_end_matches([':', '.', ' ']).to_owned()
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut start = 0;
    text.split_inclusive('\n')
        .map(|line| {
            let here = start;
            start += line.len();
            Line { start: here, text: line.trim_end_matches(['\n', '\r']) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::problem::Problem;
    use crate::yaml::Document;

    fn problem(text: &str) -> Problem {
        Document::parse(text, Path::new("t.yaml")).unwrap_err().remove(0)
    }

    #[test]
    fn item_with_members_shows_the_addr_form() {
        let found = problem("a:\n  tcp:\n    - 9333  # main\n      tls: true\n");
        assert_eq!(found.code, "yaml/list-item");
        assert_eq!(found.place.as_ref().unwrap().line, 3);
        assert_eq!(found.related[0].place.line, 4);
        assert!(found.help.unwrap().ends_with("    - addr: 9333\n      tls: true"));
    }

    #[test]
    fn tab_is_named() {
        let found = problem("a:\n\tb: 1\n");
        assert_eq!((found.code, found.place.unwrap().line), ("yaml/tab", 2));
    }

    #[test]
    fn other_mistakes_have_a_place_and_help() {
        for text in
            ["a: [1, 2", "a: \"x", "a: b: c", "a: *nope", "a: 1\n---\nb: 2\n", "{", "? [a]\n: b"]
        {
            let found = problem(text);
            assert!(found.place.is_some() && found.help.is_some(), "{found}");
            assert!(!found.message.contains("from_"), "{found}");
        }
    }
}
