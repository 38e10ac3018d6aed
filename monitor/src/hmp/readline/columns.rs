//! Lists of candidates in columns, as QEMU lays them out.

use super::text;

/// The candidates, in lines for a terminal of `columns` columns.
pub(super) fn list(candidates: &[String], columns: usize) -> String {
    let width = |candidate: &String| text::width(candidate.as_bytes());
    let longest = candidates.iter().map(width).max().unwrap_or(0);
    let columns = columns.max(10);
    let cell = (longest + 2).clamp(10, columns);
    let per_line = columns / cell;
    let mut out = String::new();
    for (i, candidate) in candidates.iter().enumerate() {
        out.push_str(candidate);
        out.extend(std::iter::repeat_n(' ', cell.saturating_sub(width(candidate))));
        if (i + 1) % per_line == 0 || i + 1 == candidates.len() {
            out.push_str("\r\n");
        }
    }
    out
}
