//! userfaultfd(2), missing mode: as much of it as is compared. The numbers are those of <linux/userfaultfd.h>.
#![expect(unsafe_code, reason = "userfaultfd has no safe interface among our dependencies")]

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::FromRawFd;

use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iowr_nr};

use super::host::{PAGE, Region};

const UFFDIO: u32 = 0xaa;
const API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

#[repr(C)]
#[derive(Default)]
struct ApiRequest {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Default)]
struct Span {
    start: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Default)]
struct ZeroPage {
    range: Span,
    mode: u64,
    zeroed: i64,
}

ioctl_iowr_nr!(UFFDIO_API, UFFDIO, 0x3f, ApiRequest);
ioctl_iowr_nr!(UFFDIO_REGISTER, UFFDIO, 0x00, Register);
ioctl_ior_nr!(UFFDIO_UNREGISTER, UFFDIO, 0x01, Span);
ioctl_iowr_nr!(UFFDIO_ZEROPAGE, UFFDIO, 0x04, ZeroPage);

/// A userfaultfd.
pub(crate) struct Faults(File);

impl Faults {
    /// # Errors
    /// `EPERM` for users who may not have one.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes flags only and makes a descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the descriptor is fresh and ours.
        let this = Self(unsafe { File::from_raw_fd(fd) });
        let mut request = ApiRequest { api: API, ..Default::default() };
        // SAFETY: the structure is the one that the request is declared with.
        done(unsafe { ioctl_with_mut_ref(&this.0, UFFDIO_API(), &mut request) })?;
        Ok(this)
    }

    fn span(region: &Region, range: &Range<u64>) -> Span {
        let (start, len) = region.place(range);
        Span { start, len }
    }

    /// From now on whoever touches a page that is not there waits for [`Faults::serve_one`].
    pub(crate) fn register(&self, region: &Region, range: &Range<u64>) -> io::Result<()> {
        let range = Self::span(region, range);
        let mut request = Register { range, mode: REGISTER_MODE_MISSING, ioctls: 0 };
        // SAFETY: as above; nothing in this process points into the region.
        done(unsafe { ioctl_with_mut_ref(&self.0, UFFDIO_REGISTER(), &mut request) })
    }

    pub(crate) fn unregister(&self, region: &Region, range: &Range<u64>) -> io::Result<()> {
        // SAFETY: as above.
        done(unsafe { ioctl_with_ref(&self.0, UFFDIO_UNREGISTER(), &Self::span(region, range)) })
    }

    /// Waits for a fault and answers it with the page of zeroes.
    pub(crate) fn serve_one(&self) -> io::Result<()> {
        // struct uffd_msg: the event, and for a page fault the address at 16.
        let mut message = [0; 32];
        (&self.0).read_exact(&mut message)?;
        let address = u64::from_ne_bytes(message[16..24].try_into().map_err(io::Error::other)?);
        if message[0] != EVENT_PAGEFAULT {
            return Err(io::Error::other("not a page fault"));
        }
        let range = Span { start: address & !(PAGE - 1), len: PAGE };
        let mut request = ZeroPage { range, ..Default::default() };
        // SAFETY: as above; the page is one that the kernel asked for.
        done(unsafe { ioctl_with_mut_ref(&self.0, UFFDIO_ZEROPAGE(), &mut request) })
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
