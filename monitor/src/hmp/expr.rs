//! Integer expressions of the console: `$pc + 0x10`, `(1 + 2) * 3`.
//!
//! 64 bits, two's complement. `+` and `-` bind loosest, then `&`, `|` and `^`, then `*`, `/` and `%`; of the same strength
//! the left one first. Before an operand may come `+`, `-` and `~`. Operands are decimal, octal (`010`) and hexadecimal
//! (`0x10`) numbers, characters (`'a'`), registers (`$eax`) and parentheses.

/// What a register holds; `None` if there is no such register.
pub(crate) type Registers<'a> = dyn Fn(&str) -> Option<i64> + 'a;

/// Parentheses and signs around an operand, at most: a line of nothing else must not exhaust the stack.
const DEPTH: usize = 200;

/// Evaluates the expression that `text` begins with; gives its value and what follows it. The error is a line to print.
pub(super) fn evaluate<'t>(text: &'t str, registers: &Registers<'_>) -> Result<(i64, &'t str), String> {
    let mut parser = Parser { rest: text.trim_start(), registers, depth: 0 };
    let value = parser.sum().map_err(|message| format!("{message}\n"))?;
    Ok((value, parser.rest))
}

struct Parser<'t, 'r> {
    rest: &'t str,
    registers: &'r Registers<'r>,
    depth: usize,
}

impl Parser<'_, '_> {
    /// Takes one of `operators`, and the blanks behind it.
    fn operator(&mut self, operators: &[char]) -> Option<char> {
        let found = self.rest.chars().next().filter(|c| operators.contains(c))?;
        self.skip(found.len_utf8());
        Some(found)
    }

    /// Goes on behind `len` bytes and blanks.
    fn skip(&mut self, len: usize) {
        self.rest = self.rest[len..].trim_start();
    }

    fn sum(&mut self) -> Result<i64, String> {
        let mut value = self.logic()?;
        while let Some(operator) = self.operator(&['+', '-']) {
            let right = self.logic()?;
            value = if operator == '+' { value.wrapping_add(right) } else { value.wrapping_sub(right) };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, String> {
        let mut value = self.product()?;
        while let Some(operator) = self.operator(&['&', '|', '^']) {
            let right = self.product()?;
            value = match operator {
                '&' => value & right,
                '|' => value | right,
                _ => value ^ right,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, String> {
        let mut value = self.operand()?;
        while let Some(operator) = self.operator(&['*', '/', '%']) {
            let right = self.operand()?;
            value = match operator {
                '*' => value.wrapping_mul(right),
                _ if right == 0 => return Err("division by zero".to_owned()),
                '/' => value.wrapping_div(right),
                _ => value.wrapping_rem(right),
            };
        }
        Ok(value)
    }

    fn operand(&mut self) -> Result<i64, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("expression is nested too deeply".to_owned());
        }
        let value = match self.rest.chars().next() {
            None => return Err("unexpected end of expression".to_owned()),
            Some('+') => {
                self.skip(1);
                self.operand()?
            }
            Some('-') => {
                self.skip(1);
                self.operand()?.wrapping_neg()
            }
            Some('~') => {
                self.skip(1);
                !self.operand()?
            }
            Some('(') => {
                self.skip(1);
                let value = self.sum()?;
                self.operator(&[')']).ok_or("')' expected")?;
                value
            }
            Some('\'') => self.character()?,
            Some('$') => {
                let name = &self.rest[1..];
                let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.');
                let name = &name[..end.unwrap_or(name.len())];
                let value = (self.registers)(name).ok_or("unknown register")?;
                self.skip(1 + name.len());
                value
            }
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some(c) => return Err(format!("invalid char '{c}' in expression")),
        };
        self.depth -= 1;
        Ok(value)
    }

    fn character(&mut self) -> Result<i64, String> {
        let c = self.rest[1..].chars().next().ok_or("character constant expected")?;
        let end = 1 + c.len_utf8();
        if !self.rest[end..].starts_with('\'') {
            return Err("missing terminating ' character".to_owned());
        }
        self.skip(end + 1);
        Ok(i64::from(u32::from(c)))
    }

    fn number(&mut self) -> Result<i64, String> {
        let digits = self.rest;
        let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
        let (digits, radix) = match hex.filter(|h| h.starts_with(|c: char| c.is_ascii_hexdigit())) {
            Some(hex) => (hex, 16),
            None if digits.starts_with('0') => (digits, 8),
            None => (digits, 10),
        };
        let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
        let value = u64::from_str_radix(&digits[..end], radix).map_err(|_| "number too large")?;
        self.skip(self.rest.len() - digits.len() + end);
        Ok(value.cast_signed())
    }
}

#[cfg(test)]
mod tests;
