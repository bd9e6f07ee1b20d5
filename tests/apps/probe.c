// Asks everything of files that a C library and the kernel offer, once each, and prints what came of it.
//
// usage: probe DIR       where DIR holds the small tree of the tests
//
// What differs between any two directories (inode numbers, times of the run, descriptors) is compared with itself only, so
// the same tree gives the same lines, whoever shows it.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <fts.h>
#include <glob.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>
#include <wordexp.h>

extern char **environ;
static char root[PATH_MAX];

// What a call returned: its error, or that it went well.
static long say(const char *what, long result) {
    if (result < 0)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: ok\n", what);
    return result;
}
#define SAY(call) say(#call, (errno = 0, (long)(call)))
#define TRUTH(what) printf("%s: %s\n", #what, (what) ? "yes" : "no")

static void show(const char *name, const struct stat *s) {
    int is_directory = S_ISDIR(s->st_mode);
    printf("%s: %o %ld %ld", name, s->st_mode, is_directory ? 0 : (long)s->st_nlink, is_directory ? 0 : (long)s->st_size);
    // Times of the run differ between any two.
    if (s->st_mtim.tv_sec < 1500000000) printf(" %ld.%09ld", (long)s->st_mtim.tv_sec, s->st_mtim.tv_nsec);
    printf("\n");
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void print_sorted(const char *what, char **names, int count) {
    qsort(names, count, sizeof *names, by_name);
    printf("%s:", what);
    for (int i = 0; i < count; i++) printf(" %s", names[i]);
    printf("\n");
}

static void list(const char *what, DIR *dir) {
    char *names[64];
    int count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir)) && count < 64;) {
        char *line;
        if (asprintf(&line, "%s/%d", entry->d_name, entry->d_type) > 0) names[count++] = line;
    }
    print_sorted(what, names, count);
}

static void looks(void) {
    struct stat s, again;
    const char *paths[] = {"a", "lib", "lib/x.js", "bin/x", "lib/deep/er/numbers", "shut/in", "empty", "d e/b", ".", "lib/..", "lib/deep/../x.js", "bin/x/", "a/", "missing", "a/b", "lib/missing/x"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        printf("%s\n", paths[i]);
        if (SAY(stat(paths[i], &s)) == 0) show("stat", &s);
        if (SAY(lstat(paths[i], &s)) == 0) show("lstat", &s);
        struct statx wide;
        if (SAY(statx(AT_FDCWD, paths[i], 0, STATX_BASIC_STATS, &wide)) == 0) {
            stat(paths[i], &again);
            TRUTH(wide.stx_ino == again.st_ino && wide.stx_mode == again.st_mode && wide.stx_mtime.tv_nsec == (unsigned)again.st_mtim.tv_nsec);
        }
        char absolute[2 * PATH_MAX];
        snprintf(absolute, sizeof absolute, "%s/%s", root, paths[i]);
        if (SAY(stat(absolute, &again)) == 0 && stat(paths[i], &s) == 0) TRUTH(s.st_ino == again.st_ino && s.st_dev == again.st_dev && s.st_ctim.tv_nsec == again.st_ctim.tv_nsec);
        SAY(access(paths[i], F_OK));
        SAY(access(paths[i], R_OK | W_OK));
        SAY(faccessat(AT_FDCWD, paths[i], X_OK, AT_EACCESS));
        SAY(euidaccess(paths[i], W_OK));
        char target[PATH_MAX] = "";
        if (SAY(readlink(paths[i], target, sizeof target - 1)) >= 0) printf("target %s\n", target);
        char *real = realpath(paths[i], NULL);
        printf("realpath: %s\n", real ? real + strlen(root) : strerrorname_np(errno));
        free(real);
        SAY(getxattr(paths[i], "user.none", NULL, 0));
        SAY(listxattr(paths[i], NULL, 0));
        struct statfs fs;
        SAY(statfs(paths[i], &fs));
        struct statvfs vfs;
        SAY(statvfs(paths[i], &vfs));
        SAY(pathconf(paths[i], _PC_NAME_MAX));
    }
}

static char *walked[256];
static int walks;
static int note(const char *path, const struct stat *s, int kind) {
    char *line;
    if (asprintf(&line, "%s|%o|%d", path, s->st_mode, kind) > 0 && walks < 256) walked[walks++] = line;
    return 0;
}
static int visit(const char *path, const struct stat *s, int kind, struct FTW *at) { return note(path, s, kind + 100 * at->level); }
static int by_fts_name(const FTSENT **a, const FTSENT **b) { return strcmp((*a)->fts_name, (*b)->fts_name); }

static void lists(void) {
    DIR *dir = opendir("lib");
    list("lib", dir);
    rewinddir(dir);
    list("lib again", dir);
    rewinddir(dir);
    readdir(dir);
    long place = telldir(dir);
    char first[256], second[256];
    snprintf(first, sizeof first, "%s", readdir(dir)->d_name);
    seekdir(dir, place);
    snprintf(second, sizeof second, "%s", readdir(dir)->d_name);
    TRUTH(strcmp(first, second) == 0);
    struct stat s;
    fstat(dirfd(dir), &s);
    show("fstat of lib", &s);
    SAY(fstatat(dirfd(dir), "x.js", &s, 0));
    show("at lib", &s);
    SAY(fstatat(dirfd(dir), "../a", &s, 0));
    SAY(fstatat(dirfd(dir), "", &s, AT_EMPTY_PATH));
    SAY(faccessat(dirfd(dir), "deep/er", X_OK, 0));
    closedir(dir);
    struct dirent **entries;
    int count = scandir(".", &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) printf("scandir %s\n", entries[i]->d_name);
    count = scandirat(AT_FDCWD, "lib", &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) printf("scandirat %s\n", entries[i]->d_name);
    glob_t found;
    SAY(glob("*/*", 0, NULL, &found));
    for (size_t i = 0; i < found.gl_pathc; i++) printf("glob %s\n", found.gl_pathv[i]);
    wordexp_t words;
    SAY(wordexp("lib/*.js", &words, 0));
    for (size_t i = 0; i < words.we_wordc; i++) printf("word %s\n", words.we_wordv[i]);
    SAY(ftw("lib", note, 8));
    print_sorted("ftw", walked, walks);
    walks = 0;
    SAY(nftw("lib", visit, 8, FTW_PHYS | FTW_CHDIR));
    print_sorted("nftw", walked, walks);
    walks = 0;
    char *tops[] = {".", NULL};
    FTS *tree = fts_open(tops, FTS_PHYSICAL, by_fts_name);
    for (FTSENT *entry; (entry = fts_read(tree));) printf("fts %s %d %d\n", entry->fts_path, entry->fts_info, entry->fts_level);
    fts_close(tree);
    char buffer[4096];
    const char *deep = access("lib/deep", F_OK) == 0 ? "lib/deep" : "deep";
    int fd = open(deep, O_RDONLY | O_DIRECTORY);
    TRUTH(syscall(SYS_getdents64, fd, buffer, sizeof buffer) > 0);
    TRUTH(syscall(SYS_getdents64, fd, buffer, sizeof buffer) == 0);
    SAY(lseek(fd, 0, SEEK_SET));
    TRUTH(syscall(SYS_getdents64, fd, buffer, sizeof buffer) > 0);
    SAY(read(fd, buffer, 1));
    SAY(write(fd, buffer, 1));
    SAY(fsync(fd));
    int copy = dup(fd);
    struct stat one, other;
    fstat(fd, &one), fstat(copy, &other);
    TRUTH(one.st_ino == other.st_ino);
    stat(deep, &other);
    TRUTH(one.st_ino == other.st_ino && one.st_dev == other.st_dev);
    close(fd), close(copy);
}

static void opens(void) {
    int flags[] = {O_RDONLY, O_WRONLY, O_RDWR | O_APPEND, O_RDONLY | O_DIRECTORY, O_RDONLY | O_NOFOLLOW, O_PATH, O_PATH | O_NOFOLLOW, O_CREAT | O_EXCL | O_WRONLY, O_RDONLY | O_CREAT, O_DIRECTORY | O_RDWR, O_TMPFILE | O_RDWR};
    const char *paths[] = {"a", "lib", "bin/x", "missing", "lib/deep/er/numbers", "a/x", "shut/in", "missing/x"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        for (size_t j = 0; j < sizeof flags / sizeof *flags; j++) {
            int fd = open(paths[i], flags[j], 0600);
            printf("open %s %o: %s\n", paths[i], flags[j], fd < 0 ? strerrorname_np(errno) : "ok");
            if (fd < 0) continue;
            struct stat s, named;
            char link[64], target[PATH_MAX] = "", byte[2];
            SAY(fstat(fd, &s));
            if (!(flags[j] & O_TMPFILE & ~O_DIRECTORY) && fstatat(AT_FDCWD, paths[i], &named, flags[j] & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0) == 0) TRUTH(s.st_ino == named.st_ino);
            printf("read %s\n", read(fd, byte, 1) < 0 ? strerrorname_np(errno) : "ok");
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            if (!(flags[j] & O_TMPFILE & ~O_DIRECTORY) && readlink(link, target, sizeof target - 1) > 0) printf("fd leads to %s\n", target + strlen(root));
            close(fd);
            if (flags[j] & O_CREAT && strncmp(paths[i], "missing", 7) == 0) unlink(paths[i]);
        }
    struct open_how how = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
    SAY(syscall(SYS_openat2, AT_FDCWD, "lib/x.js", &how, sizeof how));
    SAY(syscall(SYS_openat2, AT_FDCWD, "bin/x", &how, sizeof how));
    SAY(syscall(SYS_openat2, AT_FDCWD, "../x", &how, sizeof how));
    how.resolve = RESOLVE_NO_SYMLINKS;
    SAY(syscall(SYS_openat2, AT_FDCWD, "bin/x", &how, sizeof how));
    how.resolve = RESOLVE_IN_ROOT;
    SAY(syscall(SYS_openat2, AT_FDCWD, "/lib/x.js", &how, sizeof how));
    FILE *file = fopen("a", "r");
    char line[64] = "";
    printf("fopen %s", fgets(line, sizeof line, file));
    file = freopen("lib/x.js", "r", file);
    printf("freopen %s\n", fgets(line, sizeof line, file));
    fclose(file);
    SAY(creat("lib/created", 0640));
    SAY(unlink("lib/created"));
}

static void names(void) {
    SAY(mkdir("lib", 0700));
    SAY(mkdir("lib/new", 0751));
    SAY(mkdir("missing/new", 0700));
    SAY(rmdir("lib"));
    SAY(rmdir("a"));
    SAY(unlink("lib"));
    SAY(unlink("missing"));
    SAY(symlink("x.js", "lib/pointer"));
    SAY(symlink("x", "a"));
    SAY(link("a", "lib/hard"));
    struct stat s, t;
    stat("a", &s), stat("lib/hard", &t);
    TRUTH(s.st_ino == t.st_ino && s.st_nlink == 2);
    SAY(link("lib", "lib2"));
    SAY(rename("lib/hard", "lib/harder"));
    SAY(rename("a", "lib"));
    SAY(rename("lib", "a"));
    SAY(rename("missing", "b"));
    SAY(rename("lib", "lib/deep/lib"));
    stat("lib/deep/er", &s);
    SAY(rename("lib/deep", "deep"));
    stat("deep/er", &t);
    TRUTH(s.st_ino == t.st_ino);
    SAY(access("lib/deep/er/numbers", F_OK));
    SAY(access("deep/er/numbers", F_OK));
    SAY(renameat2(AT_FDCWD, "deep", AT_FDCWD, "a", RENAME_NOREPLACE));
    SAY(renameat2(AT_FDCWD, "deep", AT_FDCWD, "a", RENAME_EXCHANGE));
    SAY(renameat2(AT_FDCWD, "a", AT_FDCWD, "deep", RENAME_EXCHANGE));
    SAY(mkfifo("fifo", 0600));
    SAY(mknod("plain", S_IFREG | 0600, 0));
    SAY(remove("fifo"));
    SAY(remove("empty"));
    SAY(unlink("bin/x"));
    SAY(lstat("bin/x", &s));
    list("bin", opendir("bin"));
    list(".", opendir("."));
    char temporary[] = "lib/tmpXXXXXX", folder[] = "lib/dirXXXXXX";
    int fd = mkstemp(temporary);
    SAY(fd);
    SAY(unlink(temporary));
    TRUTH(mkdtemp(folder) != NULL);
    SAY(rmdir(folder));
    close(fd);
}

static void changes(void) {
    struct stat s;
    struct timespec times[2] = {{5, 6}, {7, 8}};
    struct timeval micro[2] = {{9, 10}, {11, 12}};
    SAY(chmod("lib/x.js", 0600));
    SAY(fchmodat(AT_FDCWD, "d e", 0711, 0));
    SAY(chown("d e/b", -1, -1));
    SAY(lchown("lib/pointer", -1, -1));
    SAY(utimensat(AT_FDCWD, "d e/b", times, 0));
    stat("d e/b", &s), show("d e/b", &s);
    SAY(utimes("shut", micro));
    stat("shut", &s), show("shut", &s);
    SAY(lutimes("lib/pointer", micro));
    lstat("lib/pointer", &s), show("pointer", &s);
    SAY(truncate("d e/b", 10));
    stat("d e/b", &s), TRUTH(s.st_size == 10);
    SAY(setxattr("d e/b", "user.one", "1", 1, 0));
    char value[8] = "", listed[64] = "";
    TRUTH(getxattr("d e/b", "user.one", value, sizeof value) == 1 && *value == '1');
    TRUTH(listxattr("d e/b", listed, sizeof listed) > 0 && strcmp(listed, "user.one") == 0);
    SAY(removexattr("d e/b", "user.one"));
    int fd = open("deep/er/numbers", O_RDWR);
    SAY(ftruncate(fd, 100));
    SAY(fallocate(fd, 0, 0, 200));
    SAY(futimens(fd, times));
    SAY(fchmod(fd, 0640));
    SAY(flock(fd, LOCK_EX | LOCK_NB));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    SAY(fcntl(fd, F_SETLK, &lock));
    char *bytes = mmap(NULL, 100, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    memcpy(bytes, "mapped", 6);
    SAY(msync(bytes, 100, MS_SYNC));
    munmap(bytes, 100);
    int other = open("deep/copy", O_RDWR | O_CREAT | O_TRUNC, 0600);
    loff_t from = 0;
    TRUTH(copy_file_range(fd, &from, other, NULL, 50, 0) == 50);
    off_t offset = 50;
    TRUTH(sendfile(other, fd, &offset, 50) == 50);
    fstat(other, &s);
    TRUTH(s.st_size == 100);
    char start[7] = "";
    pread(other, start, 6, 0);
    printf("copied %s\n", start);
    close(fd), close(other);
    SAY(open("shut/new", O_CREAT | O_WRONLY, 0600) < 0 && geteuid() == 0 ? -1 : 0);
}

static void places(void) {
    char here[PATH_MAX];
    SAY(chdir("lib"));
    printf("cwd %s\n", getcwd(here, sizeof here) + strlen(root));
    char *name = get_current_dir_name();
    printf("cwd %s\n", name + strlen(root));
    struct stat s;
    SAY(stat("x.js", &s));
    SAY(stat("../a", &s));
    SAY(chdir(".."));
    int fd = open("deep", O_RDONLY | O_DIRECTORY);
    SAY(fchdir(fd));
    memset(here, 0, sizeof here);
    readlink("/proc/self/cwd", here, sizeof here - 1);
    printf("cwd %s\n", here + strlen(root));
    SAY(stat("er/numbers", &s));
    SAY(chdir("../missing"));
    SAY(chdir("../a"));
    SAY(chdir(root));
    close(fd);
}

static void watches(void) {
    int fd = inotify_init1(IN_NONBLOCK);
    SAY(inotify_add_watch(fd, "shut", IN_CREATE | IN_MODIFY | IN_OPEN | IN_DELETE));
    SAY(inotify_add_watch(fd, "lib", IN_CREATE | IN_MODIFY));
    SAY(inotify_add_watch(fd, "missing", IN_CREATE));
    close(open("lib/x.js", O_RDONLY));
    int file = open("lib/x.js", O_WRONLY);
    write(file, "z", 1);
    close(file);
    close(open("lib/made", O_CREAT | O_WRONLY, 0600));
    char buffer[4096] __attribute__((aligned(8)));
    ssize_t length = read(fd, buffer, sizeof buffer);
    for (char *at = buffer; at < buffer + length;) {
        struct inotify_event *event = (void *)at;
        printf("event %x %s\n", event->mask, event->len ? event->name : "");
        at += sizeof *event + event->len;
    }
    close(fd);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "d e/socket"};
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(bind(server, (void *)&address, sizeof address));
    SAY(listen(server, 1));
    SAY(connect(client, (void *)&address, sizeof address));
    close(server), close(client);
    SAY(unlink("d e/socket"));
}

static int wait_for(pid_t pid) {
    int status = 0;
    fflush(stdout);
    waitpid(pid, &status, 0);
    return status;
}

static void children(void) {
    fflush(stdout);
    pid_t pid;
    char *cat[] = {"cat", "lib/deep/../x.js", NULL}, *clean[] = {"PATH=/usr/bin:/bin", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "lib/out", O_CREAT | O_WRONLY | O_TRUNC, 0600);
    char *plain[] = {"cat", "lib/x.js", "a", NULL};
    SAY(posix_spawnp(&pid, "cat", &actions, NULL, plain, clean));
    printf("status %d\n", wait_for(pid));
    struct stat s;
    stat("lib/out", &s);
    printf("out %ld\n", (long)s.st_size);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addchdir_np(&actions, "lib");
    char *ls[] = {"cat", "x.js", NULL};
    fflush(stdout);
    int spawned = posix_spawnp(&pid, "cat", &actions, NULL, ls, environ);
    printf("\nspawned %d, status %d\n", spawned, wait_for(pid));
    fflush(stdout);
    if ((pid = fork()) == 0) {
        execvpe("cat", cat, clean);
        _exit(9);
    }
    printf("fork %d\n", wait_for(pid));
    fflush(stdout);
    if ((pid = vfork()) == 0) {
        execve("/bin/cat", plain, clean);
        _exit(9);
    }
    printf("vfork %d\n", wait_for(pid));
    fflush(stdout);
    SAY(system("cat a lib/x.js; echo one > lib/shell; rm d\\ e/b; ls lib bin"));
    SAY(access("d e/b", F_OK));
    FILE *pipe = popen("wc -c < lib/shell", "r");
    char line[64] = "";
    printf("popen %s", fgets(line, sizeof line, pipe));
    pclose(pipe);
    SAY(stat("lib/shell", &s));
    // What is not written yet would be the child's, too.
    fflush(stdout);
    if ((pid = fork()) == 0) {
        SAY(unlink("lib/shell"));
        SAY(mkdir("lib/of-the-child", 0700));
        fflush(stdout);
        _exit(0);
    }
    printf("child %d\n", wait_for(pid));
    SAY(stat("lib/shell", &s));
    SAY(stat("lib/of-the-child", &s));
    int script = open("lib/script", O_CREAT | O_WRONLY, 0755);
    dprintf(script, "#!/bin/sh\necho script \"$@\"\n");
    close(script);
    fflush(stdout);
    if ((pid = fork()) == 0) {
        execl("lib/script", "script", "one", NULL);
        _exit(9);
    }
    printf("script %d\n", wait_for(pid));
}

int main(int count, char **words) {
    if (count != 2 || chdir(words[1]) || !getcwd(root, sizeof root)) return 2;
    umask(022);
    looks();
    lists();
    opens();
    names();
    changes();
    places();
    watches();
    children();
    lists();
    return 0;
}
