//! The ceiling of what a migration can reach: bytes go from one process's memory into fresh memory of another, with nothing done to them.
//!
//! `socket-copy unix|tcp CHANNELS BYTES` sends over that many connections at once, a thread for each at both ends, and prints how many
//! seconds passed from the first write until all had arrived. `socket-copy file PATH BYTES` writes memory into a file and has another
//! process read it, and prints both times. `benches/migration.py` runs it between the moves of machines.
//!
//! Memory is as a virtual machine's: private, and with large pages where the host likes to give them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use std::{env, thread};

/// Bytes of one call.
const PIECE: usize = 512 << 10;

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [kind @ ("unix" | "tcp"), channels, bytes] => send(kind, number(channels), number(bytes)),
        ["file", path, bytes] => file(path, number(bytes)),
        ["receive", kind, address, channels, bytes] => {
            receive(kind, address, number(channels), number(bytes))
        }
        ["read", path, bytes] => {
            let memory = fresh(number(bytes))?;
            let begin = Instant::now();
            take(&mut File::open(path)?, memory)?;
            say("read", begin);
            Ok(())
        }
        _ => panic!("usage: socket-copy unix|tcp CHANNELS BYTES, socket-copy file PATH BYTES"),
    }
}

fn number(word: &str) -> usize {
    word.parse().ok().filter(|number| *number > 0).expect("a number from 1 on")
}

/// A figure a line: its name, a tab, seconds.
fn say(name: &str, begin: Instant) {
    println!("{name}\t{:.6}", begin.elapsed().as_secs_f64());
}

/// Memory that nobody has touched.
fn fresh(bytes: usize) -> io::Result<&'static mut [u8]> {
    #[expect(unsafe_code, reason = "std has no memory with large pages")]
    // SAFETY: a new private mapping of that many bytes, readable as zeroes, that nothing else knows of and that stays until the end.
    unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let at = libc::mmap(std::ptr::null_mut(), bytes, access, kind | libc::MAP_NORESERVE, -1, 0);
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        libc::madvise(at, bytes, libc::MADV_HUGEPAGE);
        Ok(std::slice::from_raw_parts_mut(at.cast(), bytes))
    }
}

/// Memory with something in each page.
fn full(bytes: usize) -> io::Result<&'static mut [u8]> {
    let memory = fresh(bytes)?;
    memory.fill(0x5a);
    Ok(memory)
}

fn give(to: &mut File, memory: &[u8]) -> io::Result<()> {
    memory.chunks(PIECE).try_for_each(|piece| to.write_all(piece))
}

fn take(from: &mut File, memory: &mut [u8]) -> io::Result<()> {
    memory.chunks_mut(PIECE).try_for_each(|piece| from.read_exact(piece))
}

/// Starts this program again, in another part.
fn other(words: &[&str]) -> io::Result<Child> {
    Command::new(env::current_exe()?).args(words).stdin(Stdio::null()).spawn()
}

fn finish(mut child: Child) -> io::Result<()> {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("the other process: {status}"))) }
}

/// A part of memory for each channel.
fn share(bytes: usize, channels: usize) -> usize {
    bytes.div_ceil(channels)
}

fn send(kind: &str, channels: usize, bytes: usize) -> io::Result<()> {
    let memory: &[u8] = full(bytes)?;
    let (count, size) = (channels.to_string(), bytes.to_string());
    let receiver = |address: &str| other(&["receive", kind, address, &count, &size]);
    let all = 0..channels;
    let (child, mut streams) = if kind == "tcp" {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let child = receiver(&listener.local_addr()?.to_string())?;
        let streams = all.map(|_| Ok(file_of(listener.accept()?.0))).collect::<io::Result<Vec<_>>>()?;
        (child, streams)
    } else {
        let name = format!("pliant-bench-{}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let child = receiver(&name)?;
        let streams = all.map(|_| Ok(file_of(listener.accept()?.0))).collect::<io::Result<Vec<_>>>()?;
        (child, streams)
    };
    let begin = Instant::now();
    thread::scope(|scope| {
        let parts = memory.chunks(share(bytes, channels));
        let threads: Vec<_> = streams
            .iter_mut()
            .zip(parts)
            .map(|(stream, part)| scope.spawn(move || give(stream, part)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    streams[0].read_exact(&mut [0])?;
    say("seconds", begin);
    finish(child)
}

fn file_of(socket: impl Into<OwnedFd>) -> File {
    File::from(socket.into())
}

fn receive(kind: &str, address: &str, channels: usize, bytes: usize) -> io::Result<()> {
    let memory = fresh(bytes)?;
    let connect = |_| {
        Ok(if kind == "tcp" {
            file_of(TcpStream::connect(address)?)
        } else {
            file_of(UnixStream::connect_addr(&SocketAddr::from_abstract_name(address)?)?)
        })
    };
    let mut streams = (0..channels).map(connect).collect::<io::Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let parts = memory.chunks_mut(share(bytes, channels));
        let threads: Vec<_> = streams
            .iter_mut()
            .zip(parts)
            .map(|(stream, part)| scope.spawn(move || take(stream, part)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    // Connections are accepted in the order in which they were made.
    streams[0].write_all(&[0])
}

fn file(path: &str, bytes: usize) -> io::Result<()> {
    let memory: &[u8] = full(bytes)?;
    let begin = Instant::now();
    give(&mut File::create(path)?, memory)?;
    say("write", begin);
    finish(other(&["read", path, &bytes.to_string()])?)
}
