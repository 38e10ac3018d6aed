//! What there is to know of the virtual CPUs.

use qapi::{Result, Value};

use super::args::Args;
use super::command::{Command, command};
use super::{Execute, items, member, number, text};

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[
    command("cpus", &[], "", "show infos for each CPU", &[], cpus),
    command("hotpluggable-cpus", &[], "", "Show information about hotpluggable CPUs", &[], |x, _| {
        hotpluggable_cpus(x)
    }),
];

fn cpus(x: &dyn Execute, args: &Args) -> Result<String> {
    let chosen = args.cpu().and_then(|index| u64::try_from(index).ok()).unwrap_or(0);
    let reply = x.query("query-cpus-fast")?;
    let line = |c: &Value| {
        let index = number(c, "cpu-index");
        let mark = if index == chosen { '*' } else { ' ' };
        format!("{mark} CPU #{index}: thread_id={}\n", number(c, "thread-id"))
    };
    Ok(items(&reply).iter().map(line).collect())
}

fn hotpluggable_cpus(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-hotpluggable-cpus")?;
    let mut out = "Hotpluggable CPUs:\n".to_owned();
    for cpu in items(&reply) {
        out.push_str(&format!("  type: \"{}\"\n", text(cpu, "type")));
        out.push_str(&format!("  vcpus_count: \"{}\"\n", number(cpu, "vcpus-count")));
        if let Some(path) = member(cpu, "qom-path").and_then(Value::as_str) {
            out.push_str(&format!("  qom_path: \"{path}\"\n"));
        }
        out.push_str("  CPUInstance Properties:\n");
        for name in ["node-id", "socket-id", "die-id", "module-id", "core-id", "thread-id"] {
            if let Some(id) = member(cpu, "props").and_then(|p| member(p, name)).and_then(Value::as_i64) {
                out.push_str(&format!("    {name}: \"{id}\"\n"));
            }
        }
    }
    Ok(out)
}
