//! Renders problems for people, like a compiler does, and for programs, as JSON.

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str,
};
use headgate_model::problem::{Place, Related};
use headgate_model::{Problem, Severity};
use serde_json::{Value, json};

/// Renders problems with excerpts of `source`, the text of the file they are in.
pub fn human(problems: &[Problem], source: &str, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for problem in problems {
        text.push_str(&renderer.render(&[group(problem, source)]));
        text.push_str("\n\n");
    }
    text
}

/// Renders problems as a JSON array; `excerpt` is the line of the place.
pub fn json(problems: &[Problem], source: &str) -> String {
    let all: Vec<Value> = problems.iter().map(|problem| object(problem, source)).collect();
    format!("{:#}", Value::Array(all))
}

fn group<'a>(problem: &'a Problem, source: &'a str) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group =
        level.primary_title(&problem.message).id(problem.code).elements(None::<Origin<'_>>);
    if let Some(place) = &problem.place {
        group = if is_within(place, source) {
            group.element(excerpt(problem, place, source))
        } else {
            group.element(origin(place))
        };
    }
    for related in problem.related.iter().filter(|related| !is_shown(problem, related, source)) {
        let Related { place, label } = related;
        let note = format!("{}:{}:{}: {label}", place.file.display(), place.line, place.column);
        group = group.element(Level::NOTE.message(lines(&note)));
    }
    if let Some(help) = &problem.help {
        group = group.element(Level::HELP.message(lines(help)));
    }
    group
}

/// The marked lines: the place itself and what belongs to it in the same file.
fn excerpt<'a>(
    problem: &'a Problem,
    place: &'a Place,
    source: &'a str,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let primary = AnnotationKind::Primary.span(place.span.clone());
    let snippet = Snippet::source(source)
        .path(place.file.to_string_lossy())
        .annotation(primary.label(problem.label.as_deref()));
    let shown = problem.related.iter().filter(|related| is_shown(problem, related, source));
    shown.fold(snippet, |snippet, Related { place, label }| {
        snippet.annotation(AnnotationKind::Context.span(place.span.clone()).label(label.as_str()))
    })
}

fn origin(place: &Place) -> Origin<'_> {
    Origin::path(place.file.to_string_lossy()).line(place.line).char_column(place.column)
}

/// Whether a related place can be marked in the same excerpt.
fn is_shown(problem: &Problem, related: &Related, source: &str) -> bool {
    problem.place.as_ref().is_some_and(|place| {
        place.file == related.place.file
            && is_within(place, source)
            && is_within(&related.place, source)
    })
}

/// Whether the bytes of a place exist in the text.
fn is_within(place: &Place, source: &str) -> bool {
    !source.is_empty() && source.get(place.span.clone()).is_some()
}

/// Takes out what could steer a terminal, line by line.
fn lines(text: &str) -> String {
    text.split('\n').map(normalize_untrusted_str).collect::<Vec<_>>().join("\n")
}

fn object(problem: &Problem, source: &str) -> Value {
    let place = problem.place.as_ref();
    let excerpt = place
        .filter(|place| is_within(place, source))
        .and_then(|place| source.lines().nth(place.line.saturating_sub(1)));
    let related: Vec<Value> = problem
        .related
        .iter()
        .map(|Related { place, label }| {
            json!({
                "file": place.file.display().to_string(),
                "line": place.line,
                "column": place.column,
                "label": label,
            })
        })
        .collect();
    json!({
        "severity": problem.severity.as_str(),
        "code": problem.code,
        "message": problem.message,
        "subject": problem.subject,
        "file": place.map(|place| place.file.display().to_string()),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "excerpt": excerpt,
        "label": problem.label,
        "help": problem.help,
        "related": related,
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use headgate_model::settings::Settings;

    use super::*;

    const TEXT: &str =
        "apisix:\n  stream_proxy:\n    tcp:\n      - 9100\n      - 65536\n      - addr: 9100\n";

    fn problems(text: &str) -> Vec<Problem> {
        Settings::parse(text, Path::new("conf/config.yaml"), &|_| None).problems
    }

    #[test]
    fn looks_like_a_compiler() {
        let text = human(&problems(TEXT), TEXT, false);
        assert!(text.starts_with(
            "error[stream-proxy/port]: invalid stream_proxy.tcp entry: port out of range (1-65535): 65536\n \
             --> conf/config.yaml:5:9\n"
        ), "{text}");
        assert!(
            text.contains("5 |       - 65536\n  |         ^^^^^ ports are 1 to 65535"),
            "{text}"
        );
        assert!(text.contains("= help: write a port from 1 to 65535"), "{text}");
        assert!(text.contains("is opened here already"), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(human(&problems(TEXT), TEXT, true).contains('\u{1b}'));
    }

    #[test]
    fn json_has_every_part() {
        let value: Value = serde_json::from_str(&json(&problems(TEXT), TEXT)).unwrap();
        assert_eq!(value[0]["severity"], "error");
        assert_eq!(value[0]["code"], "stream-proxy/port");
        assert_eq!(value[0]["line"], 5);
        assert_eq!(value[0]["excerpt"], "      - 65536");
        assert_eq!(value[1]["related"][0]["line"], 4);
    }

    #[test]
    fn strange_places_and_texts_are_survived() {
        let file = Arc::new(PathBuf::from("x"));
        for (span, source) in [(0..0, ""), (0..9, "ü"), (1..2, "ü"), (2..2, "ü"), (3..3, "a\nb")]
        {
            let place = Place { file: Arc::clone(&file), line: 7, column: 1, span };
            let mut problem = Problem::error("a/b", "", "m\u{1b}[31m").help("one\ntwo\u{1b}[2J");
            problem.related.push(Related { place: place.clone(), label: "here".to_owned() });
            let text = human(&[problem.clone().at(Some(place)), problem.clone()], source, false);
            assert!(text.contains("x:7:1") || text.contains("--> x"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
            json(&[problem], source);
        }
        for text in ["a: [", "a: \"x", "{", "a: b: c\r\n", "\u{feff}a: [", "- a\n- b: {", "ü: [ü"]
        {
            human(&problems(text), text, false);
        }
    }
}
