//! `info stats`: statistics by target, laid out as on QEMU's console.

use std::fmt::Write as _;

use qapi::{Dict, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::{Execute, items, member, number, text};

/// Its `info` sub-command.
pub(super) const INFOS: &[Command] = &[command(
    "stats",
    &[("target", Kind::Word), ("names", Kind::OptionalWord), ("provider", Kind::OptionalWord)],
    "target [names] [provider]",
    "show statistics for the given target (vm or vcpu); optionally filter byname (comma-separated list, or * for all) and provider",
    &[],
    stats,
)];

const TARGETS: [&str; 3] = ["vm", "vcpu", "cryptodev"];
const PROVIDERS: [&str; 2] = ["kvm", "cryptodev"];

fn stats(x: &dyn Execute, args: &Args) -> Result<String> {
    let target = args.word("target");
    if !TARGETS.contains(&target) {
        return Ok(format!("invalid stats target {target}\n"));
    }
    let provider = args.optional("provider");
    if let Some(other) = provider.filter(|provider| !PROVIDERS.contains(provider)) {
        return Ok(format!("invalid stats provider {other}\n"));
    }
    let schemas = match provider {
        Some(provider) => x.execute("query-stats-schemas", Dict::new().with("provider", provider))?,
        None => x.query("query-stats-schemas")?,
    };
    let mut filter = Dict::new().with("target", target);
    if target == "vcpu" {
        filter.insert("vcpus", vec![path_of_cpu(x, args.cpu())?]);
    }
    let names = args.optional("names").filter(|names| *names != "*");
    if names.is_some() || provider.is_some() {
        let request = |provider: &str| {
            let request = Dict::new().with("provider", provider);
            Value::from(match names {
                Some(names) => request.with("names", names.split(',').collect::<Vec<_>>()),
                None => request,
            })
        };
        let asked: Vec<Value> =
            PROVIDERS.iter().filter(|p| provider.is_none_or(|one| one == **p)).map(|p| request(p)).collect();
        filter.insert("providers", asked);
    }
    let mut out = String::new();
    for result in items(&x.execute("query-stats", filter)?) {
        let of = |schema: &&Value| {
            text(schema, "provider") == text(result, "provider") && text(schema, "target") == target
        };
        let Some(schema) = items(&schemas).iter().find(of) else { continue };
        if provider.is_none() {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "provider: {}", text(result, "provider"));
        }
        for stat in member(result, "stats").map_or(&[][..], items) {
            let described = member(schema, "stats").map_or(&[][..], items);
            if let Some(what) = described.iter().find(|what| text(what, "name") == text(stat, "name")) {
                line(&mut out, what, member(stat, "value").unwrap_or(&Value::Null));
            }
        }
    }
    Ok(out)
}

/// The path of the CPU that the console looks at; none is at the empty path.
fn path_of_cpu(x: &dyn Execute, index: Option<i64>) -> Result<String> {
    let cpus = x.query("query-cpus-fast")?;
    let index = index.unwrap_or(0).cast_unsigned();
    let cpu = items(&cpus).iter().find(|cpu| number(cpu, "cpu-index") == index);
    Ok(cpu.map_or("", |cpu| text(cpu, "qom-path")).to_owned())
}

fn line(out: &mut String, what: &Value, value: &Value) {
    let exponent = member(what, "exponent").and_then(Value::as_i64).unwrap_or(0);
    let unit = text(what, "unit");
    let _ = write!(out, "    {} ({}", text(what, "name"), text(what, "type"));
    if !unit.is_empty() || exponent != 0 {
        let _ = write!(out, ", {}", unit_text(unit, number(what, "base"), exponent));
    }
    if let Some(size) = member(what, "bucket-size").and_then(Value::as_u64) {
        let _ = write!(out, ", bucket size={size}");
    }
    out.push_str("): ");
    match value {
        Value::Bool(yes) => out.push_str(if *yes { "yes" } else { "no" }),
        Value::List(buckets) => {
            for (number, count) in (1..).zip(buckets) {
                let _ = write!(out, "[{number}]={} ", count.as_u64().unwrap_or(0));
            }
        }
        number => {
            let _ = write!(out, "{}", number.as_u64().unwrap_or(0));
        }
    }
    out.push('\n');
}

/// `ns`, `KiB`; what has no prefix is written as a power.
fn unit_text(unit: &str, base: u64, exponent: i64) -> String {
    let symbol = match unit {
        "seconds" => Some("s"),
        "bytes" => Some("B"),
        _ => None,
    };
    const DECIMAL: [&str; 13] = ["a", "f", "p", "n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let index = |list: &'static [&str], step: i64, first: i64| {
        (exponent % step == 0).then(|| list.get(usize::try_from(exponent / step - first).ok()?)).flatten()
    };
    let prefix = match (symbol, base) {
        (Some(_), 10) => index(&DECIMAL, 3, -6),
        (Some(_), 2) => index(&BINARY, 10, 0),
        _ => None,
    };
    match (symbol, prefix) {
        (Some(symbol), Some(prefix)) => format!("{prefix}{symbol}"),
        (Some(symbol), None) if exponent == 0 => symbol.to_owned(),
        (None, _) if exponent == 0 => unit.to_owned(),
        _ => format!("* {base}^{exponent} {unit}").trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_prefixes_where_there_are_any() {
        let cases = [
            ("seconds", 10, -9, "ns"),
            ("seconds", 0, 0, "s"),
            ("seconds", 10, -18, "as"),
            ("seconds", 10, -8, "* 10^-8 seconds"),
            ("seconds", 10, 21, "* 10^21 seconds"),
            ("bytes", 2, 10, "KiB"),
            ("bytes", 2, 12, "* 2^12 bytes"),
            ("bytes", 10, 3, "kB"),
            ("cycles", 0, 0, "cycles"),
            ("cycles", 10, 3, "* 10^3 cycles"),
            ("", 2, 20, "* 2^20"),
        ];
        for (unit, base, exponent, text) in cases {
            assert_eq!(unit_text(unit, base, exponent), text);
        }
    }
}
