//! The ioctls of `/dev/net/tun` (linux/if_tun.h).
#![expect(unsafe_code, reason = "neither rustix nor the libc crate has these ioctls")]

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

use crate::host_end::Offloads;

const TUNGETFEATURES: libc::Ioctl = 0x8004_54cf;
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const TUNSETSNDBUF: libc::Ioctl = 0x4004_54d4;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

const TUN_F_CSUM: u32 = 1;
const TUN_F_TSO4: u32 = 2;
const TUN_F_TSO6: u32 = 4;
const TUN_F_TSO_ECN: u32 = 8;
const TUN_F_UFO: u32 = 0x10;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// Bytes of an interface's name, its final zero included.
pub(super) const NAME: usize = 16;

/// `struct ifreq`, as these ioctls use it.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    rest: [u8; 22],
}

/// An interface.
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) header: bool,
}

fn call<T>(fd: impl AsFd, request: libc::Ioctl, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: each request above reads or writes one object of the type that the functions below pass for it (an `int`, or a
    // `struct ifreq`, which has the size of `Request`), which is borrowed for the call. The descriptor is borrowed, too.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Whether interfaces of this system can have a header.
pub(super) fn can_have_header(tun: impl AsFd) -> bool {
    let mut features: libc::c_int = 0;
    call(tun, TUNGETFEATURES, &mut features).is_ok() && features & libc::c_int::from(IFF_VNET_HDR) != 0
}

/// Makes `tun` the interface `name`, or a new one.
pub(super) fn attach(tun: impl AsFd, name: &str, header: bool) -> Result<Interface, Errno> {
    let flags = IFF_TAP | IFF_NO_PI | if header { IFF_VNET_HDR } else { 0 };
    let mut request = Request { name: [0; NAME], flags, rest: [0; 22] };
    let short = &name.as_bytes()[..name.len().min(NAME - 1)];
    request.name[..short.len()].copy_from_slice(short);
    call(tun, TUNSETIFF, &mut request)?;
    Ok(request.interface())
}

/// Which interface it is.
pub(super) fn interface(tap: impl AsFd) -> Result<Interface, Errno> {
    let mut request = Request { name: [0; NAME], flags: 0, rest: [0; 22] };
    call(tap, TUNGETIFF, &mut request)?;
    Ok(request.interface())
}

impl Request {
    fn interface(&self) -> Interface {
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or_default();
        Interface { name: String::from_utf8_lossy(name).into_owned(), header: self.flags & IFF_VNET_HDR != 0 }
    }
}

/// Bytes on their way to the interface at most.
pub(super) fn set_send_buffer(tap: impl AsFd, bytes: libc::c_int) -> Result<(), Errno> {
    let mut bytes = bytes;
    call(tap, TUNSETSNDBUF, &mut bytes)
}

/// Bytes of the header.
pub(super) fn set_header_size(tap: impl AsFd, bytes: usize) -> Result<(), Errno> {
    let mut bytes = libc::c_int::try_from(bytes).map_err(|_| Errno::INVAL)?;
    call(tap, TUNSETVNETHDRSZ, &mut bytes)
}

/// What the interface may leave to us.
pub(super) fn set_offloads(tap: impl AsFd, offloads: Offloads) -> Result<(), Errno> {
    let Offloads { csum, tso4, tso6, ecn, ufo, uso4, uso6 } = offloads;
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    let segments = bit(tso4, TUN_F_TSO4)
        | bit(tso6, TUN_F_TSO6)
        | bit((tso4 || tso6) && ecn, TUN_F_TSO_ECN)
        | bit(ufo, TUN_F_UFO)
        | bit(uso4, TUN_F_USO4)
        | bit(uso6, TUN_F_USO6);
    // Nothing is segmented later whose checksum is not computed later.
    let flags = if csum { TUN_F_CSUM | segments } else { 0 };
    let argument = libc::c_ulong::from(flags);
    // SAFETY: the request takes its argument by value and touches no memory of ours; the descriptor is borrowed.
    let result = unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), TUNSETOFFLOAD, argument) };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}
