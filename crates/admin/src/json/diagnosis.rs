//! Says what is wrong with a JSON text in the words of cjson, which clients know.
//!
//! Only runs on texts that serde_json refused. It accepts a little more than serde_json (raw
//! control characters in strings); `None` then leaves the wording to serde_json.

/// The first error of the text, or `None` when there is none by cjson's rules.
pub(super) fn explain(input: &[u8], max_depth: usize) -> Option<String> {
    let mut scanner = Scanner { input, at: 0 };
    let mut state = Expect::Value;
    // Open containers, innermost last; `true` for objects.
    let mut open: Vec<bool> = Vec::new();
    loop {
        let (start, token) = scanner.token();
        let wrong = |expected: &str| {
            Some(format!(
                "Expected {expected} but found {} at character {}",
                token.name(),
                start + 1
            ))
        };
        state = match (state, &token) {
            (Expect::Value | Expect::ValueOrEnd, Token::ObjectBegin | Token::ArrayBegin) => {
                let object = token == Token::ObjectBegin;
                open.push(object);
                if open.len() > max_depth {
                    return Some(format!(
                        "Found too many nested data structures ({}) at character {}",
                        open.len(),
                        start + 1
                    ));
                }
                if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd }
            }
            (Expect::Value | Expect::ValueOrEnd, token) if token.is_scalar() => after_value(&open),
            (Expect::ValueOrEnd, Token::ArrayEnd)
            | (Expect::KeyOrEnd | Expect::CommaOrEnd, Token::ObjectEnd)
            | (Expect::CommaOrEnd, Token::ArrayEnd)
                if open.last() == Some(&(token == Token::ObjectEnd)) =>
            {
                open.pop();
                after_value(&open)
            }
            (Expect::Key | Expect::KeyOrEnd, Token::String) => Expect::Colon,
            (Expect::Colon, Token::Colon) => Expect::Value,
            (Expect::CommaOrEnd, Token::Comma) if open.last() == Some(&true) => Expect::Key,
            (Expect::CommaOrEnd, Token::Comma) => Expect::Value,
            (Expect::End, Token::End) => return None,
            (Expect::Value | Expect::ValueOrEnd, _) => return wrong("value"),
            (Expect::Key | Expect::KeyOrEnd, _) => return wrong("object key string"),
            (Expect::Colon, _) => return wrong("colon"),
            (Expect::CommaOrEnd, _) if open.last() == Some(&true) => {
                return wrong("comma or object end");
            }
            (Expect::CommaOrEnd, _) => return wrong("comma or array end"),
            (Expect::End, _) => return wrong("the end"),
        };
    }
}

#[derive(Clone, Copy)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    End,
}

const fn after_value(open: &[bool]) -> Expect {
    if open.is_empty() { Expect::End } else { Expect::CommaOrEnd }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    String,
    Number,
    Boolean,
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Token {
    const fn name(&self) -> &'static str {
        match self {
            Self::ObjectBegin => "T_OBJ_BEGIN",
            Self::ObjectEnd => "T_OBJ_END",
            Self::ArrayBegin => "T_ARR_BEGIN",
            Self::ArrayEnd => "T_ARR_END",
            Self::String => "T_STRING",
            Self::Number => "T_NUMBER",
            Self::Boolean => "T_BOOLEAN",
            Self::Null => "T_NULL",
            Self::Colon => "T_COLON",
            Self::Comma => "T_COMMA",
            Self::End => "T_END",
            Self::Error(text) => text,
        }
    }

    const fn is_scalar(&self) -> bool {
        matches!(self, Self::String | Self::Number | Self::Boolean | Self::Null)
    }
}

struct Scanner<'a> {
    input: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// The next token and where it starts.
    fn token(&mut self) -> (usize, Token) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        let start = self.at;
        let Some(byte) = self.peek() else { return (start, Token::End) };
        let single = match byte {
            b'{' => Some(Token::ObjectBegin),
            b'}' => Some(Token::ObjectEnd),
            b'[' => Some(Token::ArrayBegin),
            b']' => Some(Token::ArrayEnd),
            b':' => Some(Token::Colon),
            b',' => Some(Token::Comma),
            _ => None,
        };
        if let Some(token) = single {
            self.at += 1;
            return (start, token);
        }
        match byte {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => (start, self.number()),
            _ => {
                for (word, token) in
                    [("true", Token::Boolean), ("false", Token::Boolean), ("null", Token::Null)]
                {
                    if self.rest().starts_with(word.as_bytes()) {
                        self.at += word.len();
                        return (start, token);
                    }
                }
                (start, Token::Error("invalid token"))
            }
        }
    }

    fn string(&mut self) -> (usize, Token) {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return (self.at, Token::Error("unexpected end of string")),
                Some(b'"') => {
                    self.at += 1;
                    return (start, Token::String);
                }
                Some(b'\\') => match self.input.get(self.at + 1) {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
                    Some(b'u') if self.has_four_digits() => self.at += 6,
                    Some(b'u') => return (self.at, Token::Error("invalid unicode escape code")),
                    _ => return (self.at, Token::Error("invalid escape code")),
                },
                Some(_) => self.at += 1,
            }
        }
    }

    fn has_four_digits(&self) -> bool {
        self.input
            .get(self.at + 2..self.at + 6)
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    }

    fn number(&mut self) -> Token {
        let text = self.rest();
        let length = text
            .iter()
            .take_while(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))
            .count();
        let text = text.get(..length).unwrap_or_default();
        if serde_json::from_slice::<serde_json::Number>(text).is_err() {
            return Token::Error("invalid number");
        }
        self.at += length;
        Token::Number
    }

    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn rest(&self) -> &[u8] {
        self.input.get(self.at..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_cjson() {
        let cases = [
            ("", "Expected value but found T_END at character 1"),
            ("hello", "Expected value but found invalid token at character 1"),
            ("{hello}", "Expected object key string but found invalid token at character 2"),
            ("{\"a\":1,}", "Expected object key string but found T_OBJ_END at character 8"),
            ("{\"a\" 1}", "Expected colon but found T_NUMBER at character 6"),
            ("{\"a\":1", "Expected comma or object end but found T_END at character 7"),
            ("{\"a\":1]", "Expected comma or object end but found T_ARR_END at character 7"),
            ("[1 2]", "Expected comma or array end but found T_NUMBER at character 4"),
            ("[1,]", "Expected value but found T_ARR_END at character 4"),
            ("{} x", "Expected the end but found invalid token at character 4"),
            ("[01]", "Expected value but found invalid number at character 2"),
            ("\"abc", "Expected value but found unexpected end of string at character 5"),
            (r#""a\x""#, "Expected value but found invalid escape code at character 3"),
        ];
        for (input, expected) in cases {
            assert_eq!(explain(input.as_bytes(), 128).as_deref(), Some(expected), "{input}");
        }
        assert_eq!(explain(b"{\"a\":[1,{\"b\":null}]}", 128), None);
    }
}
