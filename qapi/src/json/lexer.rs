//! Bytes to tokens, one byte at a time.
//!
//! A state machine without memory but the token's text (which the stream keeps). Strings are only delimited here; their
//! escapes are looked at when a whole value is there, so that the error order is the protocol's.

/// What a finished token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `{`
    OpenBrace,
    /// `}`
    CloseBrace,
    /// `[`
    OpenBracket,
    /// `]`
    CloseBracket,
    /// `:`
    Colon,
    /// `,`
    Comma,
    /// A number without fraction and exponent.
    Integer,
    /// Any other number.
    Float,
    /// Lower-case letters.
    Keyword,
    /// A string with its quotes.
    String,
}

/// Where the lexer is inside a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Between tokens.
    Start,
    /// After an error: everything is skipped up to a structural character, a control character, 0xFE or 0xFF.
    Recovery,
    /// In a string that the byte ends.
    InString(u8),
    /// After a backslash in such a string.
    Escape(u8),
    /// After `-`.
    Sign,
    /// After a leading zero.
    Zero,
    /// In the digits of an integer.
    Digits,
    /// After the decimal point.
    Point,
    /// In the digits of the fraction.
    Fraction,
    /// After `e` or `E`.
    Exponent,
    /// After the exponent's sign.
    ExponentSign,
    /// In the exponent's digits.
    ExponentDigits,
    /// In a keyword.
    Keyword,
}

/// What one byte does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The byte is consumed, the token goes on (or blank space does).
    Go(State),
    /// The byte is consumed and completes a token.
    Done(Kind),
    /// The token ended before this byte, which must be looked at again from [`State::Start`].
    Before(Kind),
    /// Recovery ends before this byte, which must be looked at again from [`State::Start`].
    Resume,
    /// The byte is consumed and cannot be.
    Error,
}

/// Byte `b` in state `state`.
pub(super) fn step(state: State, b: u8) -> Step {
    use Step::{Before, Done, Error, Go};
    match state {
        State::Start => start(b),
        State::Recovery => match b {
            0..0x20 | 0xFE.. | b'{' | b'}' | b'[' | b']' | b':' | b',' => Step::Resume,
            _ => Go(State::Recovery),
        },
        State::InString(quote) => match b {
            b'\\' => Go(State::Escape(quote)),
            0x20..=0xFD if b == quote => Done(Kind::String),
            0x20..=0xFD => Go(state),
            _ => Error,
        },
        State::Escape(quote) => match b {
            0x20..=0xFD => Go(State::InString(quote)),
            _ => Error,
        },
        State::Sign => match b {
            b'0' => Go(State::Zero),
            b'1'..=b'9' => Go(State::Digits),
            _ => Error,
        },
        State::Zero | State::Digits => match b {
            b'0'..=b'9' if state == State::Zero => Error,
            b'0'..=b'9' => Go(state),
            b'.' => Go(State::Point),
            b'e' | b'E' => Go(State::Exponent),
            _ => Before(Kind::Integer),
        },
        State::Point => match b {
            b'0'..=b'9' => Go(State::Fraction),
            _ => Error,
        },
        State::Fraction => match b {
            b'0'..=b'9' => Go(state),
            b'e' | b'E' => Go(State::Exponent),
            _ => Before(Kind::Float),
        },
        State::Exponent => match b {
            b'+' | b'-' => Go(State::ExponentSign),
            b'0'..=b'9' => Go(State::ExponentDigits),
            _ => Error,
        },
        State::ExponentSign => match b {
            b'0'..=b'9' => Go(State::ExponentDigits),
            _ => Error,
        },
        State::ExponentDigits => match b {
            b'0'..=b'9' => Go(state),
            _ => Before(Kind::Float),
        },
        State::Keyword => match b {
            b'a'..=b'z' => Go(state),
            _ => Before(Kind::Keyword),
        },
    }
}

fn start(b: u8) -> Step {
    use Step::{Done, Error, Go};
    match b {
        b'{' => Done(Kind::OpenBrace),
        b'}' => Done(Kind::CloseBrace),
        b'[' => Done(Kind::OpenBracket),
        b']' => Done(Kind::CloseBracket),
        b':' => Done(Kind::Colon),
        b',' => Done(Kind::Comma),
        b'"' | b'\'' => Go(State::InString(b)),
        b'-' => Go(State::Sign),
        b'0' => Go(State::Zero),
        b'1'..=b'9' => Go(State::Digits),
        b'a'..=b'z' => Go(State::Keyword),
        b' ' | b'\t' | b'\r' | b'\n' => Go(State::Start),
        _ => Error,
    }
}
