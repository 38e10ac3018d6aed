//! Getting a vCPU thread out of the guest: a signal whose handler sets `immediate_exit` (see the parent module).

#![expect(unsafe_code, reason = "signal handlers and the shared kvm_run page have no safe interface")]

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, unblock_signal};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs. Without destructor, so that the handler may use it any time.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_signal: libc::c_int) {
    let flag = IMMEDIATE_EXIT.with(Cell::get);
    if !flag.is_null() {
        // SAFETY: not null means that `Runner` on this very thread has it point into a mapped run page; `Runner`
        // clears it before the page goes. A byte store is async-signal-safe.
        unsafe { ptr::write_volatile(flag, 1) };
    }
}

/// Installs the handler for the whole process. Twice does no harm.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is valid: no flags, empty mask, and the handler is set below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_kick as extern "C" fn(libc::c_int) as usize;
    // KVM_RUN returns EINTR all the same; system calls of device callbacks go on.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` outlives the call and `on_kick` is async-signal-safe (see there).
    match unsafe { libc::sigaction(SIGRTMIN(), &action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Signals the thread of a vCPU. A thread that has ended is no error.
pub(crate) fn kick<T>(thread: &JoinHandle<T>) {
    let _ = thread.kill(SIGRTMIN());
}

/// A thread to signal, by the kernel's id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target(i32);

impl Target {
    /// The calling thread.
    pub(crate) fn this_thread() -> Self {
        Self(thread_id())
    }

    /// Signals the thread. One that has ended is no error.
    pub(crate) fn kick(self) {
        // SAFETY: plain integers; a thread id that is no longer ours makes the call fail.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, SIGRTMIN()) };
    }
}

/// The kernel's id of the calling thread.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: gettid has no arguments and cannot fail.
    unsafe { libc::gettid() }
}

/// `Kvm` of an opened device file; `Kvm::new` would lose why opening failed.
pub(crate) fn kvm_from_file(file: File) -> Kvm {
    // SAFETY: the descriptor is open and `into_raw_fd` gave it away; nobody else closes it. If it is no KVM device, its ioctls fail.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}

/// A vCPU bound to the calling thread, so that kicks reach it. Not `Send`: the binding is the thread's.
pub(crate) struct Runner {
    // Ends before the page is unmapped, which `fd` does.
    bound: Bound,
    pub(crate) fd: VcpuFd,
}

/// A kick on this thread finds a run page.
struct Bound(PhantomData<*mut u8>);

impl Runner {
    pub(crate) fn bind(mut fd: VcpuFd) -> Self {
        // Whoever created this thread may have blocked it.
        if let Err(error) = unblock_signal(SIGRTMIN()) {
            tracing::error!(%error, "cannot unblock the vCPU signal");
        }
        let run: *mut kvm_run = fd.get_kvm_run();
        // SAFETY: `run` points to a live kvm_run; taking a field's address reads nothing.
        let flag = unsafe { &raw mut (*run).immediate_exit };
        IMMEDIATE_EXIT.with(|cell| cell.set(flag));
        Self { bound: Bound(PhantomData), fd }
    }

    /// Gives the vCPU back, for another thread.
    pub(crate) fn unbind(self) -> VcpuFd {
        let Self { bound, fd } = self;
        drop(bound);
        fd
    }

    /// Makes the next `KVM_RUN` complete what the guest has started and return.
    pub(crate) fn request_exit(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
    }

    /// Forgets kicks so far. The caller reads its stop flag after this.
    pub(crate) fn forget_kicks(&mut self) {
        self.fd.set_kvm_immediate_exit(0);
        // The handler runs on this thread, so keeping the compiler from moving the store is enough.
        compiler_fence(Ordering::SeqCst);
    }

    /// Port, size of one element in bytes, whether the guest reads, and all elements of the port access that
    /// `KVM_RUN` returned with.
    pub(crate) fn port_access(&mut self) -> (u16, u8, bool, &mut [u8]) {
        let run = self.fd.get_kvm_run();
        // SAFETY: the caller got KVM_EXIT_IO, so the kernel filled this member; all its bit patterns are valid anyway.
        let io = unsafe { run.__bindgen_anon_1.io };
        let len = io.count as usize * usize::from(io.size);
        // SAFETY: for KVM_EXIT_IO the kernel gives the offset from the start of the run mapping to `count * size` bytes inside it,
        // mapped as long as `fd` lives; the result borrows `self`, and nobody else touches the page outside KVM_RUN.
        let data = unsafe {
            let start = ptr::from_mut(run).cast::<u8>().add(io.data_offset as usize);
            std::slice::from_raw_parts_mut(start, len)
        };
        (io.port, io.size, u32::from(io.direction) == kvm_bindings::KVM_EXIT_IO_IN, data)
    }

    /// Sub-code and details of the internal error that `KVM_RUN` returned with.
    pub(crate) fn internal_error(&mut self) -> (u32, Vec<u64>) {
        let run = self.fd.get_kvm_run();
        // SAFETY: the caller got KVM_EXIT_INTERNAL_ERROR, so the kernel filled this member; integers of any value are valid.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let count = (internal.ndata as usize).min(internal.data.len());
        (internal.suberror, internal.data[..count].to_vec())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|cell| cell.set(ptr::null_mut()));
        // The page is unmapped after this at the earliest.
        compiler_fence(Ordering::SeqCst);
    }
}
