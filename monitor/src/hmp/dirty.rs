//! How fast the guest writes memory, and limits on it.

use qapi::{Dict, Error, Result};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::{Execute, items, member, number, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "calc_dirty_rate",
        &[
            ("dirty_ring", Kind::Flag('r')),
            ("dirty_bitmap", Kind::Flag('b')),
            ("second", Kind::Long),
            ("sample_pages_per_GB", Kind::OptionalNumber),
        ],
        "[-r] [-b] second [sample_pages_per_GB]",
        "start a round of guest dirty rate measurement (using -r to\n\t\t\t specify dirty ring as the method of calculation \
         and\n\t\t\t -b to specify dirty bitmap as method of calculation)",
        &[],
        measure,
    ),
    command(
        "set_vcpu_dirty_limit",
        &[("dirty_rate", Kind::Long), ("cpu_index", Kind::OptionalLong)],
        "dirty_rate [cpu_index]",
        "set dirty page rate limit, use cpu_index to set limit\n\t\t\t\t\t on a specified virtual cpu",
        &[],
        limit,
    ),
    command(
        "cancel_vcpu_dirty_limit",
        &[("cpu_index", Kind::OptionalLong)],
        "[cpu_index]",
        "cancel dirty page rate limit, use cpu_index to cancel\n\t\t\t\t\t limit on a specified virtual cpu",
        &[],
        cancel,
    ),
];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[
    command("dirty_rate", &[], "", "show dirty rate information", &[], |x, _| rate(x)),
    command("vcpu_dirty_limit", &[], "", "show dirty page limit information of all vCPU", &[], |x, _| {
        limits(x)
    }),
];

fn measure(x: &dyn Execute, args: &Args) -> Result<String> {
    let seconds = args.number("second").unwrap_or(0);
    if seconds == 0 {
        return Ok("Incorrect period length specified!\n".to_owned());
    }
    let mode = match (args.flag("dirty_ring"), args.flag("dirty_bitmap")) {
        (true, true) => return Ok("Either dirty ring or dirty bitmap can be specified!\n".to_owned()),
        (true, false) => "dirty-ring",
        (false, true) => "dirty-bitmap",
        (false, false) => "page-sampling",
    };
    let mut arguments = Dict::new().with("calc-time", seconds).with("mode", mode);
    if let Some(pages) = args.number("sample_pages_per_GB") {
        arguments = arguments.with("sample-pages", pages);
    }
    x.execute("calc-dirty-rate", arguments)?;
    Ok(format!(
        "Starting dirty rate measurement with period {seconds} seconds\n[Please use 'info dirty_rate' to check results]\n"
    ))
}

fn rate(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-dirty-rate")?;
    let mode = text(&reply, "mode");
    let mut out = format!("Status: {}\n", text(&reply, "status"));
    out.push_str(&format!("Start Time: {} (ms)\n", number(&reply, "start-time")));
    if mode == "page-sampling" {
        out.push_str(&format!("Sample Pages: {} (per GB)\n", number(&reply, "sample-pages")));
    }
    out.push_str(&format!("Period: {} (sec)\nMode: {mode}\n", number(&reply, "calc-time")));
    if member(&reply, "dirty-rate").is_none() {
        out.push_str("Dirty rate: (not ready)\n");
        return Ok(out);
    }
    out.push_str(&format!("Dirty rate: {} (MB/s)\n", number(&reply, "dirty-rate")));
    if let Some(vcpus) = member(&reply, "vcpu-dirty-rate") {
        for vcpu in items(vcpus) {
            let (id, rate) = (number(vcpu, "id"), number(vcpu, "dirty-rate"));
            out.push_str(&format!("vcpu[{id}], Dirty rate: {rate} (MB/s)\n"));
        }
    }
    Ok(out)
}

fn limit(x: &dyn Execute, args: &Args) -> Result<String> {
    let limit = args.number("dirty_rate").unwrap_or(0);
    if limit < 0 {
        return Err(Error::generic(format!("invalid dirty page limit {limit}")));
    }
    let arguments = with_index(Dict::new().with("dirty-rate", limit), args);
    x.execute("set-vcpu-dirty-limit", arguments).map(|_| String::new())
}

fn cancel(x: &dyn Execute, args: &Args) -> Result<String> {
    x.execute("cancel-vcpu-dirty-limit", with_index(Dict::new(), args))?;
    Ok("[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n".to_owned())
}

fn with_index(arguments: Dict, args: &Args) -> Dict {
    match args.number("cpu_index") {
        Some(index) => arguments.with("cpu-index", index),
        None => arguments,
    }
}

fn limits(x: &dyn Execute) -> Result<String> {
    let reply = x.query("query-vcpu-dirty-limit")?;
    let line = |vcpu| {
        let (index, limit) = (number(vcpu, "cpu-index"), number(vcpu, "limit-rate"));
        format!(
            "vcpu[{index}], limit rate {limit} (MB/s), current rate {} (MB/s)\n",
            number(vcpu, "current-rate")
        )
    };
    let lines: String = items(&reply).iter().map(line).collect();
    Ok(if lines.is_empty() { "Dirty page limit not enabled!\n".to_owned() } else { lines })
}
