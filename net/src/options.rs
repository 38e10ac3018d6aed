//! `-netdev` and the console's `netdev_add`: text to [`Netdev`].

use qapi::types::{NetClientDriver, Netdev};
use qapi::visit::{Enum as _, Path};
use qapi::{Dict, Error, FromValue as _, Result, Value, json};
use qom::Input;
use qom::options::{self, Pairs, invalid_parameter, keyval};

/// What there is to print, if a text as behind `-netdev` asks which kinds there are.
pub fn help(text: &str) -> Option<String> {
    matches!(parse(text), Ok(Written::Help)).then(kinds)
}

/// The kinds there are.
pub(crate) fn kinds() -> String {
    let lines: String = NetClientDriver::NAMES.iter().map(|kind| format!("{kind}\n")).collect();
    format!("Available netdev backend types:\n{lines}")
}

/// What a tap interface takes, as the command line has it; the others' keys have dots.
const TAP_KEYS: [&str; 17] = [
    "br",
    "downscript",
    "fd",
    "fds",
    "helper",
    "id",
    "ifname",
    "poll-us",
    "queues",
    "script",
    "sndbuf",
    "type",
    "vhost",
    "vhostfd",
    "vhostfds",
    "vhostforce",
    "vnet_hdr",
];

/// What a text says.
#[derive(Debug)]
pub(crate) enum Written {
    /// A netdev, and the short forms in its text: the word, and what it is short for.
    Netdev(Box<Netdev>, Pairs),
    /// It asks which kinds there are.
    Help,
}

/// Reads a text: JSON, or a list whose first word is the type.
///
/// # Errors
/// QEMU's texts.
pub(crate) fn parse(text: &str) -> Result<Written> {
    if text.starts_with('{') {
        let value = json::parse(text)?;
        return Netdev::from_value(value, &Path::ROOT)
            .map(|netdev| Written::Netdev(Box::new(netdev), Pairs::new()));
    }
    let list = options::options(text, Some("type"));
    if list.help || list.get("type").is_some_and(|kind| matches!(kind, "help" | "?")) {
        return Ok(Written::Help);
    }
    let is_list = list.get("type") != Some("dgram");
    let pairs = if is_list { list.pairs } else { keyval(text, Some("type"))?.pairs };
    let mut dict = Dict::new();
    for (key, value) in &pairs {
        let mut keys = key.split('.').peekable();
        put(&mut dict, &mut keys, value)?;
    }
    let unknown = pairs.iter().find(|(key, _)| is_list && !TAP_KEYS.contains(&key.as_str()));
    let netdev = Netdev::from_value(dict.into(), &Path::ROOT);
    match (netdev, unknown) {
        // The one complaint that lists word otherwise.
        (Err(error), Some((key, _))) if error.desc().ends_with("is unexpected") => {
            Err(invalid_parameter(key))
        }
        (Err(error), _) => Err(error),
        (Ok(netdev), _) => {
            Ok(Written::Netdev(Box::new(netdev), if is_list { list.short_form } else { Pairs::new() }))
        }
    }
}

/// Puts a value where its keys say, typed as members of that name are.
fn put<'k>(
    dict: &mut Dict,
    keys: &mut std::iter::Peekable<impl Iterator<Item = &'k str>>,
    text: &str,
) -> Result<()> {
    let Some(key) = keys.next() else { return Ok(()) };
    if keys.peek().is_none() {
        dict.insert(key, typed(key, text)?);
        return Ok(());
    }
    let mut inner = match dict.remove(key) {
        Some(Value::Dict(inner)) => inner,
        None => Dict::new(),
        Some(_) => return Err(Error::generic(format!("Parameters '{key}.*' used inconsistently"))),
    };
    put(&mut inner, keys, text)?;
    dict.insert(key, inner);
    Ok(())
}

fn typed(key: &str, text: &str) -> Result<Value> {
    let input = Input::Keyval(text);
    Ok(match key {
        "vnet_hdr" | "vhost" | "vhostforce" | "numeric" | "ipv4" | "ipv6" | "keep-alive" | "mptcp"
        | "abstract" | "tight" => input.to_bool(key)?.into(),
        "sndbuf" => input.to_size(key)?.into(),
        "queues" | "poll-us" | "to" => input.to_u64(key)?.into(),
        _ => Value::from(text),
    })
}

#[cfg(test)]
mod tests {
    use qapi::types::{NetdevType, SocketAddress};

    use super::*;

    fn error(text: &str) -> String {
        parse(text).unwrap_err().desc().to_owned()
    }

    fn netdev(text: &str) -> Netdev {
        match parse(text) {
            Ok(Written::Netdev(netdev, _)) => *netdev,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_and_json_say_the_same() {
        let list = netdev("tap,id=h,fd=30,vhost=off,sndbuf=1M");
        let json = netdev(r#"{"type":"tap","fd":"30","id":"h","vhost":false,"sndbuf":1048576}"#);
        assert_eq!(list, json);
        let list = netdev(
            "dgram,id=d,local.type=unix,local.path=/a,,b,remote.type=inet,remote.host=h,remote.port=7",
        );
        assert_eq!(list.id, "d");
        let NetdevType::Dgram(dgram) = list.type_ else { panic!() };
        assert!(matches!(dgram.local, Some(SocketAddress::Unix(unix)) if unix.path == "/a,b"));
        assert!(matches!(dgram.remote, Some(SocketAddress::Inet(inet)) if inet.port == "7"));
    }

    #[test]
    fn complaints_are_qemus() {
        for (text, complaint) in [
            ("foo,id=x", "Parameter 'type' does not accept value 'foo'"),
            ("user,id=x", "Parameter 'type' does not accept value 'user'"),
            ("tap", "Parameter 'id' is missing"),
            ("id=x", "Parameter 'type' is missing"),
            ("", "Parameter 'id' is missing"),
            ("tap,id=x,fd=99,bla=1", "Invalid parameter 'bla'"),
            ("tap,id=x,fd=99,vhost=bla", "Parameter 'vhost' expects 'on' or 'off'"),
            ("dgram,id=x,bla=1,local.type=fd,local.str=a", "Parameter 'bla' is unexpected"),
            ("dgram,id=x,local.type=unix", "Parameter 'local.path' is missing"),
            ("dgram,id=x,local.type=bla", "Parameter 'type' does not accept value 'bla'"),
            (r#"{"type":"tap","fd":99,"id":"h"}"#, "Invalid parameter type for 'fd', expected: string"),
            (r#"{"type":"tap","fd":"99"}"#, "Parameter 'id' is missing"),
            (r#"{"type":"tap","id":"h","bla":1}"#, "Parameter 'bla' is unexpected"),
        ] {
            assert_eq!(error(text), complaint, "{text}");
        }
        for text in ["help", "?", "help,id=x", "tap,help"] {
            assert!(matches!(parse(text), Ok(Written::Help)), "{text}");
        }
        let short = parse("tap,id=x,fd").unwrap();
        assert!(matches!(short, Written::Netdev(_, short) if short[0].1 == "fd=on"));
    }
}
