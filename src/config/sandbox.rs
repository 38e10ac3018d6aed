//! `-sandbox`, as the classes of system calls that are denied.

use qapi::{Error, Result};
use qom::options::Options;

use crate::cli::Raw;

/// What is denied besides what no machine needs. Options add up: none takes back what another denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Denied {
    /// Calls that are there for old programs only.
    pub(crate) obsolete: bool,
    /// To become somebody else.
    pub(crate) elevate_privileges: bool,
    /// New processes; threads are none.
    pub(crate) spawn: bool,
    /// Priorities and processors of threads.
    pub(crate) resource_control: bool,
}

/// What the options say together; none if no option says `on`.
///
/// # Errors
/// QEMU's, with the option's prefix. Of an option that says `off` only the keys are looked at.
pub(crate) fn parse(list: &[Raw]) -> Result<Option<Denied>> {
    let mut all: Option<Denied> = None;
    for raw in list {
        let parsed = raw.options("enable");
        let one = denied(&parsed).map_err(|e| e.prefixed(&raw.prefix()))?;
        if let Some(one) = one {
            let before = all.unwrap_or_default();
            all = Some(Denied {
                obsolete: before.obsolete | one.obsolete,
                elevate_privileges: before.elevate_privileges | one.elevate_privileges,
                spawn: before.spawn | one.spawn,
                resource_control: before.resource_control | one.resource_control,
            });
        }
    }
    Ok(all)
}

fn denied(parsed: &Options) -> Result<Option<Denied>> {
    parsed.only(&["enable", "obsolete", "elevateprivileges", "spawn", "resourcecontrol"])?;
    if parsed.flag("enable")? != Some(true) {
        return Ok(None);
    }
    let class = |key: &str, denied: bool, more: &str| match parsed.get(key) {
        None => Ok(denied),
        Some("allow") => Ok(false),
        Some("deny") => Ok(true),
        Some(value) if value == more => Ok(true),
        Some(_) => Err(Error::generic(format!("invalid argument for {key}"))),
    };
    Ok(Some(Denied {
        obsolete: class("obsolete", true, "deny")?,
        // Programs that are started never gain privileges, so that `children` denies no less than `deny`.
        elevate_privileges: class("elevateprivileges", false, "children")?,
        spawn: class("spawn", false, "deny")?,
        resource_control: class("resourcecontrol", false, "deny")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(texts: &[&str]) -> std::result::Result<Option<Denied>, String> {
        let raw = |text: &&str| Raw { option: "-sandbox", text: (*text).to_owned() };
        parse(&texts.iter().map(raw).collect::<Vec<_>>()).map_err(|e| e.desc().to_owned())
    }

    #[test]
    fn what_is_denied_adds_up() {
        assert_eq!(said(&[]), Ok(None));
        for off in ["off", "spawn=deny", "off,spawn=maybe", "enable=off"] {
            assert_eq!(said(&[off]), Ok(None), "{off}");
        }
        let plain = Denied { obsolete: true, ..Denied::default() };
        assert_eq!(said(&["on"]), Ok(Some(plain)));
        assert_eq!(said(&["on,obsolete=allow"]), Ok(Some(Denied::default())));
        let more = Denied { spawn: true, elevate_privileges: true, ..plain };
        assert_eq!(said(&["on,elevateprivileges=children", "off", "on,spawn=deny"]), Ok(Some(more)));
        let all = Denied { resource_control: true, ..more };
        let libvirt = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        assert_eq!(said(&[libvirt, "on,spawn=allow"]), Ok(Some(all)));
    }

    #[test]
    fn mistakes_are_answered_as_by_qemu() {
        for (text, error) in [
            ("on,spawn=maybe", "invalid argument for spawn"),
            ("on,spawn=children", "invalid argument for spawn"),
            ("on,elevateprivileges=x", "invalid argument for elevateprivileges"),
            ("on,obsolete=x", "invalid argument for obsolete"),
            ("on,resourcecontrol=on", "invalid argument for resourcecontrol"),
            ("on,foo=1", "Invalid parameter 'foo'"),
            ("maybe", "Parameter 'enable' expects 'on' or 'off'"),
        ] {
            assert_eq!(said(&[text]), Err(format!("-sandbox {text}: {error}")));
        }
    }
}
