//! `-smp`: how many vCPUs, and how they sit in sockets, dies, modules, cores and threads.

use qapi::{Error, Result};

use qom::options::Pairs;

/// A complete topology: the product of the levels is `maxcpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Smp {
    /// vCPUs present at start.
    pub(crate) cpus: u32,
    /// vCPUs there is room for.
    pub(crate) maxcpus: u32,
    pub(crate) sockets: u32,
    pub(crate) dies: u32,
    pub(crate) modules: u32,
    pub(crate) cores: u32,
    pub(crate) threads: u32,
}

const LEVELS: [&str; 5] = ["sockets", "dies", "modules", "cores", "threads"];
/// Levels that only other architectures have; 1 says nothing, more is refused.
const FOREIGN: [&str; 3] = ["drawers", "books", "clusters"];

/// Works out the topology; what is not given follows from what is, cores before sockets.
///
/// `prefer_sockets` is how machine types before 6.2 filled the gap.
///
/// # Errors
/// QEMU's.
pub(crate) fn parse(pairs: &Pairs, prefer_sockets: bool) -> Result<Smp> {
    let known = |k: &str| LEVELS.contains(&k) || FOREIGN.contains(&k) || k == "cpus" || k == "maxcpus";
    if let Some((key, _)) = pairs.iter().find(|(k, _)| !known(k)) {
        return Err(Error::generic(format!("Parameter 'smp.{key}' is unexpected")));
    }
    let get = |key: &str| -> Result<Option<u32>> {
        let Some((_, text)) = pairs.iter().find(|(k, _)| k == key) else { return Ok(None) };
        let bad = || Error::generic(format!("Parameter 'smp.{key}' expects integer"));
        let value: i64 = text.parse().map_err(|_| bad())?;
        match u32::try_from(value) {
            Ok(v) if v > 0 => Ok(Some(v)),
            _ => {
                Err(Error::generic("Invalid CPU topology: CPU topology parameters must be greater than zero"))
            }
        }
    };
    let (cpus, maxcpus) = (get("cpus")?, get("maxcpus")?);
    let [sockets, dies, modules, cores, threads] = LEVELS.map(get);
    for level in FOREIGN {
        if get(level)?.is_some_and(|n| n > 1) {
            return Err(Error::generic(format!("{level} > 1 not supported by this machine's CPU topology")));
        }
    }
    let mut smp = Smp {
        cpus: 0,
        maxcpus: 0,
        sockets: sockets?.unwrap_or(0),
        dies: dies?.unwrap_or(1),
        modules: modules?.unwrap_or(1),
        cores: cores?.unwrap_or(0),
        threads: threads?.unwrap_or(0),
    };
    fill(&mut smp, cpus, maxcpus, prefer_sockets);
    // Wide enough that no product of the levels can pass for a small one.
    let product = [smp.sockets, smp.dies, smp.modules, smp.cores, smp.threads]
        .iter()
        .fold(1u64, |n, level| n.saturating_mul(u64::from(*level)));
    smp.maxcpus = match maxcpus.or(cpus) {
        Some(n) => n,
        None => u32::try_from(product).map_err(|_| Error::generic("Invalid CPU topology: too many CPUs"))?,
    };
    smp.cpus = cpus.unwrap_or(smp.maxcpus);
    check(&smp, product)?;
    Ok(smp)
}

/// Fills in the levels that were not given.
fn fill(smp: &mut Smp, cpus: Option<u32>, maxcpus: Option<u32>, prefer_sockets: bool) {
    let Some(total) = maxcpus.or(cpus) else {
        for level in [&mut smp.sockets, &mut smp.cores, &mut smp.threads] {
            *level = (*level).max(1);
        }
        return;
    };
    let rest = |others: [u32; 4]| total / others.iter().fold(1u32, |n, o| n.saturating_mul(*o)).max(1);
    if prefer_sockets && smp.sockets == 0 {
        (smp.cores, smp.threads) = (smp.cores.max(1), smp.threads.max(1));
        smp.sockets = rest([smp.dies, smp.modules, smp.cores, smp.threads]);
    } else if smp.cores == 0 {
        (smp.sockets, smp.threads) = (smp.sockets.max(1), smp.threads.max(1));
        smp.cores = rest([smp.sockets, smp.dies, smp.modules, smp.threads]);
    } else if smp.sockets == 0 {
        smp.threads = smp.threads.max(1);
        smp.sockets = rest([smp.dies, smp.modules, smp.cores, smp.threads]);
    }
    if smp.threads == 0 {
        smp.threads = rest([smp.sockets, smp.dies, smp.modules, smp.cores]);
    }
}

fn check(smp: &Smp, product: u64) -> Result<()> {
    let hierarchy = format!(
        "sockets ({}) * dies ({}) * modules ({}) * cores ({}) * threads ({})",
        smp.sockets, smp.dies, smp.modules, smp.cores, smp.threads
    );
    if product != u64::from(smp.maxcpus) {
        return Err(Error::generic(format!(
            "Invalid CPU topology: product of the hierarchy must match maxcpus: {hierarchy} != maxcpus ({})",
            smp.maxcpus
        )));
    }
    if smp.maxcpus < smp.cpus {
        return Err(Error::generic(format!(
            "Invalid CPU topology: maxcpus must be equal to or greater than smp: {hierarchy} == maxcpus ({}) < smp_cpus ({})",
            smp.maxcpus, smp.cpus
        )));
    }
    Ok(())
}
