/**
 * The system calls a sandbox may make. Everything absent answers ENOSYS, which programs take as "an older kernel"
 * and fall back from; what a program may expect a refusal from answers EPERM.
 *
 * Left out on purpose: io_uring_* (a large attack surface that bypasses this filter), bpf, perf_event_open,
 * userfaultfd, keyctl and add_key (the kernel's keyrings are not namespaced by much), kexec_*, *_module, *_by_handle_at,
 * memfd_secret (a checkpoint cannot read it), modify_ldt, vm86, uselib, syslog, quotactl, kcmp, lookup_dcookie.
 */
const ALLOWED: Record<string, string> = {
  files: `access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr lchown
    lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead
    readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile setxattr splice stat statfs statx
    symlink symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice
    write writev inotify_add_watch inotify_init inotify_init1 inotify_rm_watch fanotify_mark cachestat
    setxattrat getxattrat listxattrat removexattrat`,
  memory: `brk madvise mbind get_mempolicy set_mempolicy membarrier memfd_create mincore mlock mlock2 mlockall mmap
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
    remap_file_pages map_shadow_stack`,
  processes: `arch_prctl capget capset chroot execve execveat exit exit_group fork getcpu getegid geteuid getgid
    getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit get_robust_list getrusage
    getsid gettid getuid get_thread_area ioprio_get ioprio_set kill pidfd_open pidfd_send_signal prctl prlimit64
    process_vm_readv process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp setfsgid setfsuid setgid
    setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list setsid
    set_thread_area set_tid_address setuid sigaltstack tgkill tkill vfork wait4 waitid
    landlock_add_rule landlock_create_ruleset landlock_restrict_self`,
  time: `alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause setitimer time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times adjtimex clock_adjtime`,
  waiting: `epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake io_cancel io_destroy io_getevents
    io_pgetevents io_setup io_submit pipe pipe2 poll ppoll pselect6 select signalfd signalfd4`,
  ipc: `mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl
    semget semop semtimedop shmat shmctl shmdt shmget`,
  network: `accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg
    sendmsg sendto setsockopt shutdown socketpair`,
  machine: 'getrandom ioctl sysinfo uname',
}

/** Asked for by ordinary programs as root, which read EPERM as "not here" but ENOSYS as a broken system. */
const REFUSED = `acct add_key bpf clock_settime delete_module fanotify_init finit_module fsconfig fsmount
  fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kexec_load keyctl mount
  mount_setattr move_mount open_by_handle_at open_tree perf_event_open pivot_root quotactl reboot request_key
  setdomainname sethostname setns settimeofday swapoff swapon syslog umount2 unshare userfaultfd vhangup`

/** CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}: a sandbox makes no namespaces, so it reaches no kernel path behind them. */
const NAMESPACE_FLAGS = 0x7e020000

const EPERM = 1
const ENOSYS = 38

/** Unix, IPv4, IPv6, netlink (for getifaddrs). No packet, vsock, alg, xdp or bluetooth sockets. */
const SOCKET_FAMILIES = [1, 2, 10, 16]

/** Linux, 32-bit Linux, both without address randomization, and the query. */
const PERSONALITIES = [0, 8, 0x20000, 0x20008, 0xffffffff]

interface SeccompArgument {
  index: number
  value: number
  valueTwo?: number
  op: string
}

interface SeccompRule {
  names: string[]
  action: string
  errnoRet?: number
  args?: SeccompArgument[]
}

export interface SeccompProfile {
  defaultAction: string
  defaultErrnoRet: number
  architectures: string[]
  syscalls: SeccompRule[]
}

const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== '')

const whenFirstArgument = (name: string, value: number): SeccompRule => ({
  names: [name],
  action: 'SCMP_ACT_ALLOW',
  args: [{ index: 0, value, op: 'SCMP_CMP_EQ' }],
})

/** The `linux.seccomp` object of an OCI configuration. 64-bit programs only: the 32-bit entry has its own bugs. */
export function seccompProfile(architecture: string = process.arch): SeccompProfile {
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: ENOSYS,
    architectures: [architecture === 'arm64' ? 'SCMP_ARCH_AARCH64' : 'SCMP_ARCH_X86_64'],
    syscalls: [
      { names: words(Object.values(ALLOWED).join(' ')), action: 'SCMP_ACT_ALLOW' },
      { names: words(REFUSED), action: 'SCMP_ACT_ERRNO', errnoRet: EPERM },
      {
        names: ['clone'],
        action: 'SCMP_ACT_ALLOW',
        args: [{ index: 0, value: NAMESPACE_FLAGS, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }],
      },
      // Its flags lie in memory where a filter cannot read them; the C library falls back to clone.
      { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
      ...SOCKET_FAMILIES.map((family) => whenFirstArgument('socket', family)),
      ...PERSONALITIES.map((personality) => whenFirstArgument('personality', personality)),
    ],
  }
}
