//! `-overcommit`: whether the memory of the process is locked.

use qapi::{Error, Result};

use crate::cli::Raw;

/// Which pages are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemLock {
    /// All of them, which takes them at once.
    All,
    /// Those that are in use, once they are.
    OnFault,
}

/// What the options say together; what is said later counts.
///
/// # Errors
/// QEMU's, with the option's prefix; and that idle vCPUs cannot keep their processor (`cpu-pm=on`).
pub(crate) fn parse(list: &[Raw]) -> Result<Option<MemLock>> {
    let mut lock = None;
    for raw in list {
        let parsed = raw.options(None);
        let at = |e: Error| e.prefixed(&raw.prefix());
        parsed.only(&["mem-lock", "cpu-pm"]).map_err(at)?;
        match parsed.get("mem-lock") {
            None => {}
            Some("off") => lock = None,
            Some("on") => lock = Some(MemLock::All),
            Some("on-fault") => lock = Some(MemLock::OnFault),
            Some(_) => {
                let wanted = "parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'";
                return Err(at(Error::generic(wanted)));
            }
        }
        if parsed.flag("cpu-pm").map_err(at)? == Some(true) {
            return Err(at(Error::generic("cpu-pm=on is not supported")));
        }
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(texts: &[&str]) -> std::result::Result<Option<MemLock>, String> {
        let raw = |text: &&str| Raw { option: "-overcommit", text: (*text).to_owned() };
        parse(&texts.iter().map(raw).collect::<Vec<_>>()).map_err(|e| e.desc().to_owned())
    }

    #[test]
    fn the_last_word_counts_and_every_mistake_does() {
        assert_eq!(said(&[]), Ok(None));
        assert_eq!(said(&["mem-lock=on", "cpu-pm=off"]), Ok(Some(MemLock::All)));
        assert_eq!(said(&["mem-lock=on", "mem-lock=on-fault"]), Ok(Some(MemLock::OnFault)));
        assert_eq!(said(&["mem-lock=on", "mem-lock=off"]), Ok(None));
        let wanted = "parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'";
        for (text, error) in [
            ("mem-lock=bad", wanted),
            ("mem-lock=", wanted),
            ("cpu-pm=x", "Parameter 'cpu-pm' expects 'on' or 'off'"),
            ("foo=1", "Invalid parameter 'foo'"),
            ("cpu-pm=on", "cpu-pm=on is not supported"),
        ] {
            assert_eq!(said(&[text, "mem-lock=off"]), Err(format!("-overcommit {text}: {error}")));
        }
    }
}
