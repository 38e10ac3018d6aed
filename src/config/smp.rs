//! `-smp`: vCPUs and their topology, as they were written; the machine fills in what is missing.

use hw::core::SmpConfig;
use qapi::{Error, Result};
use qom::options::Pairs;

/// What `-smp` takes.
pub(crate) const KEYS: [&str; 7] = ["cpus", "sockets", "dies", "modules", "cores", "threads", "maxcpus"];
/// Levels that only other architectures have; 1 says nothing, more is refused.
const FOREIGN: [&str; 3] = ["drawers", "books", "clusters"];

/// Parses the pairs of `-smp`.
///
/// # Errors
/// QEMU's, without a prefix.
pub(crate) fn parse(pairs: &Pairs) -> Result<SmpConfig> {
    let mut smp = SmpConfig::default();
    for (key, text) in pairs {
        let bad = || Error::generic(format!("Parameter 'smp.{key}' expects integer"));
        let zero =
            || Error::generic("Invalid CPU topology: CPU topology parameters must be greater than zero");
        let value = || -> Result<u64> {
            // With a base, as `strtoll` reads it: 0x10 and 010 are numbers too.
            let value = qom::Input::Keyval(text).to_int(key, 64).map_err(|_| bad())?;
            u64::try_from(value).map_err(|_| zero())
        };
        let field = match key.as_str() {
            "cpus" => &mut smp.cpus,
            "sockets" => &mut smp.sockets,
            "dies" => &mut smp.dies,
            "modules" => &mut smp.modules,
            "cores" => &mut smp.cores,
            "threads" => &mut smp.threads,
            "maxcpus" => &mut smp.maxcpus,
            foreign if FOREIGN.contains(&foreign) => {
                match value()? {
                    0 => return Err(zero()),
                    1 => continue,
                    _ => {
                        return Err(Error::generic(format!(
                            "{foreign} > 1 not supported by this machine's CPU topology"
                        )));
                    }
                };
            }
            _ => return Err(Error::generic(format!("Parameter 'smp.{key}' is unexpected"))),
        };
        *field = Some(value()?);
    }
    Ok(smp)
}
