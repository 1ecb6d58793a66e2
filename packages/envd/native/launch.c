/*
 * launch: becomes the user's process with exactly the identity, priority and directory that envd chose.
 *
 *   launch [--uid N] [--gid N] [--groups a,b] [--cwd DIR] [--oom N] [--nice N] [--ionice be:N] [--tty]
 *          [--nproc N] [--status-fd N] -- COMMAND ARG...
 *
 * A failure before exec is written to the status descriptor as "<step> <errno>\n" and the exit status is 125.
 * The descriptor closes on exec, so its end without a line means that the command runs. A command that cannot
 * be executed is told on stderr and ends as a shell would end it: 127 when missing, 126 when refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_GROUPS 1024
#define IOPRIO_WHO_PROCESS 1
#define IOPRIO_CLASS_BE 2
#define IOPRIO_CLASS_SHIFT 13

static int status_fd = -1;

static void fail(const char *step) {
  int error = errno;
  char line[64];
  int length = snprintf(line, sizeof line, "%s %d\n", step, error);
  if (status_fd >= 0 && write(status_fd, line, length) == length) _exit(125);
  dprintf(2, "launch: %s: %s\n", step, strerror(error));
  _exit(125);
}

static long number(const char *text, const char *option) {
  char *end;
  errno = 0;
  long value = strtol(text, &end, 10);
  if (errno || end == text || *end) {
    errno = EINVAL;
    fail(option);
  }
  return value;
}

static size_t parse_groups(char *list, gid_t *groups) {
  size_t count = 0;
  for (char *item = strtok(list, ","); item && count < MAX_GROUPS; item = strtok(NULL, ","))
    groups[count++] = (gid_t)number(item, "groups");
  return count;
}

static void reset_signals(void) {
  struct sigaction standard = {.sa_handler = SIG_DFL};
  for (int signal = 1; signal < NSIG; signal++) sigaction(signal, &standard, NULL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Raising one's own score or niceness needs no privilege; a kernel without these controls is no reason to fail. */
static void set_priorities(const char *oom, int nice, int ioprio) {
  if (oom) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
      if (write(fd, oom, strlen(oom)) < 0) errno = 0;
      close(fd);
    }
  }
  if (nice != INT_MIN) setpriority(PRIO_PROCESS, 0, nice);
  if (ioprio >= 0)
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, (IOPRIO_CLASS_BE << IOPRIO_CLASS_SHIFT) | ioprio);
}

/* After the change of user: a user who has all of them could else start nothing, not even what ends them. */
static void limit_processes(long limit) {
  if (limit < 0) return;
  struct rlimit processes = {limit, limit};
  setrlimit(RLIMIT_NPROC, &processes);
}

int main(int argc, char **argv) {
  long uid = -1, gid = -1;
  gid_t groups[MAX_GROUPS];
  size_t group_count = 0;
  long nproc = -1;
  int set_groups = 0, nice = INT_MIN, ioprio = -1, tty = 0, at = 1;
  const char *cwd = NULL, *oom = NULL;

  for (; at < argc && strcmp(argv[at], "--"); at++) {
    const char *option = argv[at];
    if (!strcmp(option, "--tty")) {
      tty = 1;
      continue;
    }
    char *value = ++at < argc ? argv[at] : "";
    if (!strcmp(option, "--uid")) uid = number(value, "uid");
    else if (!strcmp(option, "--gid")) gid = number(value, "gid");
    else if (!strcmp(option, "--groups")) group_count = parse_groups(value, groups), set_groups = 1;
    else if (!strcmp(option, "--cwd")) cwd = value;
    else if (!strcmp(option, "--oom")) oom = value;
    else if (!strcmp(option, "--nice")) nice = (int)number(value, "nice");
    else if (!strcmp(option, "--ionice") && !strncmp(value, "be:", 3)) ioprio = (int)number(value + 3, "ionice");
    else if (!strcmp(option, "--nproc")) nproc = number(value, "nproc");
    else if (!strcmp(option, "--status-fd")) status_fd = (int)number(value, "status-fd");
    else errno = EINVAL, fail("option");
  }
  if (at + 1 >= argc) errno = EINVAL, fail("command");
  char **command = argv + at + 1;

  if (status_fd >= 0) {
    fcntl(status_fd, F_SETFD, FD_CLOEXEC);
    if (status_fd > 3) syscall(SYS_close_range, 3, status_fd - 1, 0);
    syscall(SYS_close_range, status_fd + 1, ~0U, 0);
  } else {
    syscall(SYS_close_range, 3, ~0U, 0);
  }

  reset_signals();
  setsid();
  if (tty && ioctl(0, TIOCSCTTY, 0) < 0) fail("tty");
  set_priorities(oom, nice, ioprio);
  if (set_groups && setgroups(group_count, groups) < 0 && geteuid() == 0) fail("groups");
  if (gid >= 0 && setresgid(gid, gid, gid) < 0) fail("gid");
  if (uid >= 0 && setresuid(uid, uid, uid) < 0) fail("uid");
  limit_processes(nproc);
  if (cwd && chdir(cwd) < 0) fail("cwd");

  execvp(command[0], command);
  int missing = errno == ENOENT || errno == ENOTDIR;
  dprintf(2, "exec: %s: %s\n", command[0], missing ? "not found" : strerror(errno));
  _exit(missing ? 127 : 126);
}
