/*
 * watch: reports what happens in a directory, for as long as its standard input stays open.
 *
 *   watch DIRECTORY            watch one directory
 *   watch -r DIRECTORY         and every directory below it, also those that appear later
 *
 * Writes records to standard output: 4 bytes inotify mask, 4 bytes path length (both little endian), then the
 * path relative to DIRECTORY. The first record has mask 0: the watch is armed. A failure is one record with
 * mask 0xffffffff whose path is the decimal errno; a lost queue is IN_Q_OVERFLOW.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define MASK                                                                                                   \
  (IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_ATTRIB | IN_MODIFY | IN_MOVE_SELF | IN_DELETE | IN_DELETE_SELF | \
   IN_ONLYDIR)
#define FAILED 0xffffffffu

static int inotify_fd, recursive;
static const char *root;
static char **paths; /* relative path per watch descriptor; "" is the root */
static size_t capacity;

static void put(uint32_t mask, const char *path) {
  uint32_t length = strlen(path);
  char record[8 + PATH_MAX];
  if (length > PATH_MAX) length = PATH_MAX;
  memcpy(record, &mask, 4);
  memcpy(record + 4, &length, 4);
  memcpy(record + 8, path, length);
  for (size_t done = 0, size = 8 + length; done < size;) {
    ssize_t count = write(1, record + done, size - done);
    if (count < 0 && errno != EINTR) _exit(0);
    if (count > 0) done += count;
  }
}

static void fail(void) {
  char text[16];
  snprintf(text, sizeof text, "%d", errno);
  put(FAILED, text);
  _exit(1);
}

/* Paths reported by a scan whose own event may still be in the queue: it is dropped once. */
#define ANNOUNCED_LIMIT 1024
static char *announced[ANNOUNCED_LIMIT];
static size_t announced_at;

static void remember_announced(const char *path) {
  free(announced[announced_at]);
  announced[announced_at] = strdup(path);
  announced_at = (announced_at + 1) % ANNOUNCED_LIMIT;
}

static int was_announced(const char *path) {
  for (size_t at = 0; at < ANNOUNCED_LIMIT; at++) {
    if (!announced[at] || strcmp(announced[at], path)) continue;
    free(announced[at]);
    announced[at] = NULL;
    return 1;
  }
  return 0;
}

static void join(char *out, const char *directory, const char *name) {
  snprintf(out, PATH_MAX, "%s%s%s", directory, *directory && *name ? "/" : "", name);
}

static void remember(int wd, const char *path) {
  if ((size_t)wd >= capacity) {
    size_t grown = (size_t)wd * 2 + 64;
    paths = realloc(paths, grown * sizeof *paths);
    if (!paths) _exit(1);
    memset(paths + capacity, 0, (grown - capacity) * sizeof *paths);
    capacity = grown;
  }
  free(paths[wd]);
  paths[wd] = strdup(path);
}

/*
 * Arms `path` and then reports it with `mask`, so that whoever hears of a directory can rely on its watch. With
 * `announce` also reports what is already in it, since that appeared before the watch did.
 */
static void add(const char *path, uint32_t mask, int announce) {
  char full[PATH_MAX], child[PATH_MAX];
  join(full, root, path);
  int wd = inotify_add_watch(inotify_fd, full, MASK);
  int error = errno;
  if (mask) put(mask, path);
  errno = error;
  if (wd < 0) {
    if (!*path || errno == ENOSPC) fail();
    return;
  }
  remember(wd, path);
  if (!recursive) return;
  DIR *directory = opendir(full);
  if (!directory) return;
  for (struct dirent *entry; (entry = readdir(directory));) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    join(child, path, entry->d_name);
    int is_directory = entry->d_type == DT_DIR;
    if (entry->d_type == DT_UNKNOWN) {
      struct stat info;
      char child_full[PATH_MAX];
      join(child_full, root, child);
      is_directory = lstat(child_full, &info) == 0 && S_ISDIR(info.st_mode);
    }
    if (announce) remember_announced(child);
    if (is_directory) add(child, announce ? IN_CREATE | IN_ISDIR : 0, announce);
    else if (announce) put(IN_CREATE, child);
  }
  closedir(directory);
}

static int is_watched(const char *path) {
  for (size_t wd = 0; wd < capacity; wd++)
    if (paths[wd] && !strcmp(paths[wd], path)) return 1;
  return 0;
}

/* A directory moved away keeps its watches in the kernel; the names below it are no longer true. */
static void forget_below(const char *path) {
  size_t length = strlen(path);
  for (size_t wd = 0; wd < capacity; wd++) {
    if (!paths[wd] || strncmp(paths[wd], path, length)) continue;
    if (paths[wd][length] && paths[wd][length] != '/') continue;
    inotify_rm_watch(inotify_fd, wd);
    free(paths[wd]);
    paths[wd] = NULL;
  }
}

static void handle(const struct inotify_event *event) {
  char path[PATH_MAX];
  if (event->mask & IN_Q_OVERFLOW) return put(IN_Q_OVERFLOW, "");
  if (event->wd < 0 || (size_t)event->wd >= capacity || !paths[event->wd]) return;
  if (event->mask & IN_IGNORED) {
    free(paths[event->wd]);
    paths[event->wd] = NULL;
    return;
  }
  int on_nested_self = event->len == 0 && *paths[event->wd];
  if (on_nested_self) return; /* the parent directory reports it by name */
  join(path, paths[event->wd], event->len ? event->name : "");
  if (recursive && (event->mask & IN_ISDIR) && (event->mask & IN_MOVED_FROM)) forget_below(path);
  if (recursive && (event->mask & IN_CREATE) && was_announced(path)) return;
  if (recursive && (event->mask & IN_ISDIR) && (event->mask & (IN_CREATE | IN_MOVED_TO)) && !is_watched(path))
    add(path, event->mask, event->mask & IN_CREATE);
  else put(event->mask, path);
}

int main(int argc, char **argv) {
  recursive = argc == 3 && !strcmp(argv[1], "-r");
  if (argc != 2 + recursive) return 2;
  static char base[PATH_MAX];
  snprintf(base, sizeof base, "%s", argv[argc - 1]);
  root = base;
  inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (inotify_fd < 0) fail();
  add("", 0, 0);
  put(0, "");
  struct pollfd watched[2] = {{.fd = 0, .events = POLLIN}, {.fd = inotify_fd, .events = POLLIN}};
  _Alignas(struct inotify_event) static char buffer[64 * 1024];
  for (;;) {
    if (poll(watched, 2, -1) < 0 && errno != EINTR) return 1;
    if (watched[0].revents) return 0;
    ssize_t size = read(inotify_fd, buffer, sizeof buffer);
    for (ssize_t at = 0; at < size;) {
      const struct inotify_event *event = (const void *)(buffer + at);
      handle(event);
      at += sizeof *event + event->len;
    }
  }
}
