//! Samples, tables, and what the kernel says of its own memory.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// Durations of the same thing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Takes the time that `what` takes.
    pub(crate) fn time<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = what();
        self.add(begin.elapsed());
        result
    }

    fn quantile(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
    }
}

/// Median and the value that nine of ten stay below.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.pad("-");
        }
        f.pad(&format!("{} / {}", text(self.quantile(0.5)), text(self.quantile(0.9))))
    }
}

/// Three digits and a unit.
fn text(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    let (value, unit) = match micros {
        _ if micros < 1e3 => (micros, "µs"),
        _ if micros < 1e6 => (micros / 1e3, "ms"),
        _ => (micros / 1e6, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// Prints a table's title and head.
pub(crate) fn head(title: &str, columns: &[&str]) {
    println!("\n{title}\n");
    row(columns);
    row(&vec!["---"; columns.len()]);
}

/// Prints a row of a table.
pub(crate) fn row<T: fmt::Display>(cells: &[T]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.to_string()).collect();
    println!("| {} |", cells.join(" | "));
}

/// Kernel and process memory, KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Resident memory of this process.
    pub(crate) resident: i64,
    /// Its page tables.
    pub(crate) tables: i64,
    /// Page tables of guests, of the whole host.
    pub(crate) guest_tables: i64,
    /// What the kernel allocated in large pieces (reverse maps and bitmaps of slots), of the whole host.
    pub(crate) large: i64,
}

impl Usage {
    pub(crate) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            resident: field(&status, "VmRSS:"),
            tables: field(&status, "VmPTE:"),
            guest_tables: field(&meminfo, "SecPageTables:"),
            large: field(&meminfo, "VmallocUsed:"),
        }
    }

    /// What was added since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            resident: self.resident - before.resident,
            tables: self.tables - before.tables,
            guest_tables: self.guest_tables - before.guest_tables,
            large: self.large - before.large,
        }
    }
}

fn field(text: &str, name: &str) -> i64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Mappings of this process that begin in a range of addresses.
pub(crate) fn mappings(range: std::ops::Range<u64>) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let start = |line: &str| u64::from_str_radix(line.split_once('-')?.0, 16).ok();
    maps.lines().filter_map(start).filter(|start| range.contains(start)).count()
}
