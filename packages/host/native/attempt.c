/*
 * attempt NAME: makes one system call that a sandbox must be refused, as root inside, and prints the name of the
 * error, or `done` when the kernel let it through. For the tests of the container engine.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static long write_to(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    return fd < 0 ? -1 : write(fd, text, strlen(text));
}

/* Takes memory until the kernel says no, or kills this process. */
static long take_memory(void) {
    for (int i = 0; i < 4096; i++) {
        void *block = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (block == MAP_FAILED) return -1;
        memset(block, 1, 1 << 20);
    }
    return 0;
}

/* Counts the processes it can have; they end when this one does. */
static long take_processes(void) {
    int count = 0;
    setpgid(0, 0);
    for (; count < 4096; count++) {
        pid_t pid = fork();
        if (pid < 0) break;
        if (pid == 0) { pause(); _exit(0); }
    }
    int reason = errno;
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    errno = reason;
    return count == 4096 ? 0 : -1;
}

static long attempt(const char *name) {
    if (!strcmp(name, "mount")) return mount("tmpfs", "/mnt", "tmpfs", 0, NULL);
    if (!strcmp(name, "bind")) return mount("/tmp", "/mnt", NULL, MS_BIND, NULL);
    if (!strcmp(name, "remount")) return mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL);
    if (!strcmp(name, "umount")) return umount2("/proc/keys", MNT_DETACH);
    if (!strcmp(name, "fsopen")) return syscall(SYS_fsopen, "tmpfs", 0);
    if (!strcmp(name, "mknod")) return mknod("/tmp/disk", S_IFBLK | 0666, makedev(254, 0));
    if (!strcmp(name, "unshare-user")) return unshare(CLONE_NEWUSER);
    if (!strcmp(name, "unshare-mount")) return unshare(CLONE_NEWNS);
    if (!strcmp(name, "clone-user")) return syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (!strcmp(name, "setns")) return setns(open("/proc/1/ns/mnt", O_RDONLY), 0);
    if (!strcmp(name, "keyctl")) return syscall(SYS_keyctl, 0, -3, 0);
    if (!strcmp(name, "bpf")) return syscall(SYS_bpf, 0, 0, 0);
    if (!strcmp(name, "io_uring")) return syscall(425, 1, 0);
    if (!strcmp(name, "userfaultfd")) return syscall(SYS_userfaultfd, 0);
    if (!strcmp(name, "perf")) return syscall(SYS_perf_event_open, 0, 0, 0, 0, 0);
    if (!strcmp(name, "module")) return syscall(SYS_init_module, "", 0, "");
    if (!strcmp(name, "reboot")) return syscall(SYS_reboot, 0xfee1dead, 672274793, 0x1234567, 0);
    if (!strcmp(name, "sethostname")) return sethostname("x", 1);
    if (!strcmp(name, "settime")) return syscall(SYS_settimeofday, &(long[2]){0, 0}, 0);
    if (!strcmp(name, "swapon")) return syscall(SYS_swapon, "/tmp/swap", 0);
    if (!strcmp(name, "handle")) return syscall(SYS_open_by_handle_at, 0, 0, 0);
    if (!strcmp(name, "raw-socket")) return socket(AF_PACKET, SOCK_RAW, 0);
    if (!strcmp(name, "vsock")) return socket(40, SOCK_STREAM, 0);
    if (!strcmp(name, "core-pattern")) return write_to("/proc/sys/kernel/core_pattern", "|/tmp/x");
    if (!strcmp(name, "sysrq")) return write_to("/proc/sysrq-trigger", "h");
    if (!strcmp(name, "kernel-log")) return syscall(SYS_syslog, 3, 0, 0);
    if (!strcmp(name, "disk")) return open("/dev/vda", O_RDONLY);
    if (!strcmp(name, "kcore")) return open("/dev/mem", O_RDONLY);
    if (!strcmp(name, "memory")) return take_memory();
    if (!strcmp(name, "processes")) return take_processes();
    errno = EINVAL;
    return -1;
}

int main(int count, char **words) {
    puts(attempt(count > 1 ? words[1] : "") < 0 ? strerrorname_np(errno) : "done");
    return 0;
}
