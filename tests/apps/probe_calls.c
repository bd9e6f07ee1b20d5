// Makes each system call that the shim owns, by its number, at entries that nothing has touched before.
//
// usage: probe_calls DIR       where DIR holds a copy of one small folder for each name of a system call
//
// Each line begins with the name of the call, so that a test can tell which were made. What a call has left is listed.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/quota.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

// Headers may be older than the kernel.
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443
#endif
#ifndef SYS_setxattrat
#define SYS_setxattrat 463
#define SYS_getxattrat 464
#define SYS_listxattrat 465
#define SYS_removexattrat 466
#endif
#ifndef SYS_open_tree_attr
#define SYS_open_tree_attr 467
#endif
#ifndef SYS_file_getattr
#define SYS_file_getattr 468
#define SYS_file_setattr 469
#endif

struct attribute { uint64_t value; uint32_t size, flags; };
struct file_attributes { uint64_t xflags; uint32_t extsize, nextents, projid, cowextsize; };
struct mount_attributes { uint64_t set, clear, propagation, userns; };
struct linux_dirent { unsigned long ino, off; unsigned short length; char name[]; };
struct linux_dirent64 { uint64_t ino; int64_t off; unsigned short length; unsigned char type; char name[]; };

static char root[PATH_MAX], f[64], f2[64], f3[64], d[64], d2[64], in[64], e[64], l[64], dl[64], none[64], x[64], made[64], made2[64], absolute[PATH_MAX + 64];
static const char *current;
static volatile int failed;

static long say(const char *call, long result) {
    if (result == -1) printf("%s: %s\n", call, strerrorname_np(errno));
    else printf("%s: ok\n", call);
    return result;
}
#define CALL(name, ...) say(#name " " #__VA_ARGS__, (errno = 0, syscall(SYS_##name, __VA_ARGS__)))
#define CALL0(name) say(#name " ", (errno = 0, syscall(SYS_##name)))
#define TRUTH(what) printf("%s: %s: %s\n", current, #what, (what) ? "yes" : "no")

static int begin(const char *name) {
    char *const places[] = {f, f2, f3, d, d2, in, e, l, dl, none, x, made, made2};
    const char *const names[] = {"f", "f2", "f3", "d", "d2", "d/in", "e", "l", "dl", "none", "x", "made", "made2"};
    current = name;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) snprintf(places[i], 64, "%s/%s", name, names[i]);
    snprintf(absolute, sizeof absolute, "%s/%s/f", root, name);
    printf("-- %s\n", name);
    return chdir(root);
}

static void show(const char *name, const struct stat *s) {
    int is_directory = S_ISDIR(s->st_mode);
    printf("  %s: %o %ld %ld", name, s->st_mode, is_directory ? 0 : (long)s->st_nlink, is_directory ? 0 : (long)s->st_size);
    // Times of the run differ between any two.
    if (s->st_mtim.tv_sec < 1500000000) printf(" %ld.%09ld", (long)s->st_mtim.tv_sec, s->st_mtim.tv_nsec);
    printf("\n");
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Shows what is in a folder by now, with the beginning of each file.
static void tell(const char *folder) {
    char *names[64], path[PATH_MAX], text[24];
    int count = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir)) && count < 64;)
        if (entry->d_name[0] != '.') names[count++] = strdup(entry->d_name);
    if (dir) closedir(dir);
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) {
        struct stat s;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (lstat(path, &s)) { printf("  %s: %s\n", path, strerrorname_np(errno)); continue; }
        show(path, &s);
        if (S_ISREG(s.st_mode)) {
            int fd = open(path, O_RDONLY);
            ssize_t length = read(fd, text, sizeof text - 1);
            printf("  %s\n", length < 0 ? strerrorname_np(errno) : (text[length] = 0, text));
            if (fd >= 0) close(fd);
        } else if (S_ISLNK(s.st_mode)) {
            ssize_t length = readlink(path, text, sizeof text - 1);
            printf("  -> %.*s\n", (int)length, text);
        } else if (S_ISDIR(s.st_mode)) tell(path);
        free(names[i]);
    }
}

static int folder(const char *path) { return open(path, O_RDONLY | O_DIRECTORY); }

// Lists a little more of a folder whose names all are as short; tells how many there were.
static void list_more(int fd, size_t room) {
    char bytes[4096];
    long count = 0, length = syscall(SYS_getdents64, fd, bytes, room);
    for (long at = 0; at < length; at += ((struct linux_dirent64 *)(bytes + at))->length) count++;
    printf("  %s: %ld more\n", current, length < 0 ? length : count);
}

// A descriptor that is sent is open on the same: the list goes on where the other one was.
static void send_listed(int is_many) {
    int fd = folder(current), pair[2], received;
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    list_more(fd, 72);
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } sent = {0}, got = {0};
    struct iovec bytes = {"x", 1};
    char byte;
    struct iovec into = {&byte, 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &sent, .msg_controllen = sizeof sent}};
    sent.head.cmsg_level = SOL_SOCKET, sent.head.cmsg_type = SCM_RIGHTS, sent.head.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&sent.head), &fd, sizeof fd);
    if (is_many) CALL(sendmmsg, pair[0], &message, 1, 0);
    else CALL(sendmsg, pair[0], &message.msg_hdr, 0);
    struct msghdr answer = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = &got, .msg_controllen = sizeof got};
    TRUTH(recvmsg(pair[1], &answer, 0) == 1);
    memcpy(&received, CMSG_DATA(&got.head), sizeof received);
    list_more(received, 72), list_more(fd, 72), list_more(received, 4096), list_more(fd, 4096);
    say("sent faccessat", faccessat(received, "d/in", F_OK, 0)), close(received), close(fd), close(pair[0]), close(pair[1]);
}

static void child(void (*work)(void)) {
    fflush(stdout);
    pid_t pid = syscall(SYS_fork);
    if (pid == 0) {
        work();
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    printf("%s: status %d\n", current, status);
}

// ---- looking

static void looks(void) {
    struct stat s;
    char bytes[4096];
    begin("stat"), CALL(stat, f, &s), show("f", &s), CALL(stat, l, &s), show("l", &s), CALL(stat, none, &s), CALL(stat, d, &s), show("d", &s), CALL(stat, absolute, &s), CALL(stat, "stat/f/", &s), CALL(stat, "stat/dl/in", &s), CALL(stat, "", &s);
    begin("lstat"), CALL(lstat, l, &s), show("l", &s), CALL(lstat, dl, &s), CALL(lstat, "lstat/dl/", &s), show("dl", &s), CALL(lstat, "lstat/dl/in", &s);
    begin("fstat");
    int fd = folder(d);
    CALL(fstat, fd, &s), show("d", &s), CALL(fstat, -1, &s);
    begin("newfstatat");
    int at = folder(current);
    CALL(newfstatat, at, "f", &s, 0), CALL(newfstatat, at, "l", &s, AT_SYMLINK_NOFOLLOW), show("l", &s), CALL(newfstatat, at, "", &s, AT_EMPTY_PATH), show(".", &s), CALL(newfstatat, at, "d/../f", &s, 0), CALL(newfstatat, at, "../stat/f", &s, 0), CALL(newfstatat, at, "../../x", &s, 0), CALL(newfstatat, at, "none", &s, 0), CALL(newfstatat, at, "", &s, 0), CALL(newfstatat, at, "f", &s, 1 << 30), CALL(newfstatat, -1, "f", &s, 0), CALL(newfstatat, AT_FDCWD, "", &s, AT_EMPTY_PATH);
    begin("statx");
    struct statx wide;
    CALL(statx, AT_FDCWD, f, 0, STATX_BASIC_STATS, &wide), TRUTH(wide.stx_size == 6);
    at = folder(d);
    CALL(statx, at, "in", AT_SYMLINK_NOFOLLOW, STATX_ALL, &wide), CALL(statx, at, "", AT_EMPTY_PATH, STATX_MODE, &wide), TRUTH(S_ISDIR(wide.stx_mode)), CALL(statx, at, "in", 0, STATX__RESERVED, &wide), CALL(statx, at, "in", 1 << 30, 0, &wide), CALL(statx, at, "none", AT_STATX_DONT_SYNC, 0, &wide), CALL(statx, at, "in", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, 0, &wide);
    begin("access"), CALL(access, f, R_OK), CALL(access, x, X_OK), CALL(access, f, X_OK), CALL(access, none, F_OK), CALL(access, dl, X_OK), CALL(access, f, 8);
    begin("faccessat"), CALL(faccessat, AT_FDCWD, f, R_OK), CALL(faccessat, folder(d), "in", R_OK), CALL(faccessat, folder(d), "none", R_OK);
    begin("faccessat2"), CALL(faccessat2, AT_FDCWD, l, R_OK, AT_SYMLINK_NOFOLLOW), CALL(faccessat2, folder(d2), "", X_OK, AT_EMPTY_PATH), CALL(faccessat2, AT_FDCWD, f, X_OK, AT_EACCESS), CALL(faccessat2, AT_FDCWD, f, R_OK, 1 << 30);
    memset(bytes, 0, sizeof bytes);
    begin("readlink"), CALL(readlink, l, bytes, sizeof bytes), printf("  %s\n", bytes), CALL(readlink, f, bytes, sizeof bytes), CALL(readlink, none, bytes, sizeof bytes), CALL(readlink, l, bytes, 0), CALL(readlink, "readlink/dl/in", bytes, 4), printf("  %ld\n", syscall(SYS_readlink, l, bytes, 1));
    char own[64];
    fd = folder(d);
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    memset(bytes, 0, sizeof bytes);
    CALL(readlink, own, bytes, sizeof bytes), printf("  %s\n", bytes + strlen(root));
    snprintf(own, sizeof own, "/proc/%d/fd/%d", getpid(), fd);
    memset(bytes, 0, sizeof bytes);
    CALL(readlink, own, bytes, sizeof bytes), TRUTH(strcmp(bytes + strlen(root), "/readlink/d") == 0);
    snprintf(own, sizeof own, "/proc/thread-self/fd/%d", fd);
    memset(bytes, 0, sizeof bytes);
    CALL(readlink, own, bytes, sizeof bytes), TRUTH(strcmp(bytes + strlen(root), "/readlink/d") == 0);
    begin("readlinkat");
    memset(bytes, 0, sizeof bytes);
    CALL(readlinkat, folder(current), "l", bytes, sizeof bytes), printf("  %s\n", bytes), CALL(readlinkat, folder(d), "in", bytes, sizeof bytes), CALL(readlinkat, open(l, O_PATH | O_NOFOLLOW), "", bytes, sizeof bytes), CALL(readlinkat, folder(d), "", bytes, sizeof bytes);
    snprintf(own, sizeof own, "%d", fd);
    memset(bytes, 0, sizeof bytes);
    CALL(readlinkat, folder("/proc/self/fd"), own, bytes, sizeof bytes), TRUTH(strcmp(bytes + strlen(root), "/readlink/d") == 0);
    begin("getxattr"), CALL(getxattr, f, "user.kept", bytes, sizeof bytes), CALL(getxattr, l, "user.none", bytes, sizeof bytes), CALL(getxattr, f, "user.kept", NULL, 0), CALL(getxattr, f, "user.kept", bytes, 1), CALL(getxattr, none, "user.kept", bytes, 1), CALL(getxattr, d, "user.none", bytes, 1);
    begin("lgetxattr"), CALL(lgetxattr, f, "user.kept", bytes, sizeof bytes), CALL(lgetxattr, l, "user.none", bytes, sizeof bytes), CALL(lgetxattr, l, "security.none", bytes, sizeof bytes), CALL(lgetxattr, f, "other.none", bytes, sizeof bytes), CALL(lgetxattr, f, "", bytes, sizeof bytes);
    begin("listxattr"), printf("  %ld\n", CALL(listxattr, f, bytes, sizeof bytes)), printf("  %ld\n", CALL(listxattr, d, bytes, sizeof bytes)), CALL(listxattr, none, bytes, sizeof bytes), CALL(listxattr, f, bytes, 1);
    begin("llistxattr"), printf("  %ld\n", CALL(llistxattr, l, bytes, sizeof bytes)), printf("  %ld\n", CALL(llistxattr, f, NULL, 0));
    begin("fgetxattr"), CALL(fgetxattr, folder(d), "user.none", bytes, sizeof bytes), CALL(fgetxattr, open(f, O_RDONLY), "user.kept", bytes, sizeof bytes);
    begin("flistxattr"), CALL(flistxattr, folder(d), bytes, sizeof bytes), CALL(flistxattr, open(f, O_RDONLY), bytes, sizeof bytes);
    begin("getxattrat");
    struct attribute value = {.value = (uintptr_t)bytes, .size = sizeof bytes};
    CALL(getxattrat, AT_FDCWD, f, 0, "user.kept", &value, sizeof value), CALL(getxattrat, folder(d), "in", 0, "user.none", &value, sizeof value), CALL(getxattrat, folder(d2), "", AT_EMPTY_PATH, "user.none", &value, sizeof value), CALL(getxattrat, AT_FDCWD, none, 0, "user.none", &value, sizeof value);
    begin("listxattrat"), CALL(listxattrat, AT_FDCWD, f, 0, bytes, sizeof bytes), CALL(listxattrat, folder(d), "in", AT_SYMLINK_NOFOLLOW, bytes, sizeof bytes), CALL(listxattrat, folder(d2), "", AT_EMPTY_PATH, bytes, sizeof bytes), CALL(listxattrat, AT_FDCWD, none, 0, bytes, sizeof bytes);
    struct file_attributes attributes = {0};
    begin("file_getattr"), CALL(file_getattr, AT_FDCWD, f, &attributes, sizeof attributes, 0), CALL(file_getattr, folder(d), "in", &attributes, sizeof attributes, 0), CALL(file_getattr, folder(d2), "", &attributes, sizeof attributes, AT_EMPTY_PATH), CALL(file_getattr, AT_FDCWD, none, &attributes, sizeof attributes, 0);
    begin("file_setattr"), CALL(file_setattr, AT_FDCWD, none, &attributes, sizeof attributes, 0), CALL(file_setattr, AT_FDCWD, f, &attributes, sizeof attributes, 0), CALL(file_setattr, folder(d), "in", &attributes, sizeof attributes, 0);
    struct statfs fs, named;
    begin("statfs"), CALL(statfs, f, &named), CALL(statfs, dl, &named), CALL(statfs, none, &named), CALL(statfs, "statfs/f/in", &named);
    begin("fstatfs"), CALL(fstatfs, folder(d), &fs), statfs(d, &named), TRUTH(fs.f_type == named.f_type && memcmp(&fs.f_fsid, &named.f_fsid, sizeof fs.f_fsid) == 0);
    fd = folder(d2);
    CALL(fstatfs, fd, &fs), CALL(fstatfs, -1, &fs);
}

static void lists(void) {
    char bytes[4096], names[64][32], *sorted[64];
    begin("getdents64");
    int fd = folder(current), count = 0;
    long length;
    // One name fits at a time.
    while ((length = syscall(SYS_getdents64, fd, bytes, 32)) > 0)
        for (char *at = bytes; at < bytes + length; at += ((struct linux_dirent64 *)at)->length) {
            struct linux_dirent64 *entry = (void *)at;
            snprintf(names[count], 32, "%s/%d", entry->name, entry->type), sorted[count] = names[count], count++;
        }
    qsort(sorted, count, sizeof *sorted, by_name);
    for (int i = 0; i < count; i++) printf("  %s\n", sorted[i]);
    CALL(getdents64, fd, bytes, sizeof bytes), CALL(getdents64, folder(d), bytes, 8), CALL(getdents64, open(f, O_RDONLY), bytes, sizeof bytes), CALL(getdents64, -1, bytes, sizeof bytes);
    CALL(getdents64, folder(d), (char *)8, 4096), CALL(getdents64, open(d, O_PATH), bytes, sizeof bytes);
    begin("getdents");
    fd = folder(current), count = 0;
    while ((length = syscall(SYS_getdents, fd, bytes, 64)) > 0)
        for (char *at = bytes; at < bytes + length; at += ((struct linux_dirent *)at)->length) {
            struct linux_dirent *entry = (void *)at;
            snprintf(names[count], 32, "%s/%d", entry->name, at[entry->length - 1]), sorted[count] = names[count], count++;
        }
    qsort(sorted, count, sizeof *sorted, by_name);
    for (int i = 0; i < count; i++) printf("  %s\n", sorted[i]);
    CALL(getdents, fd, bytes, sizeof bytes), CALL(getdents, folder(d), bytes, 8), CALL(getdents, open(f, O_RDONLY), bytes, sizeof bytes);
    begin("lseek");
    fd = folder(d);
    TRUTH(syscall(SYS_lseek, fd, 0L, SEEK_CUR) == 0);
    TRUTH(syscall(SYS_getdents64, fd, bytes, sizeof bytes) > 0), TRUTH(syscall(SYS_getdents64, fd, bytes, sizeof bytes) == 0);
    CALL(lseek, fd, 0L, SEEK_SET), TRUTH(syscall(SYS_getdents64, fd, bytes, sizeof bytes) > 0);
    // Streams that are shared go on where the other one has stopped.
    fd = folder(d2);
    int copy = dup(fd);
    TRUTH(syscall(SYS_getdents64, fd, bytes, sizeof bytes) > 0), TRUTH(syscall(SYS_getdents64, copy, bytes, sizeof bytes) == 0);
    CALL(lseek, -1, 0L, SEEK_SET), CALL(lseek, fd, 0L, 99);
}

// ---- opening

static void tell_opened(const char *what, int fd) {
    struct stat s;
    char own[64], target[PATH_MAX] = "";
    if (fd < 0) return;
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    if (fstat(fd, &s) == 0) show(what, &s);
    if (readlink(own, target, sizeof target - 1) > 0) printf("  is %s\n", target + strlen(root));
    close(fd);
}

static void opens(void) {
    begin("open");
    tell_opened("open", CALL(open, f, O_RDONLY)), tell_opened("open", CALL(open, l, O_RDWR)), CALL(open, l, O_NOFOLLOW), tell_opened("open", CALL(open, l, O_PATH | O_NOFOLLOW)), tell_opened("open", CALL(open, d, O_DIRECTORY)), CALL(open, d, O_WRONLY), CALL(open, f2, O_DIRECTORY), tell_opened("open", CALL(open, none, O_CREAT | O_EXCL | O_RDWR, 0640)), CALL(open, f2, O_CREAT | O_EXCL, 0600), CALL(open, dl, O_CREAT, 0600), tell_opened("open", CALL(open, f3, O_TRUNC | O_WRONLY)), CALL(open, "open/f2/", O_RDONLY), CALL(open, "open/none/x", O_CREAT, 0600), CALL(open, e, O_CREAT | O_DIRECTORY, 0600), CALL(open, d, O_NOFOLLOW | O_DIRECTORY), CALL(open, dl, O_NOFOLLOW | O_DIRECTORY);
    int unnamed = CALL(open, d, O_TMPFILE | O_RDWR, 0600);
    char own[64], target[PATH_MAX] = "";
    snprintf(own, sizeof own, "/proc/self/fd/%d", unnamed);
    TRUTH(readlink(own, target, sizeof target - 1) > 0 && strstr(target, "open/d/#") != NULL);
    say("open linkat an unnamed file", linkat(AT_FDCWD, own, AT_FDCWD, "open/d2/named", AT_SYMLINK_FOLLOW));
    tell(current);
    begin("openat");
    tell_opened("openat", CALL(openat, AT_FDCWD, f, O_RDONLY)), tell_opened("openat", CALL(openat, folder(d), "in", O_RDWR)), tell_opened("openat", CALL(openat, folder(d2), "new", O_CREAT | O_WRONLY, 0600)), tell_opened("openat", CALL(openat, folder(d2), ".", O_RDONLY)), tell_opened("openat", CALL(openat, folder(d2), "..", O_RDONLY)), tell_opened("openat", CALL(openat, open(d2, O_PATH), "in", O_RDONLY)), CALL(openat, folder(e), "none", O_RDONLY), CALL(openat, open(f, O_RDONLY), "x", O_RDONLY), CALL(openat, -1, "x", O_RDONLY), tell_opened("openat", CALL(openat, -1, absolute, O_RDONLY)), CALL(openat, folder(e), "", O_RDONLY);
    tell(current);
    begin("openat2");
    struct open_how how = {.flags = O_RDONLY};
    uint64_t resolves[] = {0, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, 1 << 20};
    const char *paths[] = {"f", "l", "d/in", "dl/in", "d/../f", "../openat/f", "/f", "none", "d", "dl", "/../f", "x", "dl/../f2"};
    for (size_t i = 0; i < sizeof resolves / sizeof *resolves; i++)
        for (size_t j = 0; j < sizeof paths / sizeof *paths; j++) {
            int at = folder(current);
            how.resolve = resolves[i];
            printf("  %s with %lx\n", paths[j], resolves[i]);
            tell_opened("openat2", CALL(openat2, at, paths[j], &how, sizeof how));
            close(at);
        }
    how.resolve = 0;
    CALL(openat2, AT_FDCWD, f, &how, 8), CALL(openat2, AT_FDCWD, f, (void *)8, sizeof how);
    how.flags = O_CREAT | O_WRONLY, how.mode = 0644, how.resolve = RESOLVE_BENEATH;
    tell_opened("openat2", CALL(openat2, folder(e), "new", &how, sizeof how)), CALL(openat2, folder(e), "../new", &how, sizeof how);
    how.flags = O_RDONLY;
    CALL(openat2, AT_FDCWD, f, &how, sizeof how);
    how.mode = 0, how.resolve = RESOLVE_CACHED, how.flags = O_RDONLY;
    int cached = syscall(SYS_openat2, AT_FDCWD, f3, &how, sizeof how);
    TRUTH(cached >= 0 || errno == EAGAIN);
    tell(current);
    begin("creat"), tell_opened("creat", CALL(creat, f, 0600)), tell_opened("creat", CALL(creat, l, 0600)), tell_opened("creat", CALL(creat, made, 0604)), CALL(creat, d, 0600), CALL(creat, "creat/none/x", 0600);
    tell(current);
}

// ---- names

static void names(void) {
    begin("mkdir"), CALL(mkdir, made, 0750), CALL(mkdir, d, 0700), CALL(mkdir, "mkdir/none/x", 0700), CALL(mkdir, "mkdir/f/x", 0700), CALL(mkdir, "mkdir/e/new/", 0700), CALL(mkdir, dl, 0700), CALL(mkdir, ".", 0700), CALL(mkdir, "mkdir/d/..", 0700), tell(current);
    begin("mkdirat"), CALL(mkdirat, folder(d), "new", 0700), CALL(mkdirat, folder(e), "new", 0700), CALL(mkdirat, AT_FDCWD, made, 0700), CALL(mkdirat, folder(d2), "in", 0700), tell(current);
    begin("rmdir"), CALL(rmdir, e), CALL(rmdir, d), CALL(rmdir, f), CALL(rmdir, dl), CALL(rmdir, none), CALL(rmdir, "rmdir/d/."), CALL(rmdir, "rmdir/d2/.."), unlink(in), CALL(rmdir, d), tell(current);
    begin("unlink"), CALL(unlink, f), CALL(unlink, l), CALL(unlink, d), CALL(unlink, none), CALL(unlink, f), CALL(unlink, in), CALL(unlink, "unlink/f2/"), CALL(unlink, "unlink/dl/in"), CALL(unlink, absolute), tell(current);
    begin("unlinkat"), CALL(unlinkat, folder(d), "in", 0), CALL(unlinkat, AT_FDCWD, e, AT_REMOVEDIR), CALL(unlinkat, AT_FDCWD, d2, AT_REMOVEDIR), CALL(unlinkat, folder(d2), "../f", 0), CALL(unlinkat, AT_FDCWD, f2, AT_REMOVEDIR), CALL(unlinkat, AT_FDCWD, f2, 1 << 30), tell(current);
    begin("rename"), CALL(rename, f, made), CALL(rename, f2, x), CALL(rename, d, e), CALL(rename, none, made2), CALL(rename, d2, "rename/d2/x"), CALL(rename, l, f3), CALL(rename, "rename/e/in", "rename/d2/in"), CALL(rename, d2, f3), CALL(rename, "rename/d2/.", made2), CALL(rename, d2, made2), tell(current);
    begin("renameat"), CALL(renameat, folder(d), "in", folder(e), "new"), CALL(renameat, AT_FDCWD, d2, folder(e), "moved"), CALL(renameat, folder(e), "../f", AT_FDCWD, made), CALL(renameat, AT_FDCWD, f2, AT_FDCWD, d), tell(current);
    begin("renameat2"), CALL(renameat2, AT_FDCWD, f, AT_FDCWD, f2, RENAME_NOREPLACE), CALL(renameat2, AT_FDCWD, f, AT_FDCWD, made, RENAME_NOREPLACE), CALL(renameat2, AT_FDCWD, d, AT_FDCWD, d2, RENAME_EXCHANGE), CALL(renameat2, AT_FDCWD, d, AT_FDCWD, f3, RENAME_EXCHANGE), CALL(renameat2, AT_FDCWD, f2, AT_FDCWD, none, RENAME_EXCHANGE), CALL(renameat2, folder("renameat2/f3"), "in", folder(e), "moved", RENAME_NOREPLACE), CALL(renameat2, AT_FDCWD, x, AT_FDCWD, l, RENAME_EXCHANGE), CALL(renameat2, AT_FDCWD, d2, AT_FDCWD, e, RENAME_NOREPLACE), CALL(renameat2, AT_FDCWD, d2, AT_FDCWD, made2, RENAME_NOREPLACE | RENAME_EXCHANGE), tell(current);
    begin("link"), CALL(link, f, made), CALL(link, l, made2), CALL(link, d, none), CALL(link, f, f2), CALL(link, none, none), CALL(link, f3, "link/e/new"), CALL(link, f3, "link/none/new"), tell(current);
    begin("linkat"), CALL(linkat, AT_FDCWD, l, AT_FDCWD, made, AT_SYMLINK_FOLLOW), CALL(linkat, folder(d), "in", folder(e), "new", 0), CALL(linkat, AT_FDCWD, l, AT_FDCWD, made2, 0);
    char own[64];
    int fd = open(f2, O_RDONLY);
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    CALL(linkat, AT_FDCWD, own, folder(d2), "opened", AT_SYMLINK_FOLLOW), tell(current);
    begin("symlink"), CALL(symlink, "f", made), CALL(symlink, "x", f), CALL(symlink, "x", "symlink/e/new"), CALL(symlink, "x", "symlink/none/new"), CALL(symlink, "", made2), tell(current);
    begin("symlinkat"), CALL(symlinkat, "in", folder(d), "new"), CALL(symlinkat, "x", AT_FDCWD, f), CALL(symlinkat, "x", folder(e), "../made"), tell(current);
    begin("mknod"), CALL(mknod, made, S_IFREG | 0600, 0), CALL(mknod, made2, S_IFIFO | 0600, 0), CALL(mknod, f, S_IFREG | 0600, 0), CALL(mknod, "mknod/e/new", S_IFIFO | 0644, 0), tell("mknod/d"), unlink(made2), unlink("mknod/e/new");
    begin("mknodat"), CALL(mknodat, folder(d), "new", S_IFREG | 0600, 0), CALL(mknodat, AT_FDCWD, d2, S_IFIFO, 0), tell(current);
}

// ---- what files have

static void changes(void) {
    struct timespec times[2] = {{5, 6}, {7, 8}}, omit[2] = {{0, UTIME_OMIT}, {9, 10}};
    struct timeval micro[2] = {{9, 10}, {11, 12}};
    long seconds[2] = {3, 4};
    begin("chmod"), CALL(chmod, f, 0640), CALL(chmod, l, 0600), CALL(chmod, d, 0711), CALL(chmod, none, 0600), CALL(chmod, "chmod/f/", 0600), tell(current);
    begin("fchmod"), CALL(fchmod, folder(d), 0750), CALL(fchmod, open(f, O_RDONLY), 0604), CALL(fchmod, open(f2, O_PATH), 0600), tell(current);
    begin("fchmodat"), CALL(fchmodat, folder(d), "in", 0600), CALL(fchmodat, AT_FDCWD, l, 0660), CALL(fchmodat, AT_FDCWD, e, 0700), tell(current);
    begin("fchmodat2"), CALL(fchmodat2, folder(d), "in", 0600, 0), CALL(fchmodat2, AT_FDCWD, l, 0600, AT_SYMLINK_NOFOLLOW), CALL(fchmodat2, folder(e), "", 0711, AT_EMPTY_PATH), CALL(fchmodat2, AT_FDCWD, f, 0600, 1 << 30), tell(current);
    begin("chown"), CALL(chown, f, -1, getegid()), CALL(chown, none, -1, -1), CALL(chown, dl, geteuid(), -1), tell(current);
    begin("fchown"), CALL(fchown, folder(d), -1, getegid()), CALL(fchown, open(f, O_RDONLY), -1, -1), tell(current);
    begin("lchown"), CALL(lchown, l, -1, getegid()), CALL(lchown, none, -1, -1), tell(current);
    begin("fchownat"), CALL(fchownat, folder(d), "in", -1, getegid(), 0), CALL(fchownat, folder(d2), "", -1, -1, AT_EMPTY_PATH), CALL(fchownat, AT_FDCWD, l, -1, -1, AT_SYMLINK_NOFOLLOW), tell(current);
    begin("utime"), CALL(utime, f, seconds), CALL(utime, d, seconds), CALL(utime, none, seconds), CALL(utime, f2, NULL), tell(current);
    begin("utimes"), CALL(utimes, f, micro), CALL(utimes, l, micro), CALL(utimes, none, NULL), tell(current);
    begin("futimesat"), CALL(futimesat, folder(d), "in", micro), CALL(futimesat, folder(d2), NULL, micro), CALL(futimesat, AT_FDCWD, f, micro), tell(current);
    begin("utimensat"), CALL(utimensat, folder(d), "in", times, 0), CALL(utimensat, folder(d2), NULL, times, 0), CALL(utimensat, folder(e), "", times, AT_EMPTY_PATH), CALL(utimensat, AT_FDCWD, l, omit, AT_SYMLINK_NOFOLLOW), CALL(utimensat, AT_FDCWD, none, NULL, 0), CALL(utimensat, AT_FDCWD, NULL, NULL, 0), tell(current);
    begin("truncate"), CALL(truncate, f, 3), CALL(truncate, l, 100), CALL(truncate, d, 1), CALL(truncate, none, 1), CALL(truncate, f2, -1L), tell(current);
    begin("setxattr"), CALL(setxattr, f, "user.one", "1", 1, 0), CALL(setxattr, l, "user.two", "22", 2, XATTR_CREATE), CALL(setxattr, f, "user.kept", "3", 1, XATTR_CREATE), CALL(setxattr, d, "user.one", "1", 1, XATTR_REPLACE), CALL(setxattr, none, "user.one", "1", 1, 0);
    begin("lsetxattr"), CALL(lsetxattr, f, "user.one", "1", 1, 0), CALL(lsetxattr, l, "user.one", "1", 1, 0);
    begin("fsetxattr"), CALL(fsetxattr, open(f, O_RDONLY), "user.one", "1", 1, 0), CALL(fsetxattr, folder(d), "user.one", "1", 1, 0);
    char value[8];
    TRUTH(getxattr(d, "user.one", value, sizeof value) == 1);
    removexattr(d, "user.one");
    begin("removexattr"), CALL(removexattr, f, "user.kept"), CALL(removexattr, f2, "user.none"), CALL(removexattr, none, "user.none");
    begin("lremovexattr"), CALL(lremovexattr, f, "user.kept"), CALL(lremovexattr, l, "user.none");
    begin("fremovexattr"), CALL(fremovexattr, open(f, O_RDONLY), "user.kept"), CALL(fremovexattr, folder(d), "user.none");
    struct attribute given = {.value = (uintptr_t)"1", .size = 1};
    begin("setxattrat"), CALL(setxattrat, AT_FDCWD, f, 0, "user.one", &given, sizeof given), CALL(setxattrat, folder(d), "in", 0, "user.one", &given, sizeof given), CALL(setxattrat, folder(d2), "", AT_EMPTY_PATH, "user.one", &given, sizeof given), CALL(setxattrat, AT_FDCWD, l, AT_SYMLINK_NOFOLLOW, "user.one", &given, sizeof given), CALL(setxattrat, AT_FDCWD, none, 0, "user.one", &given, sizeof given);
    removexattr(d2, "user.one");
    begin("removexattrat"), CALL(removexattrat, AT_FDCWD, f, 0, "user.kept"), CALL(removexattrat, folder(d), "in", 0, "user.none"), CALL(removexattrat, folder(d2), "", AT_EMPTY_PATH, "user.none"), CALL(removexattrat, AT_FDCWD, none, 0, "user.none");
}

// ---- handles, watches, sockets, locks

static void mounts_layers(void) {
    char options[PATH_MAX];
    snprintf(options, sizeof options, "lowerdir=%s:%s", d, d2);
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return;
    CALL(mount, "none", e, "overlay", 0, options), say("mount open", open("mount/e/in", O_RDONLY));
}

static void others(void) {
    struct { struct file_handle head; char bytes[128]; } one = {0}, other = {0};
    int mount;
    begin("name_to_handle_at");
    one.head.handle_bytes = other.head.handle_bytes = sizeof one.bytes;
    CALL(name_to_handle_at, AT_FDCWD, f, &one, &mount, 0), CALL(name_to_handle_at, folder(current), "f", &other, &mount, 0), TRUTH(memcmp(&one, &other, sizeof one) == 0);
    CALL(name_to_handle_at, folder(d), "", &one, &mount, AT_EMPTY_PATH), CALL(name_to_handle_at, AT_FDCWD, dl, &other, &mount, AT_SYMLINK_FOLLOW), TRUTH(memcmp(&one, &other, sizeof one) == 0), CALL(name_to_handle_at, AT_FDCWD, l, &one, &mount, 0), CALL(name_to_handle_at, AT_FDCWD, l, &other, &mount, AT_SYMLINK_FOLLOW), TRUTH(memcmp(&one, &other, sizeof one) != 0), CALL(name_to_handle_at, AT_FDCWD, none, &one, &mount, 0);
    begin("open_by_handle_at");
    one.head.handle_bytes = sizeof one.bytes;
    name_to_handle_at(AT_FDCWD, in, &one.head, &mount, 0);
    tell_opened("opened by handle", CALL(open_by_handle_at, folder(d), &one, O_RDONLY));
    begin("inotify_add_watch");
    int fd = inotify_init1(IN_NONBLOCK);
    CALL(inotify_add_watch, fd, d, IN_ALL_EVENTS), CALL(inotify_add_watch, fd, f, IN_MODIFY), CALL(inotify_add_watch, fd, l, IN_DONT_FOLLOW | IN_ATTRIB), CALL(inotify_add_watch, fd, f2, IN_ONLYDIR | IN_OPEN), CALL(inotify_add_watch, fd, none, IN_OPEN), CALL(inotify_add_watch, -1, f2, IN_OPEN);
    char bytes[4096] __attribute__((aligned(8)));
    close(open(in, O_WRONLY)), truncate(f, 2), chmod(in, 0600), rename(in, "inotify_add_watch/d/moved");
    ssize_t length = read(fd, bytes, sizeof bytes);
    for (char *at = bytes; at < bytes + length;) {
        struct inotify_event *event = (void *)at;
        printf("  event %x %s\n", event->mask, event->len ? event->name : "");
        at += sizeof *event + event->len;
    }
    begin("fanotify_mark");
    fd = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_REPORT_FID, O_RDONLY);
    say("fanotify_mark init", fd);
    CALL(fanotify_mark, fd, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, AT_FDCWD, d), CALL(fanotify_mark, fd, FAN_MARK_ADD, FAN_MODIFY, folder(d2), "in"), CALL(fanotify_mark, fd, FAN_MARK_ADD, FAN_OPEN, folder(e), NULL), CALL(fanotify_mark, fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, none), CALL(fanotify_mark, fd, FAN_MARK_ADD | FAN_MARK_DONT_FOLLOW, FAN_OPEN, AT_FDCWD, l);
    close(open(in, O_RDONLY)), truncate("fanotify_mark/d2/in", 1), closedir(opendir(e));
    length = read(fd, bytes, sizeof bytes);
    TRUTH(length > 0);
    for (struct fanotify_event_metadata *event = (void *)bytes; length > 0 && FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) printf("  event %lx\n", (long)event->mask);
    begin("bind");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int server = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", "bind/d/socket"), CALL(bind, server, &address, sizeof address);
    server = socket(AF_UNIX, SOCK_STREAM, 0), snprintf(address.sun_path, sizeof address.sun_path, "%s", f), CALL(bind, server, &address, sizeof address);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", "bind/none/socket"), CALL(bind, server, &address, sizeof address), CALL(bind, server, &address, 3), unlink("b");
    snprintf(address.sun_path, sizeof address.sun_path, "%s", "bind/e/through"), CALL(bind, server, &address, offsetof(struct sockaddr_un, sun_path) + strlen(address.sun_path));
    tell(current), unlink("bind/d/socket"), unlink("bind/e/through");
    begin("connect");
    server = socket(AF_UNIX, SOCK_STREAM, 0), snprintf(address.sun_path, sizeof address.sun_path, "%s", "connect/dl/socket");
    say("connect bind", bind(server, (void *)&address, sizeof address)), say("connect listen", listen(server, 2));
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", "connect/d2/socket"), CALL(connect, client, &address, sizeof address);
    client = socket(AF_UNIX, SOCK_STREAM, 0), snprintf(address.sun_path, sizeof address.sun_path, "%s", in), CALL(connect, client, &address, sizeof address);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", none), CALL(connect, client, &address, sizeof address), unlink("connect/d2/socket");
    begin("flock");
    int first = folder(d), second = folder(e), third = folder(d);
    CALL(flock, first, LOCK_EX | LOCK_NB), CALL(flock, second, LOCK_EX | LOCK_NB), CALL(flock, third, LOCK_EX | LOCK_NB), CALL(flock, first, LOCK_UN), CALL(flock, third, LOCK_SH | LOCK_NB), CALL(flock, open(f, O_RDONLY), LOCK_EX | LOCK_NB), CALL(flock, open(f, O_RDONLY), LOCK_EX | LOCK_NB);
    // Of a list that has begun, too.
    int listed = folder(d2);
    TRUTH(syscall(SYS_getdents64, listed, bytes, 32) > 0), CALL(flock, listed, LOCK_EX | LOCK_NB), CALL(flock, folder(d2), LOCK_EX | LOCK_NB), TRUTH(syscall(SYS_getdents64, listed, bytes, sizeof bytes) > 0);
    begin("fcntl");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    fd = folder(d);
    CALL(fcntl, fd, F_SETLK, &lock), CALL(fcntl, open(f, O_RDWR), F_OFD_SETLK, &lock), CALL(fcntl, open(f, O_RDWR), F_OFD_SETLK, &lock);
    TRUTH((syscall(SYS_fcntl, fd, F_GETFL) & (O_ACCMODE | O_DIRECTORY)) == (O_RDONLY | O_DIRECTORY)), CALL(fcntl, fd, F_NOTIFY, 0), CALL(fcntl, fd, F_SETLEASE, F_RDLCK), CALL(fcntl, fd, F_GET_SEALS);
    int copy = CALL(fcntl, fd, F_DUPFD_CLOEXEC, 100);
    struct stat s;
    say("fcntl newfstatat", fstatat(copy, "in", &s, 0));
    fcntl(fd, F_NOTIFY, DN_CREATE), signal(SIGIO, SIG_IGN);
    begin("ioctl");
    int flags = 0;
    struct fsxattr extended;
    fd = folder(d);
    long has_flags = CALL(ioctl, fd, FS_IOC_GETFLAGS, &flags);
    (void)has_flags;
    CALL(ioctl, folder(e), FS_IOC_FSGETXATTR, &extended), CALL(ioctl, fd, FIONREAD, &flags), CALL(ioctl, fd, FIOCLEX), CALL(ioctl, fd, FS_IOC_GETVERSION, &flags);
    begin("fsync"), fd = folder(d), CALL(fsync, fd), say("fsync openat", openat(fd, "new", O_CREAT | O_WRONLY, 0600)), CALL(fsync, fd), TRUTH(faccessat(fd, "in", F_OK, 0) == 0), CALL(fsync, -1);
    begin("fdatasync"), fd = folder(d), say("fdatasync mkdirat", mkdirat(fd, "new", 0700)), CALL(fdatasync, fd), CALL(fdatasync, folder(d2));
    begin("syncfs"), CALL(syncfs, folder(e)), CALL(syncfs, -1);
    begin("ftruncate"), CALL(ftruncate, folder(d), 0), CALL(ftruncate, open(f, O_RDWR), 3), CALL(fallocate, folder(e), 0, 0, 1), CALL(read, folder(e), bytes, 1), CALL(pread64, folder(e), bytes, 1, 0), CALL(mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, folder(e), 0), CALL(sendfile, 1, folder(e), NULL, 1), CALL(copy_file_range, folder(d), NULL, folder(e), NULL, 1, 0), CALL(fadvise64, folder(e), 0, 0, 0), CALL(readahead, folder(e), 0, 1);
    begin("dup"), fd = folder(current), list_more(fd, 72), copy = CALL(dup, fd), list_more(copy, 72), list_more(fd, 72), lseek(copy, 0, SEEK_SET), list_more(fd, 4096), list_more(copy, 4096), close(fd), say("dup faccessat", faccessat(copy, "d/in", F_OK, 0)), CALL(dup, -1);
    begin("sendmsg"), send_listed(0), begin("sendmmsg"), send_listed(1);
    // What fails, or closes nothing, leaves a list where it was.
    begin("dup2"), fd = folder(current), list_more(fd, 72), CALL(dup2, -1, fd), list_more(fd, 72), CALL(dup3, fd, fd, 0), CALL(dup3, 0, fd, 1), list_more(fd, 4096), close(fd);
    begin("close_range"), fd = folder(current), list_more(fd, 72), CALL(close_range, fd, fd, CLOSE_RANGE_CLOEXEC), list_more(fd, 72), CALL(close_range, fd, fd, 64), list_more(fd, 4096), close(fd);
    // What makes no sense is refused before anything is looked for.
    struct stat nothing;
    char wide[512];
    begin("newfstatat"), CALL(newfstatat, AT_FDCWD, none, &nothing, 1 << 30), snprintf(absolute, sizeof absolute, "%s/newfstatat/d/none", root), CALL(newfstatat, AT_FDCWD, absolute, &nothing, 1 << 30), CALL(newfstatat, folder(d), "none", &nothing, 1 << 30);
    begin("statx"), CALL(statx, AT_FDCWD, none, 1 << 30, STATX_BASIC_STATS, wide), CALL(statx, AT_FDCWD, none, 0, 1U << 31, wide), CALL(statx, AT_FDCWD, none, 0x6000, STATX_BASIC_STATS, wide), CALL(statx, folder(d), "none", 1 << 30, 0, wide);
    begin("access"), CALL(access, none, 8), CALL(access, f, 8), begin("faccessat"), CALL(faccessat, AT_FDCWD, none, 8), CALL(faccessat, folder(d), "none", 8);
    begin("faccessat2"), CALL(faccessat2, AT_FDCWD, none, 0, 1 << 30), CALL(faccessat2, AT_FDCWD, none, 8, 0), CALL(faccessat2, folder(d), "none", 0, 1 << 30);
    begin("readlink"), CALL(readlink, none, bytes, 0), CALL(readlink, none, bytes, -1), CALL(readlink, f, bytes, 0), begin("readlinkat"), CALL(readlinkat, AT_FDCWD, none, bytes, 0), CALL(readlinkat, folder(d), "none", bytes, 0);
    begin("open"), CALL(open, none, 020000000), CALL(open, none, O_PATH | O_TMPFILE), begin("openat"), CALL(openat, folder(d), "none", 020000000);
    begin("getxattr"), CALL(getxattr, none, "", bytes, 8), CALL(getxattr, none, "user.kept", bytes, 8), begin("lgetxattr"), CALL(lgetxattr, none, "", bytes, 8);
    begin("dup2"), fd = folder(d), CALL(dup2, fd, 200), say("dup2 newfstatat", fstatat(200, "in", &s, 0)), CALL(dup2, folder(d2), 200), say("dup2 newfstatat", fstatat(200, "in", &s, 0)), CALL(dup2, open("/", O_RDONLY), 200), say("dup2 newfstatat", fstatat(200, "in", &s, 0)), CALL(dup2, -1, 200);
    begin("dup3"), fd = folder(d), CALL(dup3, fd, 201, O_CLOEXEC), say("dup3 newfstatat", fstatat(201, "in", &s, 0)), CALL(dup3, fd, fd, 0);
    begin("close"), fd = folder(d), CALL(close, fd), CALL(fstat, fd, &s), copy = open("/", O_RDONLY), TRUTH(copy == fd), say("close newfstatat", fstatat(copy, "in", &s, 0)), CALL(close, -1);
    begin("close_range"), fd = folder(d), CALL(close_range, fd, fd, 0), CALL(fstat, fd, &s), copy = folder(d2), TRUTH(copy == fd), say("close_range newfstatat", fstatat(copy, "in", &s, 0)), CALL(close_range, 5, 4, 0), CALL(close_range, 500, ~0U, CLOSE_RANGE_CLOEXEC);
    begin("quotactl"), CALL(quotactl, QCMD(Q_GETINFO, USRQUOTA), f, 0, bytes), CALL(quotactl, QCMD(Q_SYNC, USRQUOTA), NULL, 0, NULL), CALL(quotactl, QCMD(Q_QUOTAON, USRQUOTA), none, 0, f2);
    begin("quotactl_fd"), CALL(quotactl_fd, folder(d), QCMD(Q_GETINFO, USRQUOTA), 0, bytes);
    begin("uselib"), CALL(uselib, f), CALL(uselib, none);
    begin("acct"), CALL(acct, d), CALL(acct, none);
    begin("swapon"), CALL(swapon, f, 0), CALL(swapon, none, 0);
    begin("swapoff"), CALL(swapoff, f), CALL(swapoff, none);
    begin("open_tree"), tell_opened("open_tree", CALL(open_tree, AT_FDCWD, f, 0)), tell_opened("open_tree", CALL(open_tree, folder(d), "in", AT_SYMLINK_NOFOLLOW)), tell_opened("open_tree", CALL(open_tree, folder(d2), "", AT_EMPTY_PATH)), CALL(open_tree, AT_FDCWD, none, 0);
    begin("open_tree_attr"), tell_opened("open_tree_attr", CALL(open_tree_attr, AT_FDCWD, f, 0, NULL, 0)), CALL(open_tree_attr, AT_FDCWD, none, 0, NULL, 0);
    struct mount_attributes attributes = {0};
    begin("mount_setattr"), CALL(mount_setattr, AT_FDCWD, d, 0, &attributes, sizeof attributes), CALL(mount_setattr, AT_FDCWD, none, 0, &attributes, sizeof attributes);
    begin("fspick"), CALL(fspick, AT_FDCWD, d, 0), CALL(fspick, AT_FDCWD, none, 0), CALL(fspick, folder(d2), "", 8);
    begin("move_mount"), CALL(move_mount, AT_FDCWD, d, AT_FDCWD, e, 0), CALL(move_mount, AT_FDCWD, none, AT_FDCWD, e, 0), CALL(move_mount, AT_FDCWD, d, AT_FDCWD, none, 0);
    begin("fsconfig"), CALL(fsconfig, -1, 3, "source", f, AT_FDCWD), CALL(fsconfig, -1, 1, "lowerdir", d, 0);
    begin("pivot_root"), CALL(pivot_root, d, e), CALL(pivot_root, none, e), CALL(pivot_root, d, none);
    begin("mount"), CALL(mount, "none", none, "tmpfs", 0, NULL), CALL(mount, f, f2, NULL, MS_MOVE, NULL), CALL(mount, "none", f, "tmpfs", 0, NULL);
    child(mounts_layers);
    begin("umount2"), CALL(umount2, d, 0), CALL(umount2, none, MNT_DETACH), CALL(umount2, dl, UMOUNT_NOFOLLOW);
}

// ---- places and processes

static void works_elsewhere(void) {
    char here[PATH_MAX] = "";
    struct stat s;
    CALL(chdir, d), CALL(stat, "in", &s), CALL(chdir, ".."), CALL(chdir, "f"), CALL(chdir, "none"), CALL(chdir, "dl"), printf("  %s\n", getcwd(here, sizeof here) + strlen(root)), CALL(stat, "../f", &s), CALL(chdir, "../../.."), CALL(stat, absolute, &s);
}
static void works_at_descriptor(void) {
    char here[PATH_MAX] = "";
    struct stat s;
    CALL(fchdir, folder(d)), printf("  %s\n", getcwd(here, sizeof here) + strlen(root)), CALL(stat, "in", &s), CALL(fchdir, open("../e", O_PATH)), CALL(stat, "../f", &s), CALL(fchdir, open("../f", O_RDONLY)), CALL(fchdir, -1);
}
static void *works_alone(void *unused) {
    (void)unused;
    CALL(unshare, CLONE_FS), say("unshare chdir", chdir(d)), say("unshare access", access("in", F_OK));
    return NULL;
}
static void unshares(void) {
    pthread_t thread;
    struct stat s;
    say("unshare stat", stat(in, &s));
    pthread_create(&thread, NULL, works_alone, NULL), pthread_join(thread, NULL);
    say("unshare stat", stat(in, &s)), say("unshare stat", stat("in", &s)), CALL(unshare, 1 << 1);
}
static int sets_aside(void *unused) { (void)unused; return chdir(d2) || access("in", F_OK); }
static void clones_memory(void) {
    static char stack[65536] __attribute__((aligned(16)));
    struct stat s;
    int status = 0;
    pid_t pid = clone(sets_aside, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
    waitpid(pid, &status, 0), printf("clone with memory ended with %d: ok\n", status), say("clone stat", stat(in, &s));
}
static void restricts_itself(void) {
    struct { uint64_t handled; } rules = {LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE};
    struct landlock_path_beneath_attr below = {LANDLOCK_ACCESS_FS_READ_FILE, folder(d)};
    int ruleset = syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
    if (ruleset < 0) errno = ENOSYS;
    CALL(landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &below, 0), prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    CALL(landlock_restrict_self, ruleset, 0), say("landlock_restrict_self open", open(in, O_RDONLY)), say("landlock_restrict_self open", open(f, O_RDONLY)), say("landlock_restrict_self access", access(f2, F_OK));
}
static void forbids(void) {
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof steps / sizeof *steps, .filter = steps};
    char outside[PATH_MAX + 64];
    snprintf(outside, sizeof outside, "%s.outside", root);
    say("seccomp before", access(outside, F_OK)), prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    CALL(seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter), say("seccomp after", access(outside, F_OK)), say("seccomp other", access("/none", F_OK)), say("seccomp open", open(f, O_RDONLY));
}
static void changes_root(void) { CALL(chroot, none), CALL(chroot, f), CALL(chroot, d); }
static void becomes_user(void) { CALL(setuid, geteuid()), CALL(setuid, 65534), say("setuid open", open(f, O_RDONLY)); }
static void becomes_real(void) { CALL(setreuid, -1, -1), CALL(setreuid, -1, 65534), say("setreuid open", open(f, O_RDONLY)); }
static void becomes_all(void) { CALL(setresuid, -1, -1, -1), CALL(setresuid, -1, 65534, -1), say("setresuid open", open(f, O_RDONLY)); }
static void becomes_for_files(void) { printf("  setfsuid was %d\n", (int)CALL(setfsuid, 65534) == (int)geteuid()), say("setfsuid open", open(f, O_RDONLY)); }
static void executes(void) { char *words[] = {x, "one", NULL}, *clean[] = {NULL}; CALL(execve, none, words, clean), CALL(execve, d, words, clean), CALL(execve, f, words, clean), fflush(stdout), CALL(execve, x, words, clean); }
static void executes_at(void) { char *words[] = {"x", "two", NULL}, *clean[] = {NULL}; CALL(execveat, AT_FDCWD, none, words, clean, 0), CALL(execveat, AT_FDCWD, l, words, clean, AT_SYMLINK_NOFOLLOW), fflush(stdout), CALL(execveat, AT_FDCWD, x, words, clean, 0); }
static void executes_opened(void) { char *words[] = {"x", "three", NULL}, *clean[] = {NULL}; fflush(stdout), CALL(execveat, open(x, O_PATH), "", words, clean, AT_EMPTY_PATH); }
static void executes_at_folder(void) { char *words[] = {"x", "four", NULL}, *clean[] = {NULL}; fflush(stdout), CALL(execveat, folder(current), "x", words, clean, 0); }
static void ends(void) { printf("exit_group is made: ok\n"), fflush(stdout), syscall(SYS_exit_group, 3); }

static void on_signal(int number) { struct stat s; (void)number; failed = stat(in, &s); }

static void processes(void) {
    begin("chdir"), child(works_elsewhere);
    begin("fchdir"), child(works_at_descriptor);
    begin("unshare"), child(unshares);
    begin("landlock_restrict_self"), child(restricts_itself);
    begin("setns"), CALL(setns, -1, 0);
    begin("seccomp"), child(forbids);
    begin("chroot"), child(changes_root);
    begin("setuid"), child(becomes_user);
    begin("setreuid"), child(becomes_real);
    begin("setresuid"), child(becomes_all);
    begin("setfsuid"), child(becomes_for_files);
    begin("execve"), child(executes);
    begin("execveat"), child(executes_at), child(executes_opened), child(executes_at_folder);
    begin("exit_group"), child(ends);
    begin("io_uring_setup"), TRUTH(syscall(SYS_io_uring_setup, 0, NULL) == -1), printf("io_uring_setup was asked: ok\n");
    begin("fork"), fflush(stdout);
    int status = 0;
    struct stat s;
    pid_t pid = syscall(SYS_fork);
    if (pid == 0) _exit(stat(in, &s) ? 1 : 4);
    waitpid(pid, &status, 0), printf("fork ended with %d: ok\n", status);
    begin("vfork"), fflush(stdout);
    if ((pid = vfork()) == 0) {
        static const char *words[] = {"sh", "-c", "cat vfork/dl/in", NULL};
        execv("/bin/sh", (char **)words);
        _exit(9);
    }
    waitpid(pid, &status, 0), printf("vfork ended with %d: ok\n", status);
    begin("clone"), fflush(stdout);
    pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(access(in, R_OK) ? 1 : 5);
    waitpid(pid, &status, 0), printf("clone ended with %d: ok\n", status);
    child(clones_memory);
    begin("clone3"), fflush(stdout);
    struct clone_args { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls; } how = {.exit_signal = SIGCHLD};
    pid = syscall(SYS_clone3, &how, sizeof how);
    if (pid == 0) _exit(access(in, R_OK) ? 1 : 6);
    if (pid > 0) waitpid(pid, &status, 0);
    printf("clone3 ended with %d: ok\n", status);
    begin("rt_sigreturn"), failed = 1, signal(SIGUSR1, on_signal), raise(SIGUSR1), printf("rt_sigreturn came back with %d: ok\n", failed);
}

int main(int count, char **words) {
    if (count != 2 || chdir(words[1]) || !getcwd(root, sizeof root)) return 2;
    umask(022);
    looks();
    lists();
    opens();
    names();
    changes();
    others();
    processes();
    return 0;
}
