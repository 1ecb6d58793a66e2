/*
 * guest-init: process 1 of a microVM until the sandbox's own init takes over.
 *
 * Lies in the initramfs beside /modules (paths of kernel modules, one a line, in the order they are loaded). What the
 * machine looks like stands on the kernel's command line:
 *   e2b.probe                        say that a guest runs, and do nothing else
 *   e2b.disk=NAME                    block device of the writable disk (ext4), e.g. vda
 *   e2b.lower=NAME,NAME[.PART],...   read-only layers (EROFS), the topmost first. NAME.PART is image PART, counted
 *                                    from 1, of a bundle (see read_bundle)
 *   e2b.ip= e2b.gw= e2b.gwmac=       address of eth0 (in a /30), gateway and its link address
 *   e2b.host=NAME                    host name
 *   e2b.pids=NUMBER                  processes and threads the sandbox may have
 *   e2b.export=NAME                  instead of all that: write what the sandbox has written on its disk to this
 *                                    device, as guest-export.c has it, and end the machine
 *
 * A failure is said on the console and ends the machine: nothing in it could be repaired from outside.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <linux/blkpg.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>
#include "guest-export.h"

#define ROOT "/root"
#define BOOT_ID "/run/e2b/boot_id"
#define CGROUPS "/sys/fs/cgroup"
#define GROUP CGROUPS "/sandbox"
#define BUNDLE_MAGIC "E2BPACK1"
enum { LOWERS = 256, BUNDLE_IMAGES = 255, BUNDLE_HEADER = 4096, OPTIONS = 4096, LINE = 4096 };

static char command_line[LINE];

static _Noreturn void end_machine(void) {
    sync();
    reboot(RB_AUTOBOOT);
    for (;;) pause();
}

void fail(const char *what, const char *name) {
    char reason[512];
    snprintf(reason, sizeof reason, "%s %s: %s", what, name, strerror(errno));
    dprintf(2, "guest-init: %s\n", reason);
    export_failed(reason);
    end_machine();
}

/* Value of a word `key=value` of the command line, or NULL. The copy belongs to the caller. */
static char *option(const char *key) {
    size_t length = strlen(key);
    for (char *at = command_line; (at = strstr(at, key)); at += length) {
        if (at != command_line && at[-1] != ' ') continue;
        if (at[length] != '=') continue;
        return strndup(at + length + 1, strcspn(at + length + 1, " \n"));
    }
    return NULL;
}

static char *required(const char *key) {
    char *value = option(key);
    errno = EINVAL;
    if (!value) fail("command line lacks", key);
    return value;
}

static ssize_t read_file(const char *path, char *into, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t count = read(fd, into, size - 1);
    close(fd);
    into[count > 0 ? count : 0] = 0;
    return count;
}

static int write_file(const char *path, const char *text, mode_t mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0) return -1;
    ssize_t count = write(fd, text, strlen(text));
    close(fd);
    return count == (ssize_t)strlen(text) ? 0 : -1;
}

static void must_mount(const char *from, const char *to, const char *type, unsigned long flags, const char *data) {
    if (mkdir(to, 0755) && errno != EEXIST) fail("mkdir", to);
    if (mount(from, to, type, flags, data)) fail("mount", to);
}

static void load_modules(void) {
    static char list[LINE];
    if (read_file("/modules", list, sizeof list) < 0) fail("read", "/modules");
    for (char *path = strtok(list, "\n"); path; path = strtok(NULL, "\n")) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) fail("open", path);
        if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST && errno != ENODEV) fail("load", path);
        close(fd);
        unlink(path);
    }
}

/*
 * A bundle holds many small images in one block device: 8 bytes of magic, a 32-bit count, then a 64-bit start and
 * length in bytes for each, all little endian, within the first 4,096 bytes. Each becomes a partition in the kernel's
 * eyes, so it is mounted like a device of its own.
 */
static void read_bundle(const char *device) {
    static char header[BUNDLE_HEADER];
    uint32_t count;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail("open", device);
    errno = EINVAL;
    if (read(fd, header, sizeof header) != sizeof header || memcmp(header, BUNDLE_MAGIC, 8)) fail("bundle", device);
    memcpy(&count, header + 8, sizeof count);
    if (count > BUNDLE_IMAGES) fail("bundle", device);
    for (uint32_t at = 0; at < count; at++) {
        uint64_t place[2];
        memcpy(place, header + 12 + at * sizeof place, sizeof place);
        struct blkpg_partition part = {.start = place[0], .length = place[1], .pno = at + 1};
        struct blkpg_ioctl_arg add = {.op = BLKPG_ADD_PARTITION, .datalen = sizeof part, .data = &part};
        if (ioctl(fd, BLKPG, &add) && errno != EBUSY) fail("partition of", device);
    }
    close(fd);
}

/* Mounts one layer at `target`: `vdb` is a device, `vdc.3` an image of a bundle. */
static void mount_layer(char *name, const char *target) {
    char device[64];
    char *part = strchr(name, '.');
    if (part) {
        *part++ = 0;
        snprintf(device, sizeof device, "/dev/%s%s", name, part);
        if (access(device, F_OK)) {
            char whole[64];
            snprintf(whole, sizeof whole, "/dev/%s", name);
            read_bundle(whole);
        }
    } else snprintf(device, sizeof device, "/dev/%s", name);
    must_mount(device, target, "erofs", MS_RDONLY | MS_NOATIME, NULL);
}

static void mount_disk(const char *options) {
    char device[64];
    snprintf(device, sizeof device, "/dev/%s", required("e2b.disk"));
    must_mount(device, "/d", "ext4", MS_NOATIME, options);
}

static void mount_root(void) {
    static char options[OPTIONS];
    char target[16];
    mount_disk("discard");
    if ((mkdir("/d/upper", 0755) && errno != EEXIST) || (mkdir("/d/work", 0700) && errno != EEXIST))
        fail("mkdir", "/d");
    int length = snprintf(options, sizeof options, "index=off,metacopy=off,redirect_dir=on,upperdir=/d/upper,workdir=/d/work,lowerdir=");
    int count = 0;
    if (mkdir("/l", 0700)) fail("mkdir", "/l");
    for (char *name = strtok(required("e2b.lower"), ","); name; name = strtok(NULL, ",")) {
        snprintf(target, sizeof target, "/l/%d", count);
        errno = E2BIG;
        if (count >= LOWERS || length + 8 >= OPTIONS) fail("layers", "too many");
        mount_layer(name, target);
        length += snprintf(options + length, sizeof options - length, "%s%s", count++ ? ":" : "", target);
    }
    must_mount("overlay", ROOT, "overlay", MS_NOATIME, options);
}

static void empty_directory(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char child[LINE];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        if (unlink(child) == 0) continue;
        empty_directory(child);
        rmdir(child);
    }
    closedir(dir);
}

/* A directory whatever the image has there; one that the image has keeps its mode. */
static void plain_directory(const char *path, mode_t mode) {
    struct stat found;
    if (lstat(path, &found) == 0 && S_ISDIR(found.st_mode)) return;
    unlink(path);
    if (mkdir(path, mode) || chmod(path, mode)) fail("mkdir", path);
}

/* A file whatever is there; one that the guest has locked against changes stays as it wants it. */
static void plain_file(const char *path, const char *text, mode_t mode) {
    if (unlink(path) && errno == EISDIR) {
        empty_directory(path);
        rmdir(path);
    }
    if (write_file(path, text, mode) && errno != EPERM) fail("write", path);
}

static void prepare_root(const char *gateway) {
    char text[128], id[64];
    static const struct { const char *path; mode_t mode; } directories[] = {
        {ROOT "/proc", 0555}, {ROOT "/sys", 0555}, {ROOT "/dev", 0755}, {ROOT "/tmp", 01777},
        {ROOT "/etc", 0755}, {ROOT "/run", 0755}, {ROOT "/run/e2b", 0755},
    };
    /* On a machine these do not outlive a boot. */
    empty_directory(ROOT "/run");
    for (size_t at = 0; at < sizeof directories / sizeof *directories; at++)
        plain_directory(directories[at].path, directories[at].mode);
    if (read_file("/proc/sys/kernel/random/boot_id", id, sizeof id) < 0) fail("read", "boot_id");
    plain_file(ROOT BOOT_ID, id, 0444);
    snprintf(text, sizeof text, "nameserver %s\n", gateway);
    plain_file(ROOT "/etc/resolv.conf", text, 0644);
}

static void move_mount_to_root(const char *path) {
    char target[64];
    snprintf(target, sizeof target, ROOT "%s", path);
    if (mount(path, target, NULL, MS_MOVE, NULL)) fail("move", path);
}

static void mount_kernel_file_systems(void) {
    const unsigned long safe = MS_NOSUID | MS_NOEXEC;
    must_mount("devpts", "/dev/pts", "devpts", safe, "ptmxmode=0666,mode=0620,gid=5");
    must_mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    must_mount("mqueue", "/dev/mqueue", "mqueue", safe | MS_NODEV, NULL);
    static const char *links[][2] = {
        {"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
    };
    for (size_t at = 0; at < sizeof links / sizeof *links; at++)
        if (symlink(links[at][0], links[at][1]) && errno != EEXIST) fail("link", links[at][1]);
    move_mount_to_root("/dev");
    move_mount_to_root("/sys");
    move_mount_to_root("/proc");
    /* Clones of one snapshot have different boot ids: the agent rewrites the file after each start. */
    if (mount(ROOT BOOT_ID, ROOT "/proc/sys/kernel/random/boot_id", NULL, MS_BIND, NULL)) fail("bind", BOOT_ID);
}

static void set_address(struct sockaddr *into, const char *text) {
    struct sockaddr_in *address = (struct sockaddr_in *)into;
    address->sin_family = AF_INET;
    errno = EINVAL;
    if (inet_pton(AF_INET, text, &address->sin_addr) != 1) fail("address", text);
}

static void interface_up(int fd, const char *name) {
    struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(fd, SIOCSIFFLAGS, &request)) fail("up", name);
}

/* All by hand: the gateway answers no ARP, and nothing but this machine is on the link. */
static void set_network(const char *gateway) {
    write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1", 0);
    write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1", 0);
    write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0", 0);
    write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647", 0);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket", "inet");
    interface_up(fd, "lo");
    struct ifreq request = {.ifr_name = "eth0"};
    set_address(&request.ifr_addr, required("e2b.ip"));
    if (ioctl(fd, SIOCSIFADDR, &request)) fail("address", "eth0");
    set_address(&request.ifr_netmask, "255.255.255.252");
    if (ioctl(fd, SIOCSIFNETMASK, &request)) fail("netmask", "eth0");
    interface_up(fd, "eth0");
    struct arpreq neighbour = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = "eth0"};
    unsigned char *mac = (unsigned char *)neighbour.arp_ha.sa_data;
    set_address(&neighbour.arp_pa, gateway);
    neighbour.arp_ha.sa_family = ARPHRD_ETHER;
    errno = EINVAL;
    if (sscanf(required("e2b.gwmac"), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
        fail("command line", "e2b.gwmac");
    if (ioctl(fd, SIOCSARP, &neighbour)) fail("neighbour", gateway);
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    set_address(&route.rt_gateway, gateway);
    set_address(&route.rt_dst, "0.0.0.0");
    set_address(&route.rt_genmask, "0.0.0.0");
    if (ioctl(fd, SIOCADDRT, &route)) fail("route", gateway);
    close(fd);
}

static void set_limits(void) {
    const rlim_t files = 1048576;
    struct rlimit open_files = {files, files}, core = {0, 0};
    setrlimit(RLIMIT_NOFILE, &open_files);
    setrlimit(RLIMIT_CORE, &core);
    char *pids = option("e2b.pids");
    /* The kernel's own threads count too: some dozens, more with each processor. */
    char text[32];
    if (!pids) return;
    snprintf(text, sizeof text, "%ld", atol(pids) + 128);
    write_file("/proc/sys/kernel/threads-max", text, 0);
}

/*
 * All that runs here shares a little less memory than there is. Without that, a kernel that has none left may look for
 * some for ever: what file systems allocate (GFP_NOFS) ends nobody, and whoever could be ended may wait for them. The
 * group's limit is met before, and ends a process whoever asks. What is left above the kernel's own watermarks is for
 * what it does on nobody's account.
 */
static void limit_memory(void) {
    const unsigned long long unaccounted = 8 << 20;
    struct sysinfo memory;
    char text[32];
    if (read_file("/proc/sys/vm/min_free_kbytes", text, sizeof text) < 0 || sysinfo(&memory)) fail("read", "memory");
    unsigned long long free_bytes = (unsigned long long)memory.freeram * memory.mem_unit;
    unsigned long long high_watermark = strtoull(text, NULL, 10) * 1024 * 3 / 2;
    unsigned long long kept = high_watermark + unaccounted;
    if (kept > free_bytes / 2) kept = free_bytes / 2;
    snprintf(text, sizeof text, "%llu", free_bytes - kept);
    must_mount("cgroup2", CGROUPS, "cgroup2", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
    if (mkdir(GROUP, 0755)) fail("mkdir", GROUP);
    if (write_file(CGROUPS "/cgroup.subtree_control", "+memory", 0) || write_file(GROUP "/memory.max", text, 0) ||
        write_file(GROUP "/cgroup.procs", "0", 0))
        fail("write", GROUP);
}

static _Noreturn void become_init(void) {
    static char *words[] = {"/.e2b/bin/init", NULL};
    static char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};
    unlink("/init");
    if (chdir(ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/")) fail("switch to", ROOT);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; null >= 0 && fd < 3; fd++) dup2(null, fd);
    if (null > 2) close(null);
    execve(words[0], words, environment);
    int console = open("/dev/console", O_WRONLY);
    if (console >= 0) dup2(console, 2);
    fail("exec", words[0]);
}

static _Noreturn void export_disk(const char *name) {
    char device[64];
    snprintf(device, sizeof device, "/dev/%s", name);
    begin_export(device);
    mount_disk(NULL);
    export_tree("/d/upper");
    umount2("/d", MNT_DETACH);
    end_machine();
}

int main(void) {
    must_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; console >= 0 && fd < 3; fd++) dup2(console, fd);
    if (console > 2) close(console);
    umask(022);
    must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
    must_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
    if (read_file("/proc/cmdline", command_line, sizeof command_line) < 0) fail("read", "/proc/cmdline");
    if (strstr(command_line, "e2b.probe")) {
        dprintf(1, "guest-init: a guest runs\n");
        for (;;) pause();
    }
    load_modules();
    char *output = option("e2b.export");
    if (output) export_disk(output);
    char *gateway = required("e2b.gw"), *host = option("e2b.host");
    if (host && sethostname(host, strlen(host))) fail("host name", host);
    set_network(gateway);
    limit_memory();
    mount_root();
    prepare_root(gateway);
    set_limits();
    mount_kernel_file_systems();
    become_init();
}
