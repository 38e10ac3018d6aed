//! Tokens of one value to the value: grammar, strings' escapes, numbers, keywords.
//!
//! Recursion is bounded by the stream's nesting limit. The first problem met is the one reported.

use std::collections::HashSet;

use super::lexer::Kind;
use super::stream::Tokens;
use super::utf8;
use crate::{Dict, Value};

/// Objects with more members than this find duplicates through a set; below, looking through them is faster.
const SET_ABOVE: usize = 16;
/// Longest message (in bytes) after `JSON parse error, `.
const MESSAGE_MAX: usize = 1023;

type Parsed<T> = Result<T, String>;

/// The value that the tokens are.
pub(super) fn value(tokens: &Tokens) -> Parsed<Value> {
    Cursor { tokens, at: 0 }.value()
}

struct Cursor<'a> {
    tokens: &'a Tokens,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Parsed<Kind> {
        self.tokens.list.get(self.at).map(|t| t.kind).ok_or_else(|| "premature EOI".to_owned())
    }

    fn next(&mut self) -> Parsed<(Kind, &'a [u8])> {
        let kind = self.peek()?;
        let end_of = |i: usize| self.tokens.list[i].end as usize;
        let start = self.at.checked_sub(1).map_or(0, end_of);
        let text = &self.tokens.text[start..end_of(self.at)];
        self.at += 1;
        Ok((kind, text))
    }

    fn value(&mut self) -> Parsed<Value> {
        let (kind, text) = self.next()?;
        match kind {
            Kind::OpenBrace => self.object(),
            Kind::OpenBracket => self.array(),
            Kind::String => string(text).map(Value::String),
            Kind::Integer | Kind::Float => Ok(number(text)),
            Kind::Keyword => keyword(text),
            Kind::CloseBrace | Kind::CloseBracket | Kind::Colon | Kind::Comma => {
                Err("expecting value".to_owned())
            }
        }
    }

    fn object(&mut self) -> Parsed<Value> {
        let mut members: Vec<(String, Value)> = Vec::new();
        let mut keys: HashSet<String> = HashSet::new();
        if self.peek()? == Kind::CloseBrace {
            self.at += 1;
            return Ok(Value::Dict(Dict::new()));
        }
        loop {
            let Value::String(key) = self.value()? else {
                return Err("key is not a string in object".to_owned());
            };
            if self.next()?.0 != Kind::Colon {
                return Err("missing : in object pair".to_owned());
            }
            let value = self.value()?;
            if members.len() == SET_ABOVE {
                keys.extend(members.iter().map(|(k, _)| k.clone()));
            }
            let duplicate = if members.len() < SET_ABOVE {
                members.iter().any(|(k, _)| *k == key)
            } else {
                !keys.insert(key.clone())
            };
            if duplicate {
                return Err("duplicate key".to_owned());
            }
            members.push((key, value));
            if self.peek()? == Kind::CloseBrace {
                self.at += 1;
                return Ok(Value::Dict(Dict::from_unique(members)));
            }
            if self.next()?.0 != Kind::Comma {
                return Err("expected separator in dict".to_owned());
            }
        }
    }

    fn array(&mut self) -> Parsed<Value> {
        let mut list = Vec::new();
        if self.peek()? == Kind::CloseBracket {
            self.at += 1;
            return Ok(Value::List(list));
        }
        loop {
            list.push(self.value()?);
            if self.peek()? == Kind::CloseBracket {
                self.at += 1;
                return Ok(Value::List(list));
            }
            if self.next()?.0 != Kind::Comma {
                return Err("expected separator in list".to_owned());
            }
        }
    }
}

/// The value of a string token, quotes included.
fn string(token: &[u8]) -> Parsed<String> {
    let mut out = String::with_capacity(token.len());
    let mut rest = &token[1..token.len() - 1];
    while let Some(&b) = rest.first() {
        if b == b'\\' {
            // The lexer takes no string that ends in its escape; the quote is in reach for the error's text.
            let at = token.len() - 1 - rest.len();
            let (c, len) = escape(&token[at..])?;
            out.push(c);
            rest = &rest[len..];
        } else {
            let (c, len) = utf8::decode(rest);
            out.push(c.ok_or_else(|| "invalid UTF-8 sequence in string".to_owned())?);
            rest = &rest[len..];
        }
    }
    Ok(out)
}

/// The character of the escape sequence at the front of `text`, and the sequence's length.
fn escape(text: &[u8]) -> Parsed<(char, usize)> {
    let c = match text[1] {
        b'"' => '"',
        b'\'' => '\'',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(text),
        _ => return Err("invalid escape sequence in string".to_owned()),
    };
    Ok((c, 2))
}

fn unicode(text: &[u8]) -> Parsed<(char, usize)> {
    let (code, len) = match hex4(text) {
        // A leading surrogate must be followed by a trailing one.
        Some(high @ 0xD800..0xDC00) if text[6..].starts_with(b"\\u") => match hex4(&text[6..]) {
            Some(low @ 0xDC00..0xE000) => (Some(0x1_0000 + ((high & 0x3FF) << 10 | low & 0x3FF)), 12),
            _ => (None, 6),
        },
        code => (code, 6),
    };
    code.and_then(utf8::character).map(|c| (c, len)).ok_or_else(|| {
        let shown = utf8::lossy(&text[..text.len().min(len)]);
        format!("{shown} is not a valid Unicode character")
    })
}

/// The four hexadecimal digits after `\u`.
fn hex4(text: &[u8]) -> Option<u32> {
    let digits = text.get(2..6)?;
    digits.iter().try_fold(0, |n, &b| Some(n << 4 | char::from(b).to_digit(16)?))
}

/// The value of a number token: `i64`, else `u64`, else a double (infinite if it is too large).
fn number(token: &[u8]) -> Value {
    let text = std::str::from_utf8(token).expect("the lexer lets only ASCII into numbers");
    text.parse::<i64>()
        .map(Value::Int)
        .or_else(|_| text.parse::<u64>().map(Value::UInt))
        .or_else(|_| text.parse::<f64>().map(Value::Double))
        .expect("the lexer lets only numbers through")
}

fn keyword(token: &[u8]) -> Parsed<Value> {
    match token {
        b"true" => Ok(Value::Bool(true)),
        b"false" => Ok(Value::Bool(false)),
        b"null" => Ok(Value::Null),
        _ => {
            let mut message =
                format!("invalid keyword '{}'", utf8::lossy(&token[..token.len().min(MESSAGE_MAX)]));
            message.truncate(MESSAGE_MAX);
            Err(message)
        }
    }
}
