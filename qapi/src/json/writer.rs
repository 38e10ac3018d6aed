//! Values to text in the protocol's format: blanks after `,` and `:`, ASCII only, members in hash order.

use std::fmt::Write;

use super::utf8;
use crate::{Dict, Value};

/// The text of `value` on one line.
pub fn to_string(value: &Value) -> String {
    let mut writer = Writer { out: String::new(), indent: None };
    writer.value(value);
    writer.out
}

/// The text of `value` with one element a line, each level indented by four blanks. No newline at the end.
pub fn to_string_pretty(value: &Value) -> String {
    let mut writer = Writer { out: String::new(), indent: Some(0) };
    writer.value(value);
    writer.out
}

/// Members in the order they are written, which is also the order in which QEMU judges them.
pub fn wire_order(dict: &Dict) -> Vec<(&str, &Value)> {
    let mut order: Vec<_> =
        dict.iter().enumerate().map(|(i, (k, v))| (bucket(k), usize::MAX - i, k, v)).collect();
    order.sort_unstable_by_key(|&(bucket, newest_first, ..)| (bucket, newest_first));
    order.into_iter().map(|(_, _, key, value)| (key, value)).collect()
}

/// Number of buckets in the table whose iteration order members are written in.
const BUCKETS: u32 = 512;

/// Bucket of a key.
fn bucket(key: &str) -> u32 {
    // Lengths above 4 GiB cannot be; wrapping is the hash's own arithmetic.
    let mut hash = 0x238F_13AFu32.wrapping_mul(key.len() as u32);
    for (i, byte) in key.bytes().enumerate() {
        hash = hash.wrapping_add(u32::from(byte) << (i * 5 % 24));
    }
    hash.wrapping_mul(1_103_515_243).wrapping_add(12345) % BUCKETS
}

struct Writer {
    out: String,
    /// Depth of nesting; `None` writes one line.
    indent: Option<usize>,
}

impl Writer {
    fn value(&mut self, value: &Value) {
        // Writing to a string cannot fail.
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(b) => self.out.push_str(if *b { "true" } else { "false" }),
            Value::Int(i) => _ = write!(self.out, "{i}"),
            Value::UInt(u) => _ = write!(self.out, "{u}"),
            Value::Double(d) => double(&mut self.out, *d),
            Value::String(s) => self.string(s),
            Value::List(list) => {
                self.open('[');
                for (i, element) in list.iter().enumerate() {
                    self.separate(i);
                    self.value(element);
                }
                self.close(']');
            }
            Value::Dict(dict) => self.dict(dict),
            Value::Written(text) if self.indent.is_none() => self.out.push_str(text),
            Value::Written(text) => self.value(&super::parse(text).expect("it was written from a value")),
        }
    }

    fn dict(&mut self, dict: &Dict) {
        self.open('{');
        for (i, (key, value)) in wire_order(dict).into_iter().enumerate() {
            self.separate(i);
            self.string(key);
            self.out.push_str(": ");
            self.value(value);
        }
        self.close('}');
    }

    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
        if let Some(depth) = &mut self.indent {
            *depth += 1;
        }
    }

    fn close(&mut self, bracket: char) {
        if let Some(depth) = &mut self.indent {
            *depth -= 1;
            self.newline();
        }
        self.out.push(bracket);
    }

    /// What stands before element `index`.
    fn separate(&mut self, index: usize) {
        if index > 0 {
            self.out.push_str(if self.indent.is_some() { "," } else { ", " });
        }
        self.newline();
    }

    fn newline(&mut self) {
        if let Some(depth) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n("    ", depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                ' '..='~' => self.out.push(c),
                _ => {
                    let c = utf8::character(c.into()).unwrap_or(char::REPLACEMENT_CHARACTER);
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(self.out, "\\u{unit:04X}");
                    }
                }
            }
        }
        self.out.push('"');
    }
}

/// `%.17g`: 17 significant digits, trailing zeros dropped, an exponent below 10^-4 and from 10^17.
fn double(out: &mut String, d: f64) {
    if !d.is_finite() {
        out.push_str(if d.is_nan() {
            "nan"
        } else if d > 0.0 {
            "inf"
        } else {
            "-inf"
        });
        return;
    }
    let text = format!("{d:.16e}");
    let (mantissa, exponent) = text.split_once('e').expect("exponential format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let digits = mantissa.replace('.', "");
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    out.push_str(sign);
    let point = |out: &mut String, head: &str, tail: &str| {
        out.push_str(head);
        if !tail.is_empty() {
            out.push('.');
            out.push_str(tail);
        }
    };
    match exponent {
        ..-4 | 17.. => {
            point(out, &digits[..1], &digits[1..]);
            _ = write!(out, "e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
        }
        -4..0 => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', exponent.unsigned_abs() as usize - 1));
            out.push_str(digits);
        }
        0..17 => {
            let whole = exponent as usize + 1;
            let padded = format!("{digits:0<whole$}");
            point(out, &padded[..whole], &padded[whole..]);
        }
    }
}
