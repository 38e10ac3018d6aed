//! Commands on network devices and their host ends.

use qapi::{Dict, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, items, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "announce_self",
        &[("interfaces", Kind::OptionalWord), ("id", Kind::OptionalWord)],
        "[interfaces] [id]",
        "Trigger GARP/RARP announcements",
        &[Source::Found(cards), Source::Nothing],
        announce_self,
    ),
    command(
        "netdev_add",
        &[("netdev", Kind::Options)],
        "[user|tap|socket|stream|dgram|vde|bridge|hubport|netmap|vhost-user],id=str[,prop=value][,...]",
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

/// As often as after a migration.
fn announce_self(x: &dyn Execute, args: &Args) -> Result<String> {
    let mut arguments =
        Dict::new().with("initial", 50i64).with("max", 550i64).with("rounds", 5i64).with("step", 100i64);
    if let Some(names) = args.optional("interfaces") {
        arguments.insert("interfaces", names.split(',').map(Value::from).collect::<Vec<_>>());
    }
    if let Some(id) = args.optional("id") {
        arguments.insert("id", id);
    }
    x.execute("announce-self", arguments).map(|_| String::new())
}

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

/// Network devices.
fn cards(x: &dyn Execute) -> Vec<String> {
    let reply = x.query("x-pliant-query-network").unwrap_or(Value::Null);
    let listed = items(&reply).iter().filter(|client| text(client, "type") == "nic");
    listed.map(|client| text(client, "name").to_owned()).collect()
}

/// Host ends.
fn netdevs(x: &dyn Execute) -> Vec<String> {
    let reply = x.query("x-pliant-query-network").unwrap_or(Value::Null);
    let listed = items(&reply).iter().flat_map(|client| [Some(client), peer(client)]);
    let ends = listed.flatten().filter(|client| text(client, "type") != "nic");
    ends.map(|client| text(client, "name").to_owned()).collect()
}
