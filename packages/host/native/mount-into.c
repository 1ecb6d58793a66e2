/*
 * mount-into: shows a file of this machine to a process in a mount namespace of its own, which cannot see it otherwise.
 *
 *   mount-into PID SOURCE TARGET   SOURCE as this machine names it, TARGET as the process does; it exists
 *   mount-into PID TARGET          takes it away again
 *
 * A program of its own, because a thread among others may not change its mount namespace. Exit status 0, or 1 with
 * the reason on standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif

static int failed(const char *what, const char *path) {
    fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
    return 1;
}

static int enter(const char *pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/mnt", atoi(pid));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return failed("open", path);
    /* Root and working directory are those of the namespace from here on. */
    if (setns(fd, CLONE_NEWNS) < 0) return failed("setns", path);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3) {
        if (enter(argv[1])) return 1;
        return umount2(argv[2], MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? failed("umount", argv[2]) : 0;
    }
    if (argc != 4) {
        fprintf(stderr, "usage: mount-into PID [SOURCE] TARGET\n");
        return 1;
    }
    int tree = syscall(SYS_open_tree, AT_FDCWD, argv[2], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
    if (tree < 0) return failed("open_tree", argv[2]);
    if (enter(argv[1])) return 1;
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, argv[3], MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return failed("move_mount", argv[3]);
    return 0;
}
