//! `info virtio` and its kin: what the virtio queries answer, as QEMU's console lays it out.

use std::fmt::Write as _;

use qapi::{Dict, Result, Value};

use super::args::{Args, Kind, Spec};
use super::command::{Command, command};
use super::complete::Source;
use super::{Execute, flag, items, member, number, text};

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[
    command("virtio", &[], "", "List all available virtio devices", &[], |x, _| list(x)),
    command(
        "virtio-status",
        &[("path", Kind::Word)],
        "path",
        "Display status of a given virtio device",
        &[Source::Found(paths)],
        status,
    ),
    command(
        "virtio-queue-status",
        QUEUE,
        "path queue",
        "Display status of a given virtio queue",
        &[Source::Found(paths)],
        queue_status,
    ),
    command(
        "virtio-queue-element",
        &[("path", Kind::Word), ("queue", Kind::Number), ("index", Kind::OptionalNumber)],
        "path queue [index]",
        "Display element of a given virtio queue",
        &[Source::Found(paths)],
        queue_element,
    ),
    command(
        "virtio-vhost-queue-status",
        QUEUE,
        "path queue",
        "Display status of a given vhost queue",
        &[Source::Found(paths)],
        vhost_queue_status,
    ),
];

/// Arguments that name a queue.
const QUEUE: &[Spec] = &[("path", Kind::Word), ("queue", Kind::Number)];

/// Paths of the devices.
fn paths(x: &dyn Execute) -> Vec<String> {
    let reply = x.query("x-query-virtio").unwrap_or(Value::Null);
    items(&reply).iter().map(|d| text(d, "path").to_owned()).collect()
}

pub(super) fn list(x: &dyn Execute) -> Result<String> {
    let reply = x.query("x-query-virtio")?;
    Ok(items(&reply).iter().map(|d| format!("{} [{}]\n", text(d, "path"), text(d, "name"))).collect())
}

pub(super) fn status(x: &dyn Execute, args: &Args) -> Result<String> {
    let path = args.word("path");
    let s = x.execute("x-query-virtio-status", Dict::new().with("path", path))?;
    // Writing to a String cannot fail, here and below.
    let vhost = member(&s, "vhost-dev");
    let elsewhere = if vhost.is_some() { "(vhost)" } else { "" };
    let mut out = format!("{path}:\n  device_name:             {} {elsewhere}\n", text(&s, "name"));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {:<24} {value}", format!("{name}:"));
    };
    let on = |name: &str| flag(&s, name).to_string();
    let bus = text(&s, "bus-name");
    line("device_id", number(&s, "device-id").to_string());
    line("vhost_started", on("vhost-started"));
    line("bus_name", if bus.is_empty() { "(null)" } else { bus }.to_owned());
    line("broken", on("broken"));
    line("disabled", on("disabled"));
    line("disable_legacy_check", on("disable-legacy-check"));
    line("started", on("started"));
    line("use_started", on("use-started"));
    line("start_on_kick", on("start-on-kick"));
    line("use_guest_notifier_mask", on("use-guest-notifier-mask"));
    line("vm_running", on("vm-running"));
    line("num_vqs", number(&s, "num-vqs").to_string());
    line("queue_sel", number(&s, "queue-sel").to_string());
    line("isr", number(&s, "isr").to_string());
    line("endianness", text(&s, "device-endian").to_owned());
    out.push_str("  status:\n");
    let status = member(&s, "status").unwrap_or(&Value::Null);
    all_bits(&mut out, status, "statuses");
    if let Some(unknown) = member(status, "unknown-statuses").and_then(Value::as_u64) {
        let _ = writeln!(out, "  unknown-statuses(0x{unknown:016x})");
    }
    for (title, name) in
        [("Guest", "guest-features"), ("Host", "host-features"), ("Backend", "backend-features")]
    {
        let _ = writeln!(out, "  {title} features:");
        let features = member(&s, name).unwrap_or(&Value::Null);
        all_bits(&mut out, features, "transports");
        bits(&mut out, features, "dev-features");
        if let Some(unknown) = member(features, "unknown-dev-features").and_then(Value::as_u64) {
            let _ = writeln!(out, "  unknown-features(0x{unknown:016x})");
        }
    }
    if let Some(vhost) = vhost {
        vhost_status(&mut out, vhost);
    }
    Ok(out)
}

/// What is known of a back end that serves the queues elsewhere.
fn vhost_status(out: &mut String, vhost: &Value) {
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(out, "\n  VHost:");
    for (title, name) in [
        ("nvqs:", "nvqs"),
        ("vq_index:", "vq-index"),
        ("max_queues:", "max-queues"),
        ("n_mem_sections:", "n-mem-sections"),
        ("n_tmp_sections:", "n-tmp-sections"),
        ("backend_cap:", "backend-cap"),
    ] {
        let _ = writeln!(out, "    {title:<15} {}", number(vhost, name));
    }
    let _ = writeln!(out, "    {:<15} {}", "log_enabled:", flag(vhost, "log-enabled"));
    let _ = writeln!(out, "    {:<15} {}", "log_size:", number(vhost, "log-size"));
    for (title, name) in [
        ("Features", "features"),
        ("Acked features", "acked-features"),
        ("Backend features", "backend-features"),
    ] {
        let _ = writeln!(out, "    {title}:");
        let features = member(vhost, name).unwrap_or(&Value::Null);
        all_bits(out, features, "transports");
        bits(out, features, "dev-features");
        if let Some(unknown) = member(features, "unknown-dev-features").and_then(Value::as_u64) {
            let _ = writeln!(out, "  unknown-features(0x{unknown:016x})");
        }
    }
    let _ = writeln!(out, "    Protocol features:");
    bits(out, member(vhost, "protocol-features").unwrap_or(&Value::Null), "protocols");
}

/// A list of decoded bits that has a line even if it is empty.
fn all_bits(out: &mut String, of: &Value, name: &str) {
    if member(of, name).is_none_or(|list| items(list).is_empty()) {
        out.push('\n');
    }
    bits(out, of, name);
}

/// A list of decoded bits, one a line.
fn bits(out: &mut String, of: &Value, name: &str) {
    let list: Vec<&str> =
        member(of, name).map(items).unwrap_or_default().iter().filter_map(Value::as_str).collect();
    if !list.is_empty() {
        let _ = writeln!(out, "\t{}", list.join(",\n\t"));
    }
}

/// Path and queue, as the queries want them.
fn queue(args: &Args) -> Dict {
    Dict::new().with("path", args.word("path")).with("queue", args.number("queue").unwrap_or(0))
}

fn queue_status(x: &dyn Execute, args: &Args) -> Result<String> {
    let s = x.execute("x-query-virtio-queue-status", queue(args))?;
    let mut out = format!("{}:\n", args.word("path"));
    // Writing to a String cannot fail, here and below.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {:<21} {value}", format!("{name}:"));
    };
    line("device_name", text(&s, "name").to_owned());
    line("queue_index", number(&s, "queue-index").to_string());
    line("inuse", number(&s, "inuse").to_string());
    line("used_idx", number(&s, "used-idx").to_string());
    line("signalled_used", number(&s, "signalled-used").to_string());
    line("signalled_used_valid", flag(&s, "signalled-used-valid").to_string());
    for (name, key) in [("last_avail_idx", "last-avail-idx"), ("shadow_avail_idx", "shadow-avail-idx")] {
        if let Some(index) = member(&s, key).and_then(Value::as_u64) {
            line(name, index.to_string());
        }
    }
    out.push_str("  VRing:\n");
    for (name, key) in [("num", "vring-num"), ("num_default", "vring-num-default"), ("align", "vring-align")]
    {
        let _ = writeln!(out, "    {:<13} {}", format!("{name}:"), number(&s, key));
    }
    for (name, key) in [("desc", "vring-desc"), ("avail", "vring-avail"), ("used", "vring-used")] {
        let _ = writeln!(out, "    {:<13} 0x{:016x}", format!("{name}:"), number(&s, key));
    }
    Ok(out)
}

fn queue_element(x: &dyn Execute, args: &Args) -> Result<String> {
    let mut arguments = queue(args);
    if let Some(index) = args.number("index") {
        arguments.insert("index", index);
    }
    let e = x.execute("x-query-virtio-queue-element", arguments)?;
    let descs = member(&e, "descs").map(items).unwrap_or_default().iter().map(|desc| {
        let flags: Vec<_> =
            member(desc, "flags").map(items).unwrap_or_default().iter().filter_map(Value::as_str).collect();
        let flags = if flags.is_empty() { String::new() } else { format!(" ({})", flags.join(", ")) };
        format!("        addr 0x{:x} len {}{flags}", number(desc, "addr"), number(desc, "len"))
    });
    let descs = descs.collect::<Vec<_>>().join(",\n");
    let mut out = format!(
        "{}:\n  device_name: {}\n  index:   {}\n  desc:\n    descs:\n{descs}\n",
        args.word("path"),
        text(&e, "name"),
        number(&e, "index")
    );
    for (ring, keys) in [("avail", ["flags", "idx", "ring"].as_slice()), ("used", &["flags", "idx"])] {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {ring}:");
        let ring = member(&e, ring).unwrap_or(&Value::Null);
        for key in keys {
            let _ = writeln!(out, "    {:<6} {}", format!("{key}:"), number(ring, key));
        }
    }
    Ok(out)
}

fn vhost_queue_status(x: &dyn Execute, args: &Args) -> Result<String> {
    let s = x.execute("x-query-virtio-vhost-queue-status", queue(args))?;
    let mut out = format!("{}:\n  {:<21} {} (vhost)\n", args.word("path"), "device_name:", text(&s, "name"));
    // Writing to a String cannot fail.
    for (name, key) in [("kick", "kick"), ("call", "call")] {
        let _ = writeln!(out, "  {:<21} {}", format!("{name}:"), number(&s, key));
    }
    let _ = writeln!(out, "  VRing:\n    {:<12} {}", "num:", number(&s, "num"));
    for part in ["desc", "avail", "used"] {
        let (phys, size) = (format!("{part}-phys"), format!("{part}-size"));
        let _ = writeln!(out, "    {:<12} 0x{:016x}", format!("{part}:"), number(&s, part));
        let _ = writeln!(out, "    {:<12} 0x{:016x}", format!("{part}_phys:"), number(&s, &phys));
        let _ = writeln!(out, "    {:<12} {}", format!("{part}_size:"), number(&s, &size));
    }
    Ok(out)
}
