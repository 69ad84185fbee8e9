//! What a process that reads hostile bytes does without.
//!
//! Entered after everything is loaded that has to be read from files: libraries and fonts. From then on it has its three pipes, its witness's
//! page and memory, and may compute. Owns the list of what is allowed. Does not own what happens when something is lacking: it is told.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::witness::PAGE_BYTES;

/// The kernel takes this process before its supervisor when memory is short.
const OOM_SCORE: &str = "500";

/// Enters; the answer is what this system does not offer, in words.
pub(super) fn enter(memory_bytes: u64, page: Option<RawFd>) -> Vec<String> {
    let mut lacks = Vec::new();
    let mut step = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            lacks.push(format!("{what} ({error})"));
        }
    };
    // The limit that belongs to whoever runs with fewer rights already is no loss.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    step("closing of inherited files", close_others(page));
    step(
        "end with the parent",
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into),
    );
    step(
        "protection from debuggers",
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Into::into),
    );
    step("limit of memory", limit_memory(memory_bytes));
    for (what, resource, most) in [
        ("limit of core files", Resource::Core, 0),
        ("limit of files", Resource::Nofile, 16),
        ("limit of written files", Resource::Fsize, PAGE_BYTES as u64),
    ] {
        step(what, limit(resource, most));
    }
    step("no_new_privs", rustix::thread::set_no_new_privs(true).map_err(Into::into));
    step("Landlock", landlock());
    step("seccomp", filter());
    lacks
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    Ok(rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// On top of what libraries and fonts take of the address space.
fn limit_memory(bytes: u64) -> io::Result<()> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').next().and_then(|pages| pages.parse().ok()).unwrap_or(0);
    limit(Resource::As, pages.saturating_mul(rustix::param::page_size() as u64).saturating_add(bytes))
}

fn close_others(page: Option<RawFd>) -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && Some(*fd) != page)
        .collect();
    for fd in open {
        // SAFETY: nothing in this process has opened a file it would still use; the one of the listing is closed already.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// No file; and as far as the kernel knows how, no port and no signal to others, which the filter refuses anyhow.
fn landlock() -> io::Result<()> {
    use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope};
    let abi = ABI::V6;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(|rules| rules.create())
        .and_then(|rules| rules.restrict_self())
        .map_err(io::Error::other)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(io::Error::other("this kernel has none, or it is not switched on")),
        _ => Ok(()),
    }
}

fn filter() -> io::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let refuse = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let allowed = SeccompFilter::new(rules()?, refuse(libc::EPERM), SeccompAction::Allow, arch);
    // The C library then makes threads with a call whose flags can be seen.
    let unseen = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unseen = SeccompFilter::new(unseen, SeccompAction::Allow, refuse(libc::ENOSYS), arch);
    for filter in [unseen, allowed] {
        let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
        seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

/// What may be called, and with what.
fn rules() -> io::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_pwrite64,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_membarrier,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // The other filter decides.
        libc::SYS_clone3,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    let not_executable = masked(2, libc::PROT_EXEC as u64, 0)?;
    rules.insert(libc::SYS_mmap, vec![not_executable.clone()]);
    rules.insert(libc::SYS_mprotect, vec![not_executable]);
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![masked(0, thread, thread)?]);
    // What abort() sends goes to this process alone.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![masked(0, u64::from(u32::MAX), own)?]);
    Ok(rules)
}

/// That the bits `mask` of an argument are `value`.
fn masked(argument: u8, mask: u64, value: u64) -> io::Result<SeccompRule> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(io::Error::other)
}
