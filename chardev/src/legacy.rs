//! The short forms of `-serial`, `-parallel`, `-monitor`, `-qmp` and `-qtest`: `stdio`, `unix:PATH,server=on`, `mon:stdio`.

use qapi::{Error, Result};

use crate::options::{Backend, ChardevOptions, Keys};

/// What a short form asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Legacy {
    /// `none`: no device at all.
    None,
    /// `chardev:ID`: an existing device.
    Existing(String),
    /// A device to make.
    New(ChardevOptions),
    /// `mon:X`: a device to make, muxed, with a monitor on it besides its user.
    WithMonitor(ChardevOptions),
}

/// Parses a short form; the device gets the id `label` (`serial0`, `compat_monitor0`).
///
/// # Errors
///
/// `Some`: QEMU's message. `None`: QEMU says nothing of its own, only what the option's owner adds (`parse error: TEXT`,
/// `could not connect serial device to character backend 'TEXT'`).
pub fn parse_legacy(label: &str, text: &str) -> Result<Legacy, Option<Error>> {
    if text == "none" {
        return Ok(Legacy::None);
    }
    if let Some(id) = text.strip_prefix("chardev:") {
        return Ok(Legacy::Existing(id.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("mon:") {
        let mut options = parse_device(label, rest)?;
        options.mux = true;
        if let Backend::Stdio { signal } = &mut options.backend {
            // The terminal belongs to the guest now: Ctrl-C goes to it, Ctrl-A x ends the program.
            *signal = false;
        }
        return Ok(Legacy::WithMonitor(options));
    }
    parse_device(label, text).map(Legacy::New)
}

fn parse_device(label: &str, text: &str) -> Result<ChardevOptions, Option<Error>> {
    let plain = |backend| Ok(ChardevOptions::new(label, backend));
    match text {
        "null" => return plain(Backend::Null),
        "stdio" => return plain(Backend::Stdio { signal: true }),
        "pty" => return plain(Backend::Pty { path: None }),
        _ => {}
    }
    if let Some(path) = text.strip_prefix("pty:") {
        return plain(Backend::Pty { path: Some(path.to_owned()) });
    }
    if text == "vc" || text.starts_with("vc:") {
        return Keys::default().into_options(label.to_owned(), "vc").map_err(Some);
    }
    if let Some(path) = text.strip_prefix("file:") {
        return plain(Backend::File { path: path.to_owned(), append: false, input_path: None });
    }
    if let Some(path) = text.strip_prefix("pipe:") {
        return plain(Backend::Pipe { path: path.to_owned() });
    }
    if text.starts_with("/dev/parport") {
        return Keys::default().into_options(label.to_owned(), "parallel").map_err(Some);
    }
    if text.starts_with("/dev/") {
        return plain(Backend::Serial { path: text.to_owned() });
    }
    if let Some(rest) = text.strip_prefix("unix:") {
        return parse_unix(label, rest).map_err(Some);
    }
    for (prefix, extra) in [
        ("tcp:", None),
        ("telnet:", Some("telnet")),
        ("websocket:", Some("websocket")),
        ("tn3270:", Some("tn3270")),
    ] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return parse_tcp(label, rest, extra);
        }
    }
    if text.starts_with("udp:") {
        return Keys::default().into_options(label.to_owned(), "udp").map_err(Some);
    }
    Err(Some(Error::generic(format!("'{text}' is not a valid char driver"))))
}

fn parse_unix(label: &str, text: &str) -> Result<ChardevOptions> {
    let mut keys = Keys::default();
    let mut parts = split(text).into_iter();
    let path = parts.next().unwrap_or_default();
    if !path.is_empty() {
        keys.set("path", &path)?;
    }
    set_options(&mut keys, parts)?;
    keys.into_options(label.to_owned(), "socket")
}

fn parse_tcp(label: &str, text: &str, extra: Option<&str>) -> Result<ChardevOptions, Option<Error>> {
    let (address, options) =
        text.split_once(',').map_or((text, None), |(address, rest)| (address, Some(rest)));
    // A bracketed IPv6 address holds colons of its own.
    let split_at = match address.strip_prefix('[') {
        Some(rest) => rest.find("]:").map(|at| at + 2),
        None => address.find(':'),
    };
    let (host, port) = split_at.map(|at| (&address[..at], &address[at + 1..])).ok_or(None)?;
    if port.is_empty() {
        return Err(None);
    }
    let parse = || {
        let mut keys = Keys::default();
        keys.set("host", host)?;
        keys.set("port", port)?;
        if let Some(options) = options {
            set_options(&mut keys, split(options).into_iter())?;
        }
        if let Some(extra) = extra {
            keys.set(extra, "on")?;
        }
        keys.into_options(label.to_owned(), "socket")
    };
    parse().map_err(Some)
}

/// `key=value`, or `server` and `nowait` as older command lines wrote them.
fn set_options(keys: &mut Keys, parts: impl Iterator<Item = String>) -> Result<()> {
    for part in parts {
        match part.split_once('=') {
            Some((key, value)) => keys.set(key, value)?,
            None => match part.as_str() {
                "nowait" => keys.set("wait", "off")?,
                key => keys.set(key, "on")?,
            },
        }
    }
    Ok(())
}

/// Splits at commas; a doubled comma stands for one.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests;
