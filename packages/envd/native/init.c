/*
 * init: process 1 of a sandbox. Starts the agent, starts it again when it dies, and reaps every orphan.
 *
 *   init COMMAND ARG...        (without arguments: /.e2b/bin/node FLAGS /.e2b/envd.mjs)
 *
 * SIGTERM and SIGINT end it: every process gets SIGTERM, one second to leave, and the kernel kills the rest.
 * SIGURG says that memory is short: the process with the largest resident set is killed, never this one or the agent.
 * It waits for signals only, so it uses no timer while the agent runs and survives a dump and restore.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOG_FILE "/run/e2b/envd.log"
#define BACKOFF_FIRST_MS 20
#define BACKOFF_MAX_MS 2000
#define STEADY_MS 10000
#define GRACE_MS 1000
#define DIES_WITHIN_MS 300

static char *agent[] = {"/.e2b/bin/node",       "--max-semi-space-size=1", "--v8-pool-size=1", "--expose-gc",
                        "--disable-wasm-trap-handler", "/.e2b/envd.mjs", NULL};

static long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Nothing in here may refer to a file of the host: a restored process could not open it again. */
static void own_stdio(void) {
  mkdir("/run", 0755);
  mkdir("/run/e2b", 0755);
  int null = open("/dev/null", O_RDWR);
  int log = open(LOG_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
  if (null >= 0) dup2(null, 0);
  if (log < 0) log = null;
  if (log >= 0) {
    dup2(log, 1);
    dup2(log, 2);
  }
  syscall(SYS_close_range, 3, ~0U, 0);
}

/* The image's variables are for the user's processes; one like NODE_OPTIONS must not reach the agent. */
static void own_environment(void) {
  const char *given = getenv("PATH");
  char *path = strdup(given ? given : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  clearenv();
  if (path) setenv("PATH", path, 1);
}

static pid_t start(char **command) {
  pid_t pid = fork();
  if (pid) return pid;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setsid();
  execv(command[0], command);
  _exit(127);
}

/* Returns 1 when the agent was among the dead. */
static int reap(pid_t agent_pid) {
  int ended = 0;
  for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
    if (pid == agent_pid) ended = 1;
  return ended;
}

/* Resident pages by /proc/PID/statm; 0 when it is gone. */
static long resident_pages(const char *pid) {
  char path[64], text[256];
  snprintf(path, sizeof path, "/proc/%.20s/statm", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (size <= 0) return 0;
  text[size] = 0;
  char *second = strchr(text, ' ');
  return second ? atol(second) : 0;
}

/* Allocates nothing: there is no memory when this is called. */
static void end_greediest(pid_t agent_pid) {
  static char entries[32768] __attribute__((aligned(16)));
  static pid_t last;
  static long long last_ms;
  /* What it has is not free before it is gone: the next would die for nothing. */
  if (last && now_ms() - last_ms < DIES_WITHIN_MS && kill(last, 0) == 0) return;
  int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  pid_t greediest = 0;
  long most = 0;
  for (long size; proc >= 0 && (size = syscall(SYS_getdents64, proc, entries, sizeof entries)) > 0;)
    for (long at = 0; at < size;) {
      const struct dirent64 *entry = (const struct dirent64 *)(entries + at);
      at += entry->d_reclen;
      pid_t pid = atoi(entry->d_name);
      if (pid <= 1 || pid == agent_pid) continue;
      long pages = resident_pages(entry->d_name);
      if (pages <= most) continue;
      most = pages;
      greediest = pid;
    }
  if (proc >= 0) close(proc);
  if (greediest) kill(greediest, SIGKILL);
  last = greediest;
  last_ms = now_ms();
}

static void leave(const sigset_t *signals) {
  kill(-1, SIGTERM);
  for (long long until = now_ms() + GRACE_MS; now_ms() < until;) {
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0);
    if (pid < 0 && errno == ECHILD) break;
    struct timespec wait = {0, 50 * 1000000};
    sigtimedwait(signals, NULL, &wait);
  }
  _exit(0);
}

int main(int argc, char **argv) {
  char **command = argc > 1 ? argv + 1 : agent;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGURG);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  own_stdio();

  own_environment();
  long backoff_ms = BACKOFF_FIRST_MS;
  long long started_ms = now_ms();
  pid_t pid = start(command);

  for (;;) {
    struct timespec wait = {backoff_ms / 1000, (backoff_ms % 1000) * 1000000};
    int signal = pid > 0 ? sigwaitinfo(&signals, NULL) : sigtimedwait(&signals, NULL, &wait);
    if (signal == SIGTERM || signal == SIGINT) leave(&signals);
    if (signal == SIGURG) end_greediest(pid);
    if (pid <= 0 && signal < 0 && errno == EAGAIN) {
      started_ms = now_ms();
      pid = start(command);
      continue;
    }
    if (reap(pid)) {
      int steady = now_ms() - started_ms >= STEADY_MS;
      backoff_ms = steady ? BACKOFF_FIRST_MS : backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : backoff_ms * 2;
      pid = -1;
    }
  }
}
