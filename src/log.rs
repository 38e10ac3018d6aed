//! The log: `-D FILE` and `-trace PATTERN`.
//!
//! Without `-trace` only warnings are logged. A pattern names modules (`memory`, `hw::virtio*`, `*`); what they do is
//! logged then, down to the details. This is the one thing that is process-wide.

use std::fs::File;
use std::sync::Mutex;

use qapi::{Error, Result};
use tracing::Level;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging.
///
/// # Errors
/// The file cannot be made.
pub(crate) fn init(file: Option<&str>, patterns: Vec<String>) -> Result<()> {
    if file.is_none() && patterns.is_empty() {
        return Ok(());
    }
    let writer = match file {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file = File::create(path)
                .map_err(|e| Error::generic(format!("could not open '{path}' for the log: {e}")))?;
            BoxMakeWriter::new(Mutex::new(file))
        }
    };
    let wanted = FilterFn::new(move |meta| {
        *meta.level() <= Level::WARN || patterns.iter().any(|p| matches(p, meta.target()))
    });
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer).with_filter(wanted);
    // A second initialisation (two machines in one process) keeps the first.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    Ok(())
}

/// Whether `pattern` fits `target`: literally, as a module above it, or with `*` for any run of characters.
fn matches(pattern: &str, target: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = target.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    match last {
        None => rest.is_empty() || rest.starts_with("::"),
        Some("") => true,
        Some(part) => rest.is_empty() || target.ends_with(part),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_fit_modules_and_what_is_below() {
        for (pattern, target, fits) in [
            ("memory", "memory::ram", true),
            ("memory", "memory", true),
            ("mem", "memory", false),
            ("mem*", "memory::ram", true),
            ("*", "anything", true),
            ("*ram", "memory::ram", true),
            ("*ram", "memory::ram::x", false),
            ("hw::*::msix", "hw::pci::msix", true),
        ] {
            assert_eq!(matches(pattern, target), fits, "{pattern} {target}");
        }
    }
}
