//! Commands on network devices and their host ends.

use qapi::{Dict, Result, Value};

use super::args::Kind;
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, items, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "netdev_add",
        &[("netdev", Kind::Options)],
        "[tap|dgram],id=str[,prop=value][,...]",
        "add host network device",
        &[Source::Names(&["tap", "dgram"])],
        |x, a| {
            let arguments = Dict::new().with("options", a.word("netdev"));
            let reply = x.execute("x-pliant-netdev-add-text", arguments)?;
            Ok(text(&reply, "human-readable-text").to_owned())
        },
    ),
    command(
        "netdev_del",
        &[("id", Kind::Word)],
        "id",
        "remove host network device",
        &[Source::Found(netdevs)],
        |x, a| x.execute("netdev_del", Dict::new().with("id", a.word("id"))).map(|_| String::new()),
    ),
    command(
        "set_link",
        &[("name", Kind::Word), ("up", Kind::Switch)],
        "name on|off",
        "change the link status of a network adapter",
        &[Source::Found(clients), Source::Names(&["on", "off"])],
        |x, a| {
            let arguments = Dict::new().with("name", a.word("name")).with("up", a.flag("up"));
            x.execute("set_link", arguments).map(|_| String::new())
        },
    ),
];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] =
    &[command("network", &[], "", "show the network state", &[], |x, _| network(x))];

fn network(x: &dyn Execute) -> Result<String> {
    let reply = x.query("x-pliant-query-network")?;
    // There is one queue each.
    let line = |client: &Value| {
        let [name, kind, info] = ["name", "type", "info"].map(|key| text(client, key));
        format!("{name}: index=0,type={kind},{info}\n")
    };
    let lines = items(&reply).iter().map(|client| match peer(client) {
        Some(peer) => format!("{} \\ {}", line(client), line(peer)),
        None => line(client),
    });
    Ok(lines.collect())
}

fn peer(client: &Value) -> Option<&Value> {
    client.as_dict()?.get("peer")
}

/// Everything that has a link.
fn clients(x: &dyn Execute) -> Vec<String> {
    let reply = x.query("x-pliant-query-network").unwrap_or(Value::Null);
    let listed = items(&reply).iter().flat_map(|client| [Some(client), peer(client)]);
    listed.flatten().map(|client| text(client, "name").to_owned()).collect()
}

/// Host ends.
fn netdevs(x: &dyn Execute) -> Vec<String> {
    let reply = x.query("x-pliant-query-network").unwrap_or(Value::Null);
    let listed = items(&reply).iter().flat_map(|client| [Some(client), peer(client)]);
    let ends = listed.flatten().filter(|client| text(client, "type") != "nic");
    ends.map(|client| text(client, "name").to_owned()).collect()
}
