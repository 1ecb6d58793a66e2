/*
 * shim: the parent of one sandbox.
 *
 * One shim is started ahead for each slot and waits. It outlives the daemon: own session, SIGPIPE ignored, and it
 * never reads its standard input again after the command. A shim whose standard input closes before the command
 * ends at once, so an unused one never outlives its daemon.
 *
 * Command, on standard input, one field a line, ended by `go` (a field may come in any order, `arg` in its own):
 *   id TEXT          repeated in the `started` file; no line break in it
 *   cgroup FILE      a cgroup.procs file the program joins (at most 16)
 *   netns PATH       network namespace the program joins; `new` makes an empty one
 *   hide PATH        mount point that the program must not see; one that does not exist is no error
 *   sysfs DIR        mounts a read-only sysfs of that network namespace there, for the program alone
 *   bind FROM<tab>TO shows FROM at TO with what is mounted in it, for the program alone, in this order (at most 64)
 *   root DIR         the program's root, with what was bound in it: nothing else that is mounted here is there for it
 *   env NAME=VALUE   set for the program (at most 8)
 *   pidfile FILE     where the program leaves the pid of the sandbox's init, before it ends with 0
 *   stay yes         the program itself is the sandbox's init. With neither, the program is run and nothing else
 *   listen PATH      makes a unix socket there that listens, only root may connect; the program has it as descriptor 9
 *   started FILE     gets "PID START_TIME ID\n" (start time in clock ticks, field 22 of /proc/PID/stat)
 *   exit FILE        gets "STATUS\n" when init ends; a negative status is a signal
 *   log FILE         gets what the program writes to standard output and error; absent: nobody does
 *   arg WORD         program and its arguments (at most 256)
 *   go
 *
 * Answers, on standard output:
 *   ready                        once, before anything is read
 *   started PID START_TIME       init runs, the program has ended with 0
 *   failed REASON                nothing of it is left; the shim ends
 *   done STATUS                  neither `pidfile` nor `stay`: the program's exit status; the shim ends
 *   exit STATUS                  init ended; the `exit` file is complete; the shim ends
 *
 * `shim hold` is something else: the smallest init there is. It is PID 1 of the engine's own probe.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COMMAND_BYTES = 65536, CGROUPS = 16, BINDS = 64, HIDES = 4, ENVS = 8, ARGS = 256, STRAYS = 32, LISTEN_FD = 9 };

static char text[COMMAND_BYTES];

static struct {
    char *id, *netns, *sysfs, *root, *pidfile, *started, *exit, *log, *stay, *listen;
    char *cgroup[CGROUPS], *hide[HIDES], *bind[BINDS], *env[ENVS], *arg[ARGS + 1];
    int cgroups, hides, binds, envs, args;
} command;

/* Children that ended while the program still ran: init may be among them before its pid is known. */
static struct { pid_t pid; int status; } strays[STRAYS];
static int stray_count;

static void say(const char *word, const char *detail) {
    dprintf(1, "%s%s%s\n", word, *detail ? " " : "", detail);
}

static void signal_children(void) {
    char path[64], buffer[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    if (fd >= 0) close(fd);
    if (size <= 0) return;
    buffer[size] = 0;
    /* A pid that the buffer cuts is one of the next round. */
    if (size == sizeof buffer - 1) *strrchr(buffer, ' ') = 0;
    for (char *word = strtok(buffer, " "); word; word = strtok(NULL, " ")) kill(atoi(word), SIGKILL);
}

/* The end of one makes its children the shim's: so until there is none. */
static void kill_children(void) {
    do signal_children();
    while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR);
}

static void fail(const char *what, const char *path) {
    char reason[512];
    snprintf(reason, sizeof reason, "%s %s: %s", what, path, strerror(errno));
    kill_children();
    say("failed", reason);
    _exit(1);
}

/* The child has no other way to say why it could not start the program. */
static void child_fail(int report, const char *what, const char *path) {
    dprintf(report, "%s %s: %s", what, path, strerror(errno));
    _exit(127);
}

static int add(char **list, int *count, int limit, char *value) {
    if (*count >= limit) return 0;
    list[(*count)++] = value;
    return 1;
}

static int field(char *line) {
    char *value = strchr(line, ' ');
    if (!value) return 0;
    *value++ = 0;
    if (!strcmp(line, "id")) command.id = value;
    else if (!strcmp(line, "netns")) command.netns = value;
    else if (!strcmp(line, "sysfs")) command.sysfs = value;
    else if (!strcmp(line, "root")) command.root = value;
    else if (!strcmp(line, "pidfile")) command.pidfile = value;
    else if (!strcmp(line, "started")) command.started = value;
    else if (!strcmp(line, "exit")) command.exit = value;
    else if (!strcmp(line, "log")) command.log = value;
    else if (!strcmp(line, "stay")) command.stay = value;
    else if (!strcmp(line, "listen")) command.listen = value;
    else if (!strcmp(line, "cgroup")) return add(command.cgroup, &command.cgroups, CGROUPS, value);
    else if (!strcmp(line, "hide")) return add(command.hide, &command.hides, HIDES, value);
    else if (!strcmp(line, "bind")) return strchr(value, '\t') && add(command.bind, &command.binds, BINDS, value);
    else if (!strcmp(line, "env")) return strchr(value, '=') && add(command.env, &command.envs, ENVS, value);
    else if (!strcmp(line, "arg")) return add(command.arg, &command.args, ARGS, value);
    else return 0;
    return 1;
}

/* Reads up to the line `go`. Ends the shim when the input closes first. */
static void read_command(void) {
    size_t used = 0, start = 0;
    for (;;) {
        if (used + 1 >= sizeof text) { errno = E2BIG; fail("command", "too long"); }
        ssize_t size = read(0, text + used, sizeof text - 1 - used);
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) _exit(0);
        used += size;
        text[used] = 0;
        for (char *end; (end = strchr(text + start, '\n')); start = end + 1 - text) {
            *end = 0;
            if (!strcmp(text + start, "go")) return;
            errno = EINVAL;
            if (!field(text + start)) fail("field", text + start);
        }
    }
}

static int write_whole(const char *path, const char *content) {
    char temporary[4096];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    size_t length = strlen(content);
    int bad = write(fd, content, length) != (ssize_t)length;
    close(fd);
    return bad || rename(temporary, path) ? -1 : 0;
}

static void enter_cgroups(int report) {
    for (int i = 0; i < command.cgroups; i++) {
        int fd = open(command.cgroup[i], O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "0", 1) != 1) child_fail(report, "join", command.cgroup[i]);
        close(fd);
    }
    /* What the sandbox sees as its cgroups begins here: no name of a slot, no sibling. */
    if (command.cgroups && unshare(CLONE_NEWCGROUP)) child_fail(report, "unshare", "cgroup");
}

/* A new network namespace comes with its loopback down, where CRIU's own checks fail. */
static void loopback_up(int report) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request)) child_fail(report, "up", "lo");
    close(fd);
}

static void enter_network(int report) {
    if (!command.netns) return;
    if (!strcmp(command.netns, "new")) {
        if (unshare(CLONE_NEWNET)) child_fail(report, "unshare", "net");
        loopback_up(report);
        return;
    }
    int fd = open(command.netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET)) child_fail(report, "setns", command.netns);
    close(fd);
}

/* Without the old root the program holds none of the mounts that others make and undo while it runs. */
static void enter_root(int report) {
    if (chdir(command.root) || syscall(SYS_pivot_root, ".", ".")) child_fail(report, "pivot", command.root);
    /* The old root lies over the new one now. */
    if (umount2(".", MNT_DETACH) || chdir("/")) child_fail(report, "leave", "/");
}

/* Mounts made here belong to the program's mount namespace and vanish with it: nobody has to undo them. */
static void enter_mounts(int report) {
    if (!command.hides && !command.sysfs && !command.binds && !command.root) return;
    if (unshare(CLONE_NEWNS)) child_fail(report, "unshare", "mount");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) child_fail(report, "private", "/");
    for (int i = 0; i < command.hides; i++)
        if (umount2(command.hide[i], MNT_DETACH) && errno != EINVAL && errno != ENOENT)
            child_fail(report, "hide", command.hide[i]);
    if (command.sysfs && mount("sysfs", command.sysfs, "sysfs", MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL))
        child_fail(report, "sysfs", command.sysfs);
    if (command.root && mount(command.root, command.root, NULL, MS_BIND, NULL))
        child_fail(report, "root", command.root);
    for (int i = 0; i < command.binds; i++) {
        char *to = strchr(command.bind[i], '\t');
        *to++ = 0;
        if (mount(command.bind[i], to, NULL, MS_BIND | MS_REC, NULL)) child_fail(report, "bind", command.bind[i]);
    }
    if (command.root) enter_root(report);
}

static int open_log(int report) {
    if (!command.log) return -1;
    int log = open(command.log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (log < 0) child_fail(report, "open", command.log);
    return log;
}

/* Made before the program runs: whoever connects waits for it, and it cannot put another in its place. */
static int listen_for_program(int report) {
    if (!command.listen) return -1;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    errno = ENAMETOOLONG;
    if (strlen(command.listen) >= sizeof address.sun_path) child_fail(report, "listen", command.listen);
    strcpy(address.sun_path, command.listen);
    unlink(command.listen);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4))
        child_fail(report, "listen", command.listen);
    return fd;
}

static pid_t run_program(int *report_read) {
    int report[2];
    if (pipe2(report, O_CLOEXEC)) fail("pipe", "report");
    pid_t pid = fork();
    if (pid < 0) fail("fork", command.arg[0]);
    if (pid == 0) {
        close(report[0]);
        signal(SIGPIPE, SIG_DFL);
        enter_cgroups(report[1]);
        enter_network(report[1]);
        /* Where they are may be out of sight afterwards. */
        int log = open_log(report[1]), control = listen_for_program(report[1]);
        enter_mounts(report[1]);
        for (int i = 0; i < command.envs; i++) putenv(command.env[i]);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0) child_fail(report[1], "open", "/dev/null");
        for (int fd = 0; fd < 3; fd++) dup2(null, fd);
        if (log >= 0 && (dup2(log, 1) < 0 || dup2(log, 2) < 0)) child_fail(report[1], "keep", command.log);
        if (control >= 0 && dup2(control, LISTEN_FD) < 0) child_fail(report[1], "listen", command.listen);
        execvp(command.arg[0], command.arg);
        child_fail(report[1], "exec", command.arg[0]);
    }
    close(report[1]);
    *report_read = report[0];
    return pid;
}

static int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

/* Waits for the program; remembers the other children that end meanwhile. */
static int wait_program(pid_t program) {
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid == program) return code_of(status);
        if (pid > 0 && stray_count < STRAYS) {
            strays[stray_count].pid = pid;
            strays[stray_count++].status = status;
        }
        if (pid < 0 && errno != EINTR) fail("wait", command.arg[0]);
    }
}

static int wait_init(pid_t init) {
    for (int i = 0; i < stray_count; i++)
        if (strays[i].pid == init) return code_of(strays[i].status);
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid == init) return code_of(status);
        if (pid < 0 && errno != EINTR) fail("wait", "init");
    }
}

static pid_t read_pid(void) {
    char buffer[32];
    int fd = open(command.pidfile, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    if (size <= 0) fail("read", command.pidfile);
    close(fd);
    buffer[size] = 0;
    pid_t pid = atoi(buffer);
    errno = EINVAL;
    if (pid <= 1) fail("pid in", command.pidfile);
    return pid;
}

/* Field 22 of /proc/PID/stat: with the pid it names one process for good. */
static unsigned long long start_time(pid_t pid) {
    char path[64], buffer[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    if (fd >= 0) close(fd);
    if (size <= 0) return 0;
    buffer[size] = 0;
    char *at = strrchr(buffer, ')');
    for (int i = 0; at && i < 20; i++) at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

_Noreturn static void hold(void) {
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; null >= 0 && fd < 3; fd++) dup2(null, fd);
    if (null > 2) close(null);
    for (;;)
        if (waitpid(-1, NULL, 0) < 0) pause();
}

int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "hold")) hold();
    signal(SIGPIPE, SIG_IGN);
    close_range(3, ~0U, 0);
    if (getsid(0) != getpid()) setsid();
    if (prctl(PR_SET_CHILD_SUBREAPER, 1)) fail("subreaper", "");
    umask(022);
    say("ready", "");
    read_command();
    errno = EINVAL;
    if (!command.args) fail("arg", "missing");

    int report;
    pid_t program = run_program(&report);
    /* The report ends without a word when the program is executed. */
    int status = command.stay ? 0 : wait_program(program);
    char line[512], reason[448];
    ssize_t size = read(report, reason, sizeof reason - 1);
    close(report);
    reason[size > 0 ? size : 0] = 0;
    if (size > 0 || (command.pidfile && status)) {
        kill_children();
        snprintf(line, sizeof line, "%s%sstatus %d", reason, size > 0 ? ", " : "", status);
        say("failed", line);
        return 1;
    }
    if (!command.pidfile && !command.stay) {
        snprintf(line, sizeof line, "%d", status);
        say("done", line);
        return 0;
    }
    pid_t init = command.stay ? program : read_pid();
    unsigned long long since = start_time(init);
    snprintf(line, sizeof line, "%d %llu %s\n", init, since, command.id ? command.id : "-");
    if (command.started && write_whole(command.started, line)) fail("write", command.started);
    snprintf(line, sizeof line, "%d %llu", init, since);
    say("started", line);

    status = wait_init(init);
    snprintf(line, sizeof line, "%d\n", status);
    if (command.exit) write_whole(command.exit, line);
    snprintf(line, sizeof line, "%d", status);
    say("exit", line);
    return 0;
}
