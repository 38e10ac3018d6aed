//! The words of the console's grammar, as parsers for `nom`: blanks, words, quoted strings, numbers.
//!
//! A parser either fits, does not fit (another one may), or finds a mistake that is to be told ([`mistake`]).

use nom::branch::alt;
use nom::bytes::complete::{tag_no_case, take_till, take_while, take_while1};
use nom::character::complete::{char, none_of, one_of};
use nom::combinator::{cut, map, peek, value};
use nom::error::{ErrorKind, ParseError};
use nom::multi::fold_many0;
use nom::sequence::{delimited, preceded, terminated};
use nom::{AsChar, Err, IResult, Parser};

/// Why something does not parse: what to say of it, if there is anything to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mistake(pub(super) Option<String>);

impl ParseError<&str> for Mistake {
    fn from_error_kind(_: &str, _: ErrorKind) -> Self {
        Self::default()
    }

    fn append(_: &str, _: ErrorKind, other: Self) -> Self {
        other
    }
}

/// What a parser gives: what is left of the text, and what it stands for.
pub(super) type Parsed<'t, T> = IResult<&'t str, T, Mistake>;

/// A mistake to be told.
pub(super) fn mistake(text: impl Into<String>) -> Err<Mistake> {
    Err::Failure(Mistake(Some(text.into())))
}

/// A parser's answer for those who do not parse further: the error is what to say, `otherwise` if the parser did not say it.
pub(super) fn told<'t, T>(parsed: Parsed<'t, T>, otherwise: &str) -> Result<(T, &'t str), String> {
    match parsed {
        Ok((rest, found)) => Ok((found, rest)),
        Err(Err::Failure(Mistake(Some(text)))) => Err(text),
        Err(_) => Err(otherwise.to_owned()),
    }
}

/// Blanks, of which there may be none.
pub(super) fn blanks(text: &str) -> Parsed<'_, &str> {
    take_while(|c: char| c.is_whitespace()).parse(text)
}

/// `parser`, and the blanks behind it.
pub(super) fn lexeme<'t, T>(
    parser: impl Parser<&'t str, Output = T, Error = Mistake>,
) -> impl Parser<&'t str, Output = T, Error = Mistake> {
    terminated(parser, blanks)
}

/// The name of a command: it ends at a blank, or at the slash of a `/format`.
pub(super) fn name(text: &str) -> Parsed<'_, &str> {
    take_while1(|c: char| !c.is_whitespace() && c != '/').parse(text)
}

/// A word up to a blank, or a string in double quotes with the escapes `\n`, `\r`, `\\`, `\'` and `\"`. Fails for a broken quotation.
pub(super) fn word(text: &str) -> Parsed<'_, String> {
    let escape =
        preceded(char('\\'), cut(alt((value('\n', char('n')), value('\r', char('r')), one_of("\\'\"")))));
    let content = fold_many0(alt((escape, none_of("\\\""))), String::new, |mut all, c| {
        all.push(c);
        all
    });
    let quoted = delimited(char('"'), content, cut(char('"')));
    alt((quoted, map(take_till(|c: char| c.is_whitespace()), str::to_owned))).parse(text)
}

/// A number: hexadecimal behind `0x`, octal behind `0`, else decimal.
pub(super) fn number(text: &str) -> Parsed<'_, u64> {
    let hex = preceded(tag_no_case("0x"), take_while1(AsChar::is_hex_digit));
    let octal = preceded(peek(char('0')), take_while1(AsChar::is_oct_digit));
    let decimal = take_while1(AsChar::is_dec_digit);
    let (rest, (digits, radix)) =
        alt((map(hex, |d| (d, 16)), map(octal, |d| (d, 8)), map(decimal, |d| (d, 10)))).parse(text)?;
    match u64::from_str_radix(digits, radix) {
        Ok(number) => Ok((rest, number)),
        Err(_) => Err(mistake("number too large")),
    }
}

/// All words of `text`; `None` for a broken quotation.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let (mut list, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let (after, found) = lexeme(word).parse(rest).ok()?;
        list.push(found);
        rest = after;
    }
    Some(list)
}

#[cfg(test)]
mod tests;
