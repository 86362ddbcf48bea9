//! What a plane gives up once it has started: system calls that it does not need any more, and the right of other processes
//! to read its memory.
//!
//! A filter of seccomp(2) lets through what a plane uses while it serves. Anything else fails with `ENOSYS`, as on a kernel
//! without that call: the C library then uses an older one where it can, and no program can be started, no process traced, no
//! module loaded and no user changed. A filter cannot look into io_uring, whose operations are no system calls; the controlplane
//! may not make a ring, and the rings of the dataplane are made by its backend and its runtime.

use std::collections::BTreeMap;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::Failure;

/// Which plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plane {
    Data,
    Control,
}

/// Calls of both planes: memory, threads, time, signals, files that are read, sockets, epoll.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_prlimit64,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // A panic ends the process by a signal to itself.
    libc::SYS_tgkill,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_preadv2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
];

/// Calls of the dataplane alone: the memory of the link, and its rings.
const DATA: &[i64] =
    &[libc::SYS_memfd_create, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_uring_setup];

/// Calls of the controlplane alone: what operators decide is written to the state folder.
const CONTROL: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_pwrite64,
    libc::SYS_renameat,
    libc::SYS_renameat2,
];

/// Calls that older architectures have beside those above.
#[cfg(target_arch = "x86_64")]
const OLD_COMMON: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(target_arch = "x86_64")]
const OLD_CONTROL: &[i64] = &[libc::SYS_chmod, libc::SYS_link, libc::SYS_mkdir, libc::SYS_rename];
#[cfg(not(target_arch = "x86_64"))]
const OLD_COMMON: &[i64] = &[];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CONTROL: &[i64] = &[];

/// Keeps the memory of this process from other processes of its user and out of core dumps: keys are in it.
pub(crate) fn hide_memory() -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let limit = rustix::process::getrlimit(Resource::Core);
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit })?;
    Ok(())
}

/// Gives up all system calls that a plane does not need while it serves, in all of its threads and those to come.
pub(crate) fn confine(plane: Plane) -> Result<(), Failure> {
    let explain = |error: &dyn std::fmt::Display| {
        Failure::from(format!("cannot give up system calls: {error}; `seccomp = false` serves without that"))
    };
    let program = filter(plane).map_err(|error| explain(&error))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| explain(&error))
}

/// Calls that no child of a feed has to make: looking into other processes, and what changes the system.
const NOT_OF_A_CHILD: &[i64] = &[
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_kill,
    libc::SYS_mount,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Calls that a child makes only if it is to use the network.
const OF_THE_NETWORK: &[i64] =
    &[libc::SYS_socket, libc::SYS_socketpair, libc::SYS_bind, libc::SYS_connect, libc::SYS_listen];

/// Gives up system calls for good, before this process becomes a program that parses what strangers made. What that program
/// needs differs from build to build, so what is named here is refused, and all else is let through.
pub(crate) fn confine_child(has_network: bool) -> Result<(), Failure> {
    let network = if has_network { &[][..] } else { OF_THE_NETWORK };
    let rules = NOT_OF_A_CHILD.iter().chain(network).map(|&call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EACCES as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

fn filter(plane: Plane) -> Result<BpfProgram, seccompiler::BackendError> {
    let (own, old): (&[i64], &[i64]) = match plane {
        Plane::Data => (DATA, &[]),
        Plane::Control => (CONTROL, OLD_CONTROL),
    };
    let lists = [COMMON, own, OLD_COMMON, old];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        lists.into_iter().flatten().map(|&call| (call, Vec::new())).collect();
    // Threads, and no processes. The flags of clone3 lie in memory, where a filter cannot look: without it the C library uses
    // clone.
    let is_thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    rules.insert(libc::SYS_clone, vec![argument(0, is_thread, libc::CLONE_THREAD as u64)?]);
    // Names of threads, and nothing else that prctl can do.
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
    let names: Result<_, _> = names.iter().map(|&name| argument(0, SeccompCmpOp::Eq, name as u64)).collect();
    rules.insert(libc::SYS_prctl, names?);
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
}

fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?])
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Says which plane's filter [`as_a_plane`] is to be under.
    const PLANE: &str = "UPRTC_TEST_PLANE";

    /// Not a test by itself: what the next test runs in a process of its own.
    #[test]
    fn as_a_plane() {
        let Ok(name) = std::env::var(PLANE) else { return };
        hide_memory().unwrap();
        confine(if name == "data" { Plane::Data } else { Plane::Control }).unwrap();
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7, "threads are made");
        assert!(std::fs::read("/proc/self/stat").is_ok(), "files are read");
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok(), "sockets are made");
        let program = Command::new("/bin/true").stdin(Stdio::null()).status();
        assert!(program.is_err(), "no program is started: {program:?}");
        let is_refused = |result: rustix::io::Result<()>| result == Err(rustix::io::Errno::NOSYS);
        assert!(is_refused(rustix::process::chroot("/")), "the root stays");
        println!("confined");
    }

    #[test]
    fn a_plane_starts_no_program_and_goes_on() {
        for plane in ["data", "control"] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "confine::tests::as_a_plane", "--nocapture", "--test-threads=1"])
                .env(PLANE, plane)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && text.contains("confined"), "{plane}: {output:?}");
        }
    }
}
