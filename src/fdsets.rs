//! `-add-fd`: descriptors that the program was started with go into sets.

use chardev::fds::{Fds, Inherited};
use qapi::{Error, Result};

use crate::cli::{Raw, short_form_warnings};
use crate::report::Reporter;

/// Highest number of standard input, output and error.
const STDERR: i64 = 2;

/// Puts every one into its set.
///
/// # Errors
/// QEMU's, with the option's prefix.
pub(crate) fn add(raws: &[Raw], fds: &Fds, report: &Reporter) -> Result<()> {
    let mut ids: Vec<String> = Vec::new();
    let mut list = Vec::new();
    for raw in raws {
        let one = parse(raw, &mut ids, report).map_err(|e| e.prefixed(&raw.prefix()))?;
        list.push(one);
    }
    let checked = raws.iter().zip(list).map(|(raw, one)| check(one).map_err(|e| e.prefixed(&raw.prefix())));
    let list = checked.collect::<Result<Vec<_>>>()?;
    fds.inherit(&list).map_err(|(at, e)| e.prefixed(&raws[at].prefix()))
}

/// What was written, before anything is done.
struct Parsed {
    fd: Option<i64>,
    set: Option<i64>,
    opaque: Option<String>,
}

fn parse(raw: &Raw, ids: &mut Vec<String>, report: &Reporter) -> Result<Parsed> {
    let options = raw.options(None);
    short_form_warnings(raw, &options).iter().for_each(|w| report.line(w));
    if let Some(id) = options.get("id") {
        if ids.iter().any(|known| known == id) {
            return Err(Error::generic(format!("Duplicate ID '{id}' for add-fd")));
        }
        ids.push(id.to_owned());
    }
    options.only(&["set", "fd", "opaque", "id"])?;
    let number = |key: &str| {
        let bad = || Error::generic(format!("Parameter '{key}' expects a number"));
        options.get(key).map(|text| text.parse().map_err(|_| bad())).transpose()
    };
    Ok(Parsed { fd: number("fd")?, set: number("set")?, opaque: options.get("opaque").map(str::to_owned) })
}

fn check(Parsed { fd, set, opaque }: Parsed) -> Result<Inherited> {
    let required = |name: &str| Error::generic(format!("{name} option is required and must be non-negative"));
    let fd = fd.filter(|fd| *fd >= 0).ok_or_else(|| required("fd"))?;
    if fd <= STDERR {
        return Err(Error::generic("fd cannot be a standard I/O stream"));
    }
    let set = set.filter(|set| *set >= 0).ok_or_else(|| required("set"))?;
    Ok(Inherited { fd, set, opaque })
}
