//! Tokens to complete values: counts brackets, keeps the limits, recovers after errors.
//!
//! A value is parsed when its last bracket is there, so an error inside it is reported once, at its end. A lexical error
//! or a limit drops what was collected; what follows is new input.

use std::collections::VecDeque;

use super::lexer::{Kind, State, Step, step};
use super::{syntax, utf8};
use crate::{Error, Result, Value};

/// Most bytes of token text in one value.
pub(super) const MAX_TEXT: usize = 64 << 20;
/// Most tokens in one value.
pub(super) const MAX_TOKENS: usize = 2 << 20;
/// Deepest nesting of arrays and objects.
const MAX_NESTING: i64 = 1024;
/// Buffers larger than this are given back after a value.
const KEEP: usize = 64 << 10;

/// A finished token: what it is, and where its text ends (it starts where the one before ends).
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) end: u32,
}

/// The tokens of one value and their text, end to end.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub(super) text: Vec<u8>,
    pub(super) list: Vec<Token>,
}

/// Incremental parser of a stream of JSON values. Results are taken out by iterating.
///
/// Time is linear in the input, memory is bounded by the limits (64 MiB of token text, 2 Mi tokens) plus the results
/// not yet taken out. An iterator that answered `None` goes on after the next [`feed`](Self::feed).
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// Finished tokens; the text of the unfinished one follows theirs.
    tokens: Tokens,
    /// Where the unfinished token's text starts in `tokens.text`.
    token_start: usize,
    braces: i64,
    brackets: i64,
    max_text: usize,
    max_tokens: usize,
    ready: VecDeque<Result<Value>>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the beginning of a stream.
    pub fn new() -> Self {
        Self::with_limits(MAX_TEXT, MAX_TOKENS)
    }

    /// A parser that takes at most `max_text` bytes (which must fit `u32`) and `max_tokens` tokens in one value.
    pub(crate) fn with_limits(max_text: usize, max_tokens: usize) -> Self {
        Self {
            state: State::Start,
            tokens: Tokens::default(),
            token_start: 0,
            braces: 0,
            brackets: 0,
            max_text,
            max_tokens,
            ready: VecDeque::new(),
        }
    }

    /// Takes input; values and errors that it completes can then be taken out.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(result) = self.advance(&mut bytes) {
            self.ready.push_back(result);
        }
    }

    /// Takes bytes off the front of `input` up to the first value or error that they complete, for callers that must not
    /// run ahead of what they can handle. `None` when the input is used up. Do not mix with [`feed`](Self::feed)
    /// while results wait.
    pub fn advance(&mut self, input: &mut &[u8]) -> Option<Result<Value>> {
        while let Some((&b, rest)) = input.split_first() {
            let step = step(self.state, b);
            if !matches!(step, Step::Before(_) | Step::Resume) {
                *input = rest;
            }
            match step {
                Step::Go(state) => self.go(state, b, input),
                Step::Resume => self.state = State::Start,
                Step::Error => {
                    self.tokens.text.push(b);
                    return Some(Err(self.stray()));
                }
                Step::Before(kind) => {
                    if let Some(result) = self.token(kind) {
                        return Some(result);
                    }
                }
                Step::Done(kind) => {
                    self.tokens.text.push(b);
                    if let Some(result) = self.token(kind) {
                        return Some(result);
                    }
                }
            }
            if self.tokens.text.len() - self.token_start > self.max_text {
                return Some(Err(self.limit("size")));
            }
        }
        None
    }

    /// Whether a value has been started and not finished.
    pub fn is_partial(&self) -> bool {
        !self.tokens.list.is_empty() || !matches!(self.state, State::Start | State::Recovery)
    }

    /// The input ends here: what is unfinished becomes a value (`12`) or an error (`JSON parse error, premature EOI`).
    pub fn finish(&mut self) {
        match self.state {
            State::Start | State::Recovery => self.state = State::Start,
            state => {
                let result = match step(state, 0) {
                    Step::Before(kind) => self.token(kind),
                    _ => Some(Err(self.stray())),
                };
                self.state = State::Start;
                self.ready.extend(result);
            }
        }
        if !self.tokens.list.is_empty() {
            let result = self.complete();
            self.ready.push_back(result);
        }
    }

    /// The byte `b` belongs to the token, or to the space between tokens.
    fn go(&mut self, state: State, b: u8, input: &mut &[u8]) {
        self.state = state;
        match state {
            State::Start | State::Recovery => {}
            State::InString(quote) => {
                self.tokens.text.push(b);
                // Plain text of a string goes in one piece, but no further than the limit is noticed.
                let room = (self.max_text + 1).saturating_sub(self.tokens.text.len() - self.token_start);
                let plain = input
                    .iter()
                    .take(room)
                    .position(|&b| b == quote || b == b'\\' || !(0x20..=0xFD).contains(&b))
                    .unwrap_or(room.min(input.len()));
                let (run, rest) = input.split_at(plain);
                self.tokens.text.extend_from_slice(run);
                *input = rest;
            }
            _ => self.tokens.text.push(b),
        }
    }

    /// Takes up a finished token; the result if it completes a value or breaks a limit.
    fn token(&mut self, kind: Kind) -> Option<Result<Value>> {
        self.state = State::Start;
        match kind {
            Kind::OpenBrace => self.braces += 1,
            Kind::CloseBrace => self.braces -= 1,
            Kind::OpenBracket => self.brackets += 1,
            Kind::CloseBracket => self.brackets -= 1,
            _ => {}
        }
        let end = self.tokens.text.len();
        if end + 1 > self.max_text {
            return Some(Err(self.limit("size")));
        }
        if self.tokens.list.len() + 1 > self.max_tokens {
            return Some(Err(self.limit("count")));
        }
        if self.braces + self.brackets > MAX_NESTING {
            self.reset();
            return Some(Err(Error::generic("JSON nesting depth limit exceeded")));
        }
        let end32 = u32::try_from(end).expect("max_text fits u32");
        self.tokens.list.push(Token { kind, end: end32 });
        self.token_start = end;
        let open = (self.braces > 0 || self.brackets > 0) && self.braces >= 0 && self.brackets >= 0;
        if open { None } else { Some(self.complete()) }
    }

    fn complete(&mut self) -> Result<Value> {
        let result =
            syntax::value(&self.tokens).map_err(|e| Error::generic(format!("JSON parse error, {e}")));
        self.reset();
        result
    }

    /// A token that cannot be; its text is quoted up to a NUL byte.
    fn stray(&mut self) -> Error {
        let token = &self.tokens.text[self.token_start..];
        let shown = token.iter().position(|&b| b == 0).map_or(token, |nul| &token[..nul]);
        let error = Error::generic(format!("JSON parse error, stray '{}'", utf8::lossy(shown)));
        self.reset();
        self.state = State::Recovery;
        error
    }

    fn limit(&mut self, what: &str) -> Error {
        self.reset();
        self.state = State::Start;
        Error::generic(format!("JSON token {what} limit exceeded"))
    }

    /// Drops what was collected.
    fn reset(&mut self) {
        self.tokens.text.clear();
        self.tokens.list.clear();
        self.tokens.text.shrink_to(KEEP);
        self.tokens.list.shrink_to(KEEP / size_of::<Token>());
        self.token_start = 0;
        self.braces = 0;
        self.brackets = 0;
    }
}

impl Iterator for Parser {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        self.ready.pop_front()
    }
}

/// The one value that `text` is, as options on the command line have it.
///
/// # Errors
/// The first error of the stream; `Expecting a JSON value` for blank text; `Expecting at most one JSON value`.
pub fn parse(text: &str) -> Result<Value> {
    let mut parser = Parser::new();
    parser.feed(text.as_bytes());
    parser.finish();
    let Some(first) = parser.next() else { return Err(Error::generic("Expecting a JSON value")) };
    if first.is_ok() && parser.next().is_some() {
        return Err(Error::generic("Expecting at most one JSON value"));
    }
    first
}
