/*
 * open-read-only: lets QEMU before 8.2 map a file of memory privately that it may only read.
 *
 * Those versions open the file for writing, although a private mapping never writes to it. Preloaded, this opens the
 * one file that E2B_READ_ONLY names for reading. Every other call goes through as it is.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int open_file(const char *path, int flags, mode_t mode) {
    const char *read_only = getenv("E2B_READ_ONLY");
    if (read_only && !strcmp(path, read_only)) flags = (flags & ~O_ACCMODE) | O_RDONLY;
    return syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_file(path, flags, mode);
}

/* What a fortified program calls where it gives no mode. */
int __open64_2(const char *path, int flags) { return open_file(path, flags, 0); }
