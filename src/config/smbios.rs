//! `-smbios`, as [`SmbiosConfig`].

use std::fs;
use std::io::{ErrorKind, Read};

use hw::core::{SmbiosBios, SmbiosBoard, SmbiosConfig, uuid};
use qapi::{Error, Result};
use qom::options::{Options, invalid_parameter};

use crate::cli::Raw;

/// The highest number of a table that users may make.
const TYPE_MAX: u64 = 127;
/// Tables that QEMU can make, and we cannot.
const NOT_HERE: [u64; 3] = [8, 9, 41];
/// A table has no more texts.
const TEXTS_MAX: usize = 255;
/// Bytes that a text of a file has at most, so that one without an end is named.
const TEXT_MAX: usize = 16 << 20;

/// What the options say together.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Smbios {
    pub(crate) config: SmbiosConfig,
    /// The UUID that one of them gives the machine, and which one that is.
    pub(crate) uuid: Option<(usize, String)>,
}

/// Reads them. Of each field the last one counts; texts of type 11 add up.
///
/// # Errors
/// QEMU's texts, behind the option; and what is refused here.
pub(crate) fn parse(list: &[Raw]) -> Result<Smbios> {
    let mut all = Smbios::default();
    for (at, raw) in list.iter().enumerate() {
        let options = raw.options(None);
        let uuid = one(&options, &mut all.config).map_err(|e| e.prefixed(&raw.prefix()))?;
        all.uuid = uuid.map(|text| (at, text)).or(all.uuid);
    }
    Ok(all)
}

/// One option. Gives the UUID that it sets.
fn one(options: &Options, config: &mut SmbiosConfig) -> Result<Option<String>> {
    if options.get("file").is_some() {
        options.only(&["file"])?;
        return Err(Error::generic("tables from files are not supported"));
    }
    let Some(kind) = options.number("type")? else {
        return Err(Error::generic("Must specify type= or file="));
    };
    if options.help {
        return Err(invalid_parameter("help"));
    }
    match kind {
        0 => bios(options, config.bios.get_or_insert_default())?,
        1 => return system(options, config),
        2 => board(options, config.board.get_or_insert_default())?,
        3 => chassis(options, config)?,
        4 => processor(options, config)?,
        11 => oem(options, &mut config.oem)?,
        17 => memory(options, config)?,
        kind if NOT_HERE.contains(&kind) => {
            return Err(Error::generic(format!("SMBIOS type {kind} is not supported")));
        }
        kind if kind > TYPE_MAX => return Err(Error::generic("out of range!")),
        kind => return Err(Error::generic(format!("Don't know how to build fields for SMBIOS type {kind}"))),
    }
    Ok(None)
}

/// Where the value of each key belongs.
type Texts<'a> = [(&'static str, &'a mut Option<String>)];

/// Takes the texts, and refuses keys that are none of these, of `others` and `type`.
fn texts(options: &Options, texts: &mut Texts<'_>, others: &[&str]) -> Result<()> {
    for (key, _) in &options.pairs {
        if key != "type" && !others.contains(&key.as_str()) && texts.iter().all(|(known, _)| known != key) {
            return Err(invalid_parameter(key));
        }
    }
    for (key, field) in texts {
        if let Some(text) = options.get(key) {
            **field = Some(text.to_owned());
        }
    }
    Ok(())
}

fn bios(options: &Options, bios: &mut SmbiosBios) -> Result<()> {
    let SmbiosBios { vendor, version, date, release, uefi } = bios;
    let fields: &mut Texts<'_> = &mut [("vendor", vendor), ("version", version), ("date", date)];
    texts(options, fields, &["release", "uefi"])?;
    if let Some(text) = options.get("release") {
        let wrong = || Error::generic("Invalid release");
        let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
        // QEMU's reader stops where the number does.
        let minor = minor.split_once(|c: char| !c.is_ascii_digit()).map_or(minor, |(digits, _)| digits);
        *release = (major.parse().map_err(|_| wrong())?, minor.parse().map_err(|_| wrong())?);
    }
    *uefi = options.flag("uefi")?.unwrap_or(*uefi);
    Ok(())
}

fn system(options: &Options, config: &mut SmbiosConfig) -> Result<Option<String>> {
    let s = &mut config.system;
    let fields: &mut Texts<'_> = &mut [
        ("manufacturer", &mut s.manufacturer),
        ("product", &mut s.product),
        ("version", &mut s.version),
        ("serial", &mut s.serial),
        ("sku", &mut s.sku),
        ("family", &mut s.family),
    ];
    texts(options, fields, &["uuid"])?;
    let wrong = || Error::generic("Invalid UUID");
    let parse = |text| uuid::parse(text).map(|bytes| uuid::text(&bytes)).ok_or_else(wrong);
    options.get("uuid").map(parse).transpose()
}

fn board(options: &Options, b: &mut SmbiosBoard) -> Result<()> {
    let fields: &mut Texts<'_> = &mut [
        ("manufacturer", &mut b.manufacturer),
        ("product", &mut b.product),
        ("version", &mut b.version),
        ("serial", &mut b.serial),
        ("asset", &mut b.asset),
        ("location", &mut b.location),
    ];
    texts(options, fields, &[])
}

fn chassis(options: &Options, config: &mut SmbiosConfig) -> Result<()> {
    let c = &mut config.chassis;
    let fields: &mut Texts<'_> = &mut [
        ("manufacturer", &mut c.manufacturer),
        ("version", &mut c.version),
        ("serial", &mut c.serial),
        ("asset", &mut c.asset),
        ("sku", &mut c.sku),
    ];
    texts(options, fields, &[])
}

fn processor(options: &Options, config: &mut SmbiosConfig) -> Result<()> {
    let p = &mut config.processor;
    let fields: &mut Texts<'_> = &mut [
        ("sock_pfx", &mut p.socket),
        ("manufacturer", &mut p.manufacturer),
        ("version", &mut p.version),
        ("serial", &mut p.serial),
        ("asset", &mut p.asset),
        ("part", &mut p.part),
    ];
    texts(options, fields, &["max-speed", "current-speed", "processor-family", "processor-id"])?;
    let fast = |key| {
        let wide = |_| Error::generic("SMBIOS CPU speed is too large (> 65535)");
        options.number(key)?.map(|mhz| u16::try_from(mhz).map_err(wide)).transpose()
    };
    p.max_speed = fast("max-speed")?.or(p.max_speed);
    p.current_speed = fast("current-speed")?.or(p.current_speed);
    p.family = short(options, "processor-family")?.or(p.family);
    p.id = options.number("processor-id")?.or(p.id);
    Ok(())
}

fn memory(options: &Options, config: &mut SmbiosConfig) -> Result<()> {
    let m = &mut config.memory;
    let fields: &mut Texts<'_> = &mut [
        ("loc_pfx", &mut m.socket),
        ("bank", &mut m.bank),
        ("manufacturer", &mut m.manufacturer),
        ("serial", &mut m.serial),
        ("asset", &mut m.asset),
        ("part", &mut m.part),
    ];
    texts(options, fields, &["speed"])?;
    m.speed = short(options, "speed")?.unwrap_or(m.speed);
    Ok(())
}

fn oem(options: &Options, list: &mut Vec<String>) -> Result<()> {
    texts(options, &mut [], &["value", "path"])?;
    for (key, value) in &options.pairs {
        match key.as_str() {
            "value" => list.push(value.clone()),
            "path" => list.push(contents(value)?),
            _ => {}
        }
    }
    if list.len() > TEXTS_MAX {
        return Err(Error::generic(format!("there are more than {TEXTS_MAX} texts of SMBIOS type 11")));
    }
    Ok(())
}

/// The text in a file, which has no zeros.
fn contents(path: &str) -> Result<String> {
    let failed =
        |what: String| move |e: std::io::Error| Error::generic(format!("{what}: {}", qapi::strerror(&e)));
    let mut file = fs::File::open(path).map_err(failed(format!("Could not open '{path}'")))?;
    let (mut bytes, mut part) = (Vec::new(), vec![0; 0x1_0000]);
    // Part by part: a file such as /dev/zero has no end.
    loop {
        let read = match file.read(&mut part) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.map_err(failed(format!("Unable to read from {path}")))?,
        };
        let Some(read) = part.get(..read).filter(|read| !read.is_empty()) else { break };
        if read.contains(&0) {
            return Err(Error::generic(format!("NUL in OEM strings value in {path}")));
        }
        bytes.extend(read);
        if bytes.len() > TEXT_MAX {
            return Err(Error::generic(format!("{path} has more than {TEXT_MAX} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::generic(format!("{path} is not UTF-8")))
}

/// A number of 16 bits. QEMU cuts a longer one off.
fn short(options: &Options, key: &str) -> Result<Option<u16>> {
    let wide = |_| Error::generic(format!("Parameter '{key}' expects a number up to {}", u16::MAX));
    options.number(key)?.map(|number| u16::try_from(number).map_err(wide)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(texts: &[&str]) -> std::result::Result<Smbios, String> {
        let raw = |text: &&str| Raw { option: "-smbios", text: (*text).to_owned() };
        parse(&texts.iter().map(raw).collect::<Vec<_>>()).map_err(|e| e.desc().to_owned())
    }

    #[test]
    fn options_of_one_type_add_up_and_the_last_uuid_is_told_with_its_place() {
        let all = said(&[
            "type=1,serial=S,uuid=AAAAAAAA-2222-3333-4444-555555555555",
            "type=1,product=a,,b,serial=T",
            "type=0,release=12.34.5,uefi=yes",
            "type=0x11,speed=0xc80",
            "type=11,value=one,value=two",
            "type=11,value=three",
            "type=4,max-speed=65535,processor-id=-1",
        ])
        .unwrap();
        assert_eq!(all.uuid, Some((0, "aaaaaaaa-2222-3333-4444-555555555555".to_owned())));
        let SmbiosConfig { bios, system, board, oem, memory, processor, .. } = all.config;
        assert_eq!((system.serial.as_deref(), system.product.as_deref()), (Some("T"), Some("a,b")));
        let bios = bios.unwrap();
        assert_eq!((bios.release, bios.uefi, bios.vendor, board), ((12, 34), true, None, None));
        assert_eq!(oem, ["one", "two", "three"]);
        assert_eq!((memory.speed, processor.max_speed, processor.id), (3200, Some(65535), Some(u64::MAX)));
    }

    #[test]
    fn texts_of_files_have_lines_and_no_zeros() {
        let path = std::env::temp_dir().join(format!("pliant-smbios-{}", std::process::id()));
        let oem = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            let all = said(&[&format!("type=11,value=first,path={},value=last", path.display())]);
            fs::remove_file(&path).unwrap();
            all.map(|all| all.config.oem)
        };
        assert_eq!(oem(b"a line\nanother").unwrap(), ["first", "a line\nanother", "last"]);
        let zero =
            |error: String, path: &str| error.ends_with(&format!(": NUL in OEM strings value in {path}"));
        assert!(zero(oem(b"a\0b").unwrap_err(), &path.display().to_string()));
        assert!(zero(said(&["type=11,path=/dev/zero"]).unwrap_err(), "/dev/zero"));
    }

    #[test]
    fn mistakes_are_answered_as_by_qemu() {
        for (text, error) in [
            ("", "Must specify type= or file="),
            ("foo=bar", "Must specify type= or file="),
            ("type=x", "Parameter 'type' expects a number"),
            ("type=", "Parameter 'type' expects a number"),
            ("type=99", "Don't know how to build fields for SMBIOS type 99"),
            ("type=128", "out of range!"),
            ("type=0,release=x", "Invalid release"),
            ("type=0,release=1", "Invalid release"),
            ("type=0,release=1.x", "Invalid release"),
            ("type=0,uefi=maybe", "Parameter 'uefi' expects 'on' or 'off'"),
            ("type=0,vm=on", "Invalid parameter 'vm'"),
            ("type=1,uuid=xx", "Invalid UUID"),
            ("type=1,foo=bar", "Invalid parameter 'foo'"),
            ("type=1,help", "Invalid parameter 'help'"),
            ("type=4,max-speed=70000", "SMBIOS CPU speed is too large (> 65535)"),
            ("type=-1", "out of range!"),
            ("type=4,max-speed=-1", "SMBIOS CPU speed is too large (> 65535)"),
            (
                "type=4,processor-id=0x10000000000000000",
                "Value '0x10000000000000000' is too large for parameter 'processor-id'",
            ),
            ("type=4,processor-id=x", "Parameter 'processor-id' expects a number"),
            ("type=11,path=/nonexistent", "Could not open '/nonexistent': No such file or directory"),
            ("type=11,path=/tmp", "Unable to read from /tmp: Is a directory"),
            ("type=11,foo=1", "Invalid parameter 'foo'"),
            ("file=/x,type=1", "Invalid parameter 'type'"),
            // Ours.
            ("file=/x", "tables from files are not supported"),
            ("type=8", "SMBIOS type 8 is not supported"),
            ("type=17,speed=99999", "Parameter 'speed' expects a number up to 65535"),
        ] {
            assert_eq!(said(&[text]), Err(format!("-smbios {text}: {error}")), "{text}");
        }
        let many: Vec<&str> = vec!["type=11,value=a"; 256];
        assert!(said(&many[..255]).is_ok());
        assert!(said(&many).unwrap_err().contains("more than 255 texts"));
    }
}
