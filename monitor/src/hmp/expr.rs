//! Integer expressions of the console: `$pc + 0x10`, `(1 + 2) * 3`.
//!
//! 64 bits, two's complement. `+` and `-` bind loosest, then `&`, `|` and `^`, then `*`, `/` and `%`; of the same strength
//! the left one first. Before an operand may come `+`, `-` and `~`. Operands are decimal, octal (`010`) and hexadecimal
//! (`0x10`) numbers, characters (`'a'`), registers (`$eax`) and parentheses.

use nom::Parser as _;
use nom::character::complete::{anychar, char, one_of};
use nom::combinator::opt;

use super::lexis::{Parsed, blanks, lexeme, mistake, number, told};

/// What a register holds; `None` if there is no such register.
pub(crate) type Registers<'a> = dyn Fn(&str) -> Option<i64> + 'a;

/// Parentheses and signs around an operand, at most: a line of nothing else must not exhaust the stack.
const DEPTH: usize = 200;

/// Evaluates the expression that `text` begins with; gives its value and what follows it. The error is a line to print.
pub(super) fn evaluate<'t>(text: &'t str, registers: &Registers<'_>) -> Result<(i64, &'t str), String> {
    let sum = |text| Level { registers, depth: 0 }.sum(text);
    told(blanks(text).and_then(|(text, _)| sum(text)), "unexpected end of expression")
        .map_err(|message| format!("{message}\n"))
}

/// What may be said of two operands.
type Apply = fn(char, i64, i64) -> Result<i64, &'static str>;

/// The grammar, so many parentheses and signs deep.
#[derive(Clone, Copy)]
struct Level<'r> {
    registers: &'r Registers<'r>,
    depth: usize,
}

impl Level<'_> {
    fn sum<'t>(&self, text: &'t str) -> Parsed<'t, i64> {
        let apply =
            |operator, a: i64, b| Ok(if operator == '+' { a.wrapping_add(b) } else { a.wrapping_sub(b) });
        chain(text, "+-", |text| self.logic(text), apply)
    }

    fn logic<'t>(&self, text: &'t str) -> Parsed<'t, i64> {
        let apply = |operator, a, b| {
            Ok(match operator {
                '&' => a & b,
                '|' => a | b,
                _ => a ^ b,
            })
        };
        chain(text, "&|^", |text| self.product(text), apply)
    }

    fn product<'t>(&self, text: &'t str) -> Parsed<'t, i64> {
        let apply = |operator, a: i64, b| match operator {
            '*' => Ok(a.wrapping_mul(b)),
            _ if b == 0 => Err("division by zero"),
            '/' => Ok(a.wrapping_div(b)),
            _ => Ok(a.wrapping_rem(b)),
        };
        chain(text, "*/%", |text| self.operand(text), apply)
    }

    fn operand<'t>(&self, text: &'t str) -> Parsed<'t, i64> {
        if self.depth == DEPTH {
            return Err(mistake("expression is nested too deeply"));
        }
        let inner = Self { depth: self.depth + 1, ..*self };
        let (after, first) = anychar(text)?;
        let operand = |after| blanks(after).and_then(|(text, _)| inner.operand(text));
        match first {
            '+' => operand(after),
            '-' => operand(after).map(|(rest, value)| (rest, value.wrapping_neg())),
            '~' => operand(after).map(|(rest, value)| (rest, !value)),
            '(' => {
                let (text, _) = blanks(after)?;
                let (text, value) = inner.sum(text)?;
                match lexeme(char(')')).parse(text) {
                    Ok((rest, _)) => Ok((rest, value)),
                    Err::<_, nom::Err<_>>(_) => Err(mistake("')' expected")),
                }
            }
            '\'' => lexeme(character).parse(after),
            '$' => lexeme(|text| self.register(text)).parse(after),
            c if c.is_ascii_digit() => {
                let (rest, number) = lexeme(number).parse(text)?;
                Ok((rest, number.cast_signed()))
            }
            c => Err(mistake(format!("invalid char '{c}' in expression"))),
        }
    }

    fn register<'t>(&self, text: &'t str) -> Parsed<'t, i64> {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let (rest, name) = nom::bytes::complete::take_while(part).parse(text)?;
        (self.registers)(name).map(|value| (rest, value)).ok_or_else(|| mistake("unknown register"))
    }
}

/// Operands between `operators` of the same strength, the left ones first.
fn chain<'t>(
    text: &'t str,
    operators: &'static str,
    operand: impl Fn(&'t str) -> Parsed<'t, i64>,
    apply: Apply,
) -> Parsed<'t, i64> {
    let (mut text, mut value) = operand(text)?;
    loop {
        let (rest, operator) = opt(lexeme(one_of(operators))).parse(text)?;
        let Some(operator) = operator else { return Ok((rest, value)) };
        let (rest, right) = operand(rest)?;
        value = apply(operator, value, right).map_err(mistake)?;
        text = rest;
    }
}

/// A character behind its first quotation mark.
fn character(text: &str) -> Parsed<'_, i64> {
    let (after, c) =
        anychar::<_, super::lexis::Mistake>(text).map_err(|_| mistake("character constant expected"))?;
    match after.strip_prefix('\'') {
        Some(rest) => Ok((rest, i64::from(u32::from(c)))),
        None => Err(mistake("missing terminating ' character")),
    }
}

#[cfg(test)]
mod tests;
