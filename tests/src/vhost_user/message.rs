//! A message of the protocol on the wire: three words of header, a body, descriptors (`docs/interop/vhost-user` of QEMU 10.0).

use std::io::{self, IoSlice, IoSliceMut, Read, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::Region;

/// Bytes of a header.
const HEADER: usize = 12;
/// Descriptors with one message.
const MAX_FDS: usize = 32;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// What a front end asks, by number, so that an unknown one is no error here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request(pub u32);

macro_rules! requests {
    ($($name:ident = $number:literal,)+) => {
        impl Request {
            $(#[doc = concat!("`VHOST_USER_", stringify!($name), "`")] pub const $name: Self = Self($number);)+
        }

        impl std::fmt::Debug for Request {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.0 {
                    $($number => f.write_str(stringify!($name)),)+
                    other => write!(f, "{other}"),
                }
            }
        }
    };
}

requests! {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    SET_BACKEND_REQ_FD = 21,
    GET_CONFIG = 24,
    SET_CONFIG = 25,
    GET_INFLIGHT_FD = 31,
    SET_INFLIGHT_FD = 32,
    RESET_DEVICE = 34,
    GET_MAX_MEM_SLOTS = 36,
    ADD_MEM_REG = 37,
    REM_MEM_REG = 38,
    GET_STATUS = 40,
    SET_STATUS = 39,
}

/// A message as it was read.
#[derive(Debug)]
pub struct Message {
    /// What is asked, or what is answered.
    pub request: Request,
    /// Version, REPLY, NEED_REPLY.
    pub flags: u32,
    /// What follows the header.
    pub body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Message {
    /// The answer to a request that is a word.
    pub fn answer(request: Request, value: u64) -> Self {
        Self { request, flags: VERSION | REPLY, body: value.to_ne_bytes().into(), fds: Vec::new() }
    }

    /// Whether the asker waits for a word that says how it went.
    pub fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// Whether it is an answer.
    pub(super) fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    /// The word of 64 bits at a place of the body, 0 where there is none.
    pub fn word(&self, at: usize) -> u64 {
        let bytes = self.body.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }

    /// The regions that the message names: those of a table, or the one that comes or goes.
    pub fn regions(&self) -> Vec<Region> {
        let (first, count) = match self.request {
            Request::SET_MEM_TABLE => (8, self.word(0) as u32 as usize),
            Request::ADD_MEM_REG | Request::REM_MEM_REG => (8, 1),
            _ => return Vec::new(),
        };
        let region =
            |at| Region { guest: self.word(at), size: self.word(at + 8), offset: self.word(at + 24) };
        (0..count).map(|index| region(first + 32 * index)).collect()
    }

    /// Reads the next message; nothing if the other side hung up.
    pub(super) fn read(socket: &UnixStream) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        let mut fds = Vec::new();
        let read = receive(socket.as_fd(), &mut header, &mut fds)?;
        if read == 0 {
            return Ok(None);
        }
        let mut rest = socket;
        rest.read_exact(&mut header[read..])?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut body = vec![0; word(8) as usize];
        rest.read_exact(&mut body)?;
        Ok(Some(Self { request: Request(word(0)), flags: word(4), body, fds }))
    }

    /// The bytes of it.
    pub fn bytes(&self) -> Vec<u8> {
        let header = [self.request.0, self.flags, self.body.len() as u32];
        [&header.map(u32::to_ne_bytes).concat()[..], &self.body].concat()
    }

    pub(super) fn write(&self, socket: &UnixStream) -> io::Result<()> {
        let bytes = self.bytes();
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(|fd| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "room for all descriptors");
        }
        let sent = sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        let mut rest = socket;
        rest.write_all(&bytes[sent..])
    }
}

/// Reads some bytes and the descriptors that come with them.
fn receive(socket: BorrowedFd<'_>, data: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(socket, &mut [IoSliceMut::new(data)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => {
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        fds.extend(rights);
                    }
                }
                return Ok(received.bytes);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
