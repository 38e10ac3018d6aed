//! A tap interface of the host: `/dev/net/tun`, or a descriptor of it that somebody else opened.
//!
//! Whoever runs programs for an interface (`script=`, `helper=`) can do so before; none is run here.
//!
//! `vhost=on` asks for packets to be carried by the kernel, which changes nothing but their speed. They are carried by this program all the
//! same, and it says so; `vhostforce=on`, which will have nothing else, is refused. libvirt asks for it wherever it can open `/dev/vhost-net`.

mod ioctl;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use chardev::fds::Fds;
use qapi::types::NetdevTapOptions;
use qapi::{Error, Result, strerror};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::HEADER;
use crate::host_end::{Header, HostEnd, Offloads};

const DEVICE: &str = "/dev/net/tun";

/// See the module.
pub(crate) struct Tap {
    fd: OwnedFd,
    header: Option<Header>,
}

fn failed(text: &str, errno: Errno) -> Error {
    Error::generic(format!("{text}: {}", strerror(&errno.into())))
}

/// Opens one; gives what `info network` says of it, too.
///
/// # Errors
/// QEMU's texts, and a sentence for what is not there.
pub(crate) fn open(id: &str, options: &NetdevTapOptions, fds: &Fds) -> Result<(Tap, String)> {
    check(options)?;
    let given = options.fd.as_ref().or(options.fds.as_ref());
    let (fd, interface, info) = match given {
        Some(text) => given_descriptor(id, text, fds)?,
        None => by_name(options)?,
    };
    let vhost = options.vhostfd.as_ref().or(options.vhostfds.as_ref());
    if let Some(text) = vhost {
        // Given away as the interface is; nobody is to find it open.
        drop(fds.parameter(id, text)?);
    }
    if options.vhost.unwrap_or(vhost.is_some()) {
        tracing::warn!("netdev {id}: there is no vhost-net: packets are carried by this program");
    }
    let bytes = options.sndbuf.filter(|bytes| *bytes > 0);
    let wanted = bytes.map_or(i32::MAX, |bytes| i32::try_from(bytes).unwrap_or(i32::MAX));
    match ioctl::set_send_buffer(&fd, wanted) {
        Err(errno) if bytes.is_some() => return Err(failed("TUNSETSNDBUF ioctl failed", errno)),
        _ => {}
    }
    let header = interface.header.then(|| probe(&fd)).transpose()?;
    Ok((Tap { fd, header }, info))
}

/// Refuses what does not go together, and what is not there.
fn check(options: &NetdevTapOptions) -> Result<()> {
    let NetdevTapOptions {
        ifname,
        fd,
        fds,
        script,
        downscript,
        br,
        helper,
        sndbuf: _,
        vnet_hdr,
        vhost,
        vhostfd,
        vhostfds,
        vhostforce,
        queues,
        poll_us,
    } = options;
    let refused = |text: String| Err(Error::generic(text));
    let named = ifname.is_some() || script.is_some() || downscript.is_some() || vnet_hdr.is_some();
    let opened_here = named || helper.is_some() || queues.is_some();
    if fd.is_some() && (opened_here || fds.is_some() || vhostfds.is_some()) {
        return refused(
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, and vhostfds= are invalid with fd=".into(),
        );
    }
    if fds.is_some() && (opened_here || vhostfd.is_some()) {
        return refused(
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid with fds="
                .into(),
        );
    }
    let only_vhost = [("vhostforce=on", *vhostforce == Some(true)), ("poll-us=", poll_us.is_some())];
    if let Some((what, _)) = only_vhost.iter().find(|(_, there)| *there) {
        return refused(format!("{what} is not supported: there is no vhost-net"));
    }
    if *vhost == Some(false) && (vhostfd.is_some() || vhostfds.is_some()) {
        return refused("vhostfd(s)= is not valid without vhost".into());
    }
    if helper.is_some() || br.is_some() {
        return refused(
            "helper= and br= are not supported: no program is run that opens an interface".into(),
        );
    }
    if queues.is_some_and(|count| count != 1)
        || [fds, vhostfds].into_iter().flatten().any(|list| list.contains(':'))
    {
        return refused("several queues are not supported: there is one".into());
    }
    if fd.is_none() && fds.is_none() {
        for (key, default, value) in
            [("script", "/etc/qemu-ifup", script), ("downscript", "/etc/qemu-ifdown", downscript)]
        {
            match value.as_deref() {
                Some("no" | "") => {}
                Some(program) => {
                    return refused(format!("{key}={program} is not supported: only {key}=no is"));
                }
                None => {
                    return refused(format!(
                        "{key}={default}, the default, is not supported: give {key}=no, or a descriptor with fd="
                    ));
                }
            }
        }
    }
    Ok(())
}

fn given_descriptor(id: &str, text: &str, fds: &Fds) -> Result<(OwnedFd, ioctl::Interface, String)> {
    let fd = fds.parameter(id, text)?;
    // As people know it: by the number that they gave, or that it has here.
    let number = text.parse().unwrap_or_else(|_| fd.as_raw_fd());
    let unusable = |errno| failed(&format!("{id}: Can't use file descriptor {number}"), errno);
    let flags = fcntl_getfl(&fd).map_err(unusable)?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(unusable)?;
    let query = |errno| failed(&format!("Unable to query TUNGETIFF on FD {number}"), errno);
    let interface = ioctl::interface(&fd).map_err(query)?;
    Ok((fd, interface, format!("fd={number}")))
}

fn by_name(options: &NetdevTapOptions) -> Result<(OwnedFd, ioctl::Interface, String)> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(DEVICE, flags, Mode::empty())
        .map_err(|errno| failed(&format!("could not open {DEVICE}"), errno))?;
    let name = options.ifname.as_deref().filter(|name| !name.is_empty()).unwrap_or("tap%d");
    let possible = ioctl::can_have_header(&fd);
    if options.vnet_hdr == Some(true) && !possible {
        return Err(Error::generic("vnet_hdr=1 requested, but no kernel support for IFF_VNET_HDR available"));
    }
    let header = options.vnet_hdr.unwrap_or(true) && possible;
    let interface = ioctl::attach(&fd, name, header).map_err(|errno| {
        let which = options.ifname.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
        failed(&format!("could not configure {DEVICE}{which}"), errno)
    })?;
    let info = format!("ifname={},script=no,downscript=no", interface.name);
    Ok((fd, interface, info))
}

/// Finds out what the system can do, and has headers be as long as ours.
fn probe(fd: &OwnedFd) -> Result<Header> {
    let on = Offloads { csum: true, ..Offloads::default() };
    let takes = |offloads| ioctl::set_offloads(fd, offloads).is_ok();
    let ufo = takes(Offloads { ufo: true, ..on });
    let uso = takes(Offloads { tso4: true, tso6: true, uso4: true, uso6: true, ..on });
    ioctl::set_header_size(fd, HEADER).map_err(|errno| failed("TUNSETVNETHDRSZ ioctl failed", errno))?;
    ioctl::set_offloads(fd, Offloads::default())
        .map_err(|errno| failed("TUNSETOFFLOAD ioctl failed", errno))?;
    Ok(Header { ufo, uso })
}

impl HostEnd for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn send(&self, packet: &[u8]) -> std::result::Result<(), Errno> {
        rustix::io::write(&self.fd, packet).map(drop)
    }

    fn receive(&self, room: &mut [u8]) -> std::result::Result<usize, Errno> {
        rustix::io::read(&self.fd, room)
    }

    fn is_broken(&self, error: Errno) -> bool {
        // Somebody deleted the interface.
        error == Errno::BADFD
    }

    fn header(&self) -> Option<Header> {
        self.header
    }

    fn set_offloads(&self, offloads: Offloads) {
        if self.header.is_some()
            && let Err(error) = ioctl::set_offloads(&self.fd, offloads)
            // Of an interface that is gone whoever reads from it tells.
            && !self.is_broken(error)
        {
            tracing::error!("TUNSETOFFLOAD ioctl() failed: {}", strerror(&error.into()));
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Interfaces as others open them.

    use super::*;

    /// A new interface `name` with headers.
    pub(crate) fn open(name: &str) -> std::result::Result<OwnedFd, Errno> {
        let fd = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        ioctl::attach(&fd, name, true)?;
        Ok(fd)
    }
}
