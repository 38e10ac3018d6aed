//! Names of the host's files.

use std::fs;
use std::path::Path;

/// Entries of a folder that are looked at: a folder of millions must not hold the machine up.
const MAX_ENTRIES: usize = 4096;

/// Paths that `typed` may become, folders with a slash behind. Hidden ones only when their dot is typed; none that would have
/// to be quoted.
pub(super) fn list(typed: &str) -> Vec<String> {
    let (folder, name) = typed.split_at(typed.rfind('/').map_or(0, |slash| slash + 1));
    let Ok(entries) = fs::read_dir(if folder.is_empty() { Path::new(".") } else { Path::new(folder) }) else {
        return Vec::new();
    };
    let path = |entry: fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        let is_plain = !file.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        let is_shown =
            is_plain && file.starts_with(name) && (!file.starts_with('.') || name.starts_with('.'));
        // Behind links, too.
        let slash = if is_shown && entry.path().is_dir() { "/" } else { "" };
        is_shown.then(|| format!("{folder}{file}{slash}"))
    };
    entries.take(MAX_ENTRIES).filter_map(Result::ok).filter_map(path).collect()
}
