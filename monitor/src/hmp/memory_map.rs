//! `info memory-devices -m`: the blocks of each memory device as a map as wide as the terminal. Ours.

use std::fmt::Write as _;

use qapi::{Dict, Result, Value};

use super::{Execute, items, member, number, text};

/// Rows that a device takes at most: what has more blocks than cells in them shows several in each.
const ROWS: usize = 4;
/// Cells of a row on the narrowest screen.
const MIN_CELLS: usize = 8;

/// What a cell looks like.
struct Style {
    plugged: char,
    mixed: char,
    unplugged: char,
    /// Beyond the usable region.
    unusable: char,
    frame: char,
}

const ASCII: Style = Style { plugged: '#', mixed: '+', unplugged: '.', unusable: ' ', frame: '|' };
const UNICODE: Style =
    Style { plugged: '\u{2588}', mixed: '\u{2592}', unplugged: '\u{b7}', unusable: ' ', frame: '\u{2502}' };

/// The maps of all devices, and what the signs mean.
pub(super) fn draw(x: &dyn Execute) -> Result<String> {
    let screen = x.screen();
    let style = if screen.unicode { UNICODE } else { ASCII };
    // Two blanks, the address, a blank and two sides of the frame.
    let per_row = screen.columns.saturating_sub(2 + ADDRESS + 1 + 2).max(MIN_CELLS);
    let reply =
        x.execute("x-pliant-query-memory-map", Dict::new().with("cells", (per_row * ROWS).min(4096) as u64))?;
    let mut out = String::new();
    for device in items(&reply) {
        let id = text(device, "id");
        let name = if id.is_empty() { text(device, "qom-path") } else { id };
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "Memory device [virtio-mem]: \"{name}\"");
        rows(&mut out, device, per_row, &style);
        sizes(&mut out, device);
    }
    if !out.is_empty() {
        let Style { plugged, mixed, unplugged, unusable, .. } = style;
        let _ = writeln!(
            out,
            "'{plugged}' plugged  '{mixed}' partly  '{unplugged}' unplugged  '{unusable}' not usable yet"
        );
    }
    Ok(out)
}

/// Width of an address: `0x` and the digits of 2^48.
const ADDRESS: usize = 14;

fn rows(out: &mut String, device: &Value, per_row: usize, style: &Style) {
    let [base, region, usable, block] =
        ["memaddr", "region-size", "usable-size", "block-size"].map(|name| number(device, name));
    let cells = member(device, "cells").map(items).unwrap_or_default();
    let blocks = u128::from(region.div_ceil(block.max(1)));
    // As the reply has it: see its type.
    let start = |cell: usize| (cell as u128 * blocks / cells.len().max(1) as u128) as u64 * block;
    // Few blocks are drawn wide.
    let wide = (per_row / cells.len().max(1)).max(1);
    for (row, part) in cells.chunks((per_row / wide).max(1)).enumerate() {
        let first = row * (per_row / wide).max(1);
        let sign = |(at, state): (usize, &Value)| {
            let sign = match state.as_str() {
                Some("plugged") => style.plugged,
                Some("mixed") => style.mixed,
                _ if start(first + at) >= usable => style.unusable,
                _ => style.unplugged,
            };
            std::iter::repeat_n(sign, wide)
        };
        let line: String = part.iter().enumerate().flat_map(sign).collect();
        let address = format!("{:#x}", base.saturating_add(start(first)));
        let _ = writeln!(out, "  {address:>ADDRESS$} {frame}{line}{frame}", frame = style.frame);
    }
}

fn sizes(out: &mut String, device: &Value) {
    let of = |name: &str| size(number(device, name));
    let usable_end = number(device, "memaddr").saturating_add(number(device, "usable-size"));
    let _ = writeln!(out, "  plugged {} of {} requested", of("size"), of("requested-size"));
    let _ = writeln!(
        out,
        "  region {} in blocks of {}, usable {} up to {usable_end:#x}",
        of("region-size"),
        of("block-size"),
        of("usable-size")
    );
}

/// A size for people: at most one decimal, in the unit that leaves the fewest digits.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = (bytes.max(1).ilog2() / 10) as usize;
    let mut tenths = tenths(bytes, unit);
    // 1023.96 MiB is a GiB.
    if tenths >= 10_240 && unit + 1 < UNITS.len() {
        unit += 1;
        tenths = self::tenths(bytes, unit);
    }
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[unit]),
        rest => format!("{}.{rest} {}", tenths / 10, UNITS[unit]),
    }
}

/// Tenths of `1 << (10 * unit)`, rounded.
fn tenths(bytes: u64, unit: usize) -> u128 {
    let whole = 1u128 << (10 * unit);
    (u128::from(bytes) * 10 + whole / 2) / whole
}

#[cfg(test)]
mod tests {
    use qapi::json;

    use super::*;
    use crate::hmp::Screen;

    /// A machine with one device of a given map.
    struct Device {
        blocks: u64,
        usable: u64,
        states: fn(u64) -> &'static str,
        screen: Screen,
    }

    impl Execute for Device {
        fn execute(&self, command: &str, arguments: Dict) -> Result<Value> {
            assert_eq!(command, "x-pliant-query-memory-map");
            let asked = arguments.get("cells").and_then(Value::as_u64).unwrap();
            let cells = self.blocks.min(asked);
            let states: Vec<String> = (0..cells).map(|i| format!("\"{}\"", (self.states)(i))).collect();
            json::parse(&format!(
                r#"[{{"id": "vm0", "qom-path": "/machine/peripheral/vm0", "memaddr": 5368709120,
                    "region-size": {}, "usable-size": {}, "requested-size": 8388608, "size": 6291456,
                    "block-size": 2097152, "cells": [{}]}}]"#,
                self.blocks << 21,
                self.usable << 21,
                states.join(", ")
            ))
        }

        fn screen(&self) -> Screen {
            self.screen
        }
    }

    #[test]
    fn few_blocks_are_drawn_wide() {
        let states = |i| {
            ["plugged", "plugged", "plugged", "unplugged"].get(i as usize).copied().unwrap_or("unplugged")
        };
        let device = Device { blocks: 8, usable: 6, states, screen: Screen { columns: 45, unicode: false } };
        assert_eq!(
            draw(&device).unwrap(),
            "Memory device [virtio-mem]: \"vm0\"\n     0x140000000 |#########.........      |\n  \
             plugged 6 MiB of 8 MiB requested\n  region 16 MiB in blocks of 2 MiB, usable 12 MiB up to 0x140c00000\n\
             '#' plugged  '+' partly  '.' unplugged  ' ' not usable yet\n"
        );
    }

    #[test]
    fn many_blocks_take_four_rows_as_wide_as_the_screen() {
        let states = |i| {
            if i < 61 {
                "plugged"
            } else if i == 61 {
                "mixed"
            } else {
                "unplugged"
            }
        };
        for (columns, unicode) in [(80, false), (120, true), (80, true)] {
            let device =
                Device { blocks: 1 << 19, usable: 1 << 18, states, screen: Screen { columns, unicode } };
            let text = draw(&device).unwrap();
            let rows: Vec<&str> = text.lines().skip(1).take(4).collect();
            assert!(rows.iter().all(|row| row.chars().count() == columns), "{text}");
            let first = if unicode { "\u{2502}\u{2588}" } else { "|#" };
            assert!(
                rows[0].contains(first) && rows[2].ends_with(&format!("  {}", first.chars().next().unwrap())),
                "{text}"
            );
            assert!(rows[2].contains("0x8140000000"), "half a TiB behind the start: {text}");
        }
        let none = |_: &str, _: Dict| json::parse("[]");
        assert_eq!(draw(&none).unwrap(), "");
    }

    #[test]
    fn sizes_have_at_most_one_decimal() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (8 << 30, "8 GiB"),
            ((1 << 30) - 1, "1 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }
}
