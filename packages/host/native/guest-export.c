/*
 * guest-export: a directory tree as a stream on a block device, for the machine outside, which mounts no file system
 * that a guest has written.
 *
 * The stream, all little endian: 8 bytes of magic, then records. A record is a `struct record`, the name (one
 * component, none for the tree itself), extended attributes, then by its kind:
 *   'D' directory   what is in it follows, until its 'U'
 *   'F' file        extents of data: 64-bit offset and length, then the bytes; an extent of length 0 ends them
 *   'L' symlink     `size` bytes of target
 *   'N' node        device, fifo or socket, by the type in `mode`
 *   'H' hard link   to the record whose number, counted from 0, is `size`
 *   'E' end         `size` is the number of records before it, those of 'U' not counted
 * Extended attributes: 16-bit length of name, 32-bit length of value, both. In place of the magic, FAILED and a text
 * ended by 0 say that there is no stream.
 *
 * The reader (engines/microvm/tree-stream.ts) trusts none of it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "guest-export.h"

#define MAGIC "E2BTREE1"
#define FAILED "E2BFAIL1"
enum { BUFFER = 1 << 20, BLOCK = 4096, DEPTH = 250, XATTRS = 1 << 16 };

struct record {
    uint8_t kind;
    /* Hard links to it may follow. */
    uint8_t is_linked;
    uint16_t name_length;
    uint32_t mode, uid, gid, major, minor;
    uint64_t size;
    int64_t seconds;
    uint32_t nanoseconds;
    uint32_t xattrs_length;
};
_Static_assert(sizeof(struct record) == 48, "as the reader has it");

struct extent { uint64_t offset, length; };
struct linked { ino_t inode; uint64_t number; };

static int output = -1;
static char buffer[BUFFER] __attribute__((aligned(BLOCK)));
static size_t filled;
static uint64_t records;
static void *linked_inodes;

static void flush(void) {
    for (size_t done = 0; done < filled;) {
        ssize_t count = write(output, buffer + done, filled - done);
        if (count <= 0) fail("write", "the export");
        done += count;
    }
    filled = 0;
}

static void put(const void *bytes, size_t length) {
    for (const char *at = bytes; length > 0;) {
        size_t part = length < BUFFER - filled ? length : BUFFER - filled;
        memcpy(buffer + filled, at, part);
        filled += part, at += part, length -= part;
        if (filled == BUFFER) flush();
    }
}

void begin_export(const char *device) {
    output = open(device, O_WRONLY | O_CLOEXEC);
    if (output < 0) fail("open", device);
}

void export_failed(const char *reason) {
    if (output < 0) return;
    memset(buffer, 0, BLOCK);
    snprintf(buffer, BLOCK, FAILED "%s", reason);
    if (pwrite(output, buffer, BLOCK, 0) == BLOCK) fsync(output);
}

/* Answers the length of the attributes, which lie in `into` as the stream has them. */
static size_t read_xattrs(const char *path, char *into) {
    static char names[XATTRS], value[XATTRS];
    size_t length = 0;
    ssize_t listed = llistxattr(path, names, sizeof names);
    if (listed < 0) {
        if (errno == ENOTSUP) return 0;
        fail("attributes of", path);
    }
    for (char *name = names; name < names + listed; name += strlen(name) + 1) {
        ssize_t size = lgetxattr(path, name, value, sizeof value);
        if (size < 0) fail("attribute of", path);
        uint16_t name_length = strlen(name);
        uint32_t value_length = size;
        if (length + sizeof name_length + sizeof value_length + name_length + size > XATTRS) {
            errno = E2BIG;
            fail("attributes of", path);
        }
        memcpy(into + length, &name_length, sizeof name_length);
        memcpy(into + length + sizeof name_length, &value_length, sizeof value_length);
        length += sizeof name_length + sizeof value_length;
        memcpy(into + length, name, name_length);
        memcpy(into + length + name_length, value, size);
        length += name_length + size;
    }
    return length;
}

/* `name` is relative to the current directory, or "." for the tree itself, which has no name in the stream. */
static void put_record(char kind, const struct stat *stat, const char *name, uint64_t size) {
    static char xattrs[XATTRS];
    int is_root = !strcmp(name, ".");
    size_t length = kind == 'H' ? 0 : read_xattrs(name, xattrs);
    struct record record = {
        .kind = kind,
        .is_linked = kind != 'D' && stat->st_nlink > 1,
        .name_length = is_root ? 0 : strlen(name),
        .mode = stat->st_mode, .uid = stat->st_uid, .gid = stat->st_gid,
        .major = major(stat->st_rdev), .minor = minor(stat->st_rdev),
        .size = size,
        .seconds = stat->st_mtim.tv_sec, .nanoseconds = stat->st_mtim.tv_nsec,
        .xattrs_length = length,
    };
    put(&record, sizeof record);
    put(name, record.name_length);
    put(xattrs, length);
    records++;
}

static void put_mark(char kind, uint64_t size) {
    struct record record = {.kind = kind, .size = size};
    put(&record, sizeof record);
}

static int by_inode(const void *a, const void *b) {
    ino_t one = ((const struct linked *)a)->inode, other = ((const struct linked *)b)->inode;
    return one < other ? -1 : one > other;
}

/* Says whether the file was met under another name, and remembers it otherwise. */
static const struct linked *met_before(const struct stat *stat) {
    struct linked *linked = malloc(sizeof *linked), **found;
    if (!linked) fail("remember", "a hard link");
    *linked = (struct linked){.inode = stat->st_ino, .number = records};
    found = tsearch(linked, &linked_inodes, by_inode);
    if (!found) fail("remember", "a hard link");
    if (*found == linked) return NULL;
    free(linked);
    return *found;
}

static void put_data(int fd, const char *name, off_t from, off_t to) {
    static char data[BUFFER];
    struct extent extent = {.offset = from, .length = to - from};
    put(&extent, sizeof extent);
    while (from < to) {
        size_t part = to - from < BUFFER ? to - from : BUFFER;
        ssize_t count = pread(fd, data, part, from);
        if (count <= 0) fail("read", name);
        put(data, count);
        from += count;
    }
}

static void put_file(const char *name, off_t size) {
    int fd = open(name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) fail("open", name);
    for (off_t at = 0; at < size;) {
        off_t from = lseek(fd, at, SEEK_DATA);
        if (from < 0 && errno == ENXIO) break;
        off_t to = from < 0 ? -1 : lseek(fd, from, SEEK_HOLE);
        if (to < 0) fail("seek in", name);
        if (from >= size) break;
        put_data(fd, name, from, to < size ? to : size);
        at = to;
    }
    struct extent end = {0};
    put(&end, sizeof end);
    close(fd);
}

static void put_symlink(const struct stat *stat, const char *name) {
    static char target[BLOCK];
    ssize_t length = readlink(name, target, sizeof target);
    if (length < 0) fail("read link", name);
    put_record('L', stat, name, length);
    put(target, length);
}

static void put_directory(const struct stat *stat, const char *name, int depth);

static void put_entry(const char *name, int depth) {
    struct stat stat;
    if (lstat(name, &stat)) fail("stat", name);
    if (S_ISDIR(stat.st_mode)) return put_directory(&stat, name, depth);
    const struct linked *known = stat.st_nlink > 1 ? met_before(&stat) : NULL;
    if (known) return put_record('H', &stat, name, known->number);
    if (S_ISLNK(stat.st_mode)) return put_symlink(&stat, name);
    if (!S_ISREG(stat.st_mode)) return put_record('N', &stat, name, 0);
    put_record('F', &stat, name, stat.st_size);
    put_file(name, stat.st_size);
}

/* The current directory is that of `name` before and after. */
static void put_directory(const struct stat *stat, const char *name, int depth) {
    errno = ELOOP;
    if (depth > DEPTH) fail("too deep", name);
    put_record('D', stat, name, 0);
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    int parent = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (!directory || parent < 0 || fchdir(fd)) fail("open", name);
    for (struct dirent *entry; (errno = 0, entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) put_entry(entry->d_name, depth + 1);
    if (errno || fchdir(parent)) fail("read", name);
    closedir(directory);
    close(parent);
    put_mark('U', 0);
}

void export_tree(const char *tree) {
    struct stat stat;
    put(MAGIC, strlen(MAGIC));
    if (chdir(tree) || lstat(".", &stat)) fail("open", tree);
    put_directory(&stat, ".", 0);
    put_mark('E', records);
    size_t whole = (filled + BLOCK - 1) / BLOCK * BLOCK;
    memset(buffer + filled, 0, whole - filled);
    filled = whole;
    flush();
    if (fsync(output)) fail("write", "the export");
}
