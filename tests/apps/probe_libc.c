// Calls what a C library offers that opens, starts or lists files by calls of its own, and prints what came of it.
//
// usage: probe_libc DIR       where DIR holds the small tree of `shim_apis.rs`
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <iconv.h>
#include <limits.h>
#include <locale.h>
#include <mntent.h>
#include <netdb.h>
#include <pthread.h>
#include <pwd.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static char root[PATH_MAX - 64];

static long say(const char *what, long result) {
    if (result < 0) printf("%s: %s\n", what, strerrorname_np(errno));
    else printf("%s: ok\n", what);
    return result;
}
#define SAY(call) say(#call, (errno = 0, (long)(call)))
#define TRUTH(what) printf("%s: %s\n", #what, (what) ? "yes" : "no")

static const char *below(const char *path) { return path && strncmp(path, root, strlen(root)) == 0 ? path + strlen(root) : path ? path : "none"; }

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Lists what is left of a stream.
static int list(const char *what, DIR *dir) {
    char *names[64];
    int count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir)) && count < 64;) names[count++] = strdup(entry->d_name);
    qsort(names, count, sizeof *names, by_name);
    printf("%s:", what);
    for (int i = 0; i < count; i++) printf(" %s", names[i]);
    printf("\n");
    return count;
}

static int ended(pid_t pid) {
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

#define CHILD(call) do { fflush(stdout); pid_t pid = fork(); if (pid == 0) { call; printf("%s\n", strerrorname_np(errno)); fflush(stdout); _exit(9); } printf("%s: %d\n", #call, ended(pid)); } while (0)

static void files(void) {
    char line[64] = "", name[PATH_MAX] = "";
    FILE *file = fopen("text", "r+e");
    TRUTH(file && fgets(line, sizeof line, file)), printf("%s", line);
    fseek(file, 0, SEEK_END), fputs("more\n", file), fclose(file);
    file = fopen("text", "r"), TRUTH(freopen("dir/one", "r", file) != NULL), TRUTH(fgets(line, sizeof line, file) != NULL), printf("%s", line), fclose(file);
    TRUTH(fopen("none", "r") == NULL), TRUTH(fopen("dir/new", "wx") != NULL), TRUTH(fopen("dir/one", "wx") == NULL);
    printf("%s\n", below(canonicalize_file_name("link/../dir/one"))), printf("%s\n", below(realpath("link/two", name))), TRUTH(realpath("link/none", name) == NULL);
    TRUTH(tmpfile() != NULL);
    char *temporary = tempnam("dir", "pre");
    TRUTH(temporary && strstr(temporary, "pre")), setenv("TMPDIR", "dir/deep", 1), temporary = tempnam(NULL, "pre");
    TRUTH(temporary && strncmp(temporary, "dir/deep/", 9) == 0);
    strcpy(name, "dir/XXXXXX.c"), SAY(mkostemps(name, 2, O_CLOEXEC)), SAY(remove(name));
    strcpy(name, "dir/deep/XXXXXX"), TRUTH(mkdtemp(name) != NULL), SAY(remove(name));
    SAY(access("dir/one", R_OK)), SAY(eaccess("dir/none", R_OK)), SAY(pathconf("dir", _PC_NAME_MAX)), SAY(pathconf("none", _PC_NAME_MAX));
    struct mntent *mount;
    file = setmntent("table", "r"), TRUTH(file && (mount = getmntent(file)) && strcmp(mount->mnt_dir, "/there") == 0), file && endmntent(file), TRUTH(setmntent("none", "r") == NULL);
    setenv("TZ", ":zones/none", 1), tzset(), TRUTH(timezone == 0);
    snprintf(name, sizeof name, "%s/zones", root), setenv("TZDIR", name, 1), setenv("TZ", ":Test", 1), tzset();
    printf("%s %ld\n", tzname[0], timezone);
    setenv("LOCPATH", root, 1), TRUTH(setlocale(LC_ALL, "xx_XX") == NULL), unsetenv("LOCPATH"), TRUTH(setlocale(LC_ALL, "C") != NULL);
    iconv_t conversion = iconv_open("LATIN1", "UTF-8");
    TRUTH(conversion != (iconv_t)-1), TRUTH(iconv_open("NONE", "UTF-8") == (iconv_t)-1);
#ifndef STATIC
    TRUTH(getpwnam("root") && getpwnam("root")->pw_uid == 0);
    struct addrinfo *found, how = {.ai_flags = AI_NUMERICHOST};
    SAY(getaddrinfo("127.0.0.1", "80", &how, &found));
    void *library = dlopen("./libs/libone.so", RTLD_NOW);
    int (*one)(void) = library ? (int (*)(void))dlsym(library, "one") : NULL;
    printf("dlopen: %d\n", one ? one() : -1);
    if (!one) printf("%s\n", dlerror());
    FILE *maps = fopen("/proc/self/maps", "r");
    char *text = NULL;
    size_t room = 0;
    int mapped = 0;
    while (getline(&text, &room, maps) > 0) mapped |= strstr(text, "/libs/libone.so") ? 1 : strstr(text, "/libs/deep/libtwo.so") ? 2 : 0;
    printf("mapped %d\n", mapped);
    TRUTH(dlopen("./libs/none.so", RTLD_NOW) == NULL);
    Dl_info about;
    TRUTH(one && dladdr((void *)one, &about) && strstr(about.dli_fname, "libs/libone.so"));
#endif
}

static void streams(void) {
    struct dirent **found;
    int count = scandir("dir", &found, NULL, versionsort);
    for (int i = 0; i < count; i++) printf("scandir %s\n", found[i]->d_name);
    // A stream that is shared with a child goes on where the child has stopped.
    DIR *dir = opendir("many");
    char bytes[256];
    long length = getdents64(dirfd(dir), bytes, sizeof bytes);
    TRUTH(length > 0), fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        while (getdents64(dirfd(dir), bytes, sizeof bytes) > 0) {}
        _exit(0);
    }
    printf("child %d\n", ended(pid)), TRUTH(getdents64(dirfd(dir), bytes, sizeof bytes) == 0);
    rewinddir(dir), printf("%d names\n", list("many", dir));
    // A place in it is kept while names come and go.
    rewinddir(dir), readdir(dir), readdir(dir), readdir(dir);
    long place = telldir(dir);
    int before = 0, after = 0;
    while (readdir(dir)) before++;
    unlink("many/0"), close(open("many/new", O_CREAT | O_WRONLY, 0600)), seekdir(dir, place);
    while (readdir(dir)) after++;
    TRUTH(after >= before - 1 && after <= before + 1), closedir(dir);
    // One that is sent to another process, and one that it opens by its number.
    int pair[2], sent = open("dir", O_RDONLY | O_DIRECTORY);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair), fflush(stdout);
    union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr head; } control = {0};
    char byte = 0;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if ((pid = fork()) == 0) {
        close(sent);
        struct stat s;
        recvmsg(pair[1], &message, 0);
        int got = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&message));
        SAY(fstatat(got, "one", &s, 0)), SAY(openat(got, "deep/three", O_RDONLY)), SAY(fchdir(got)), SAY(access("two", F_OK));
        list("sent", fdopendir(got)), fflush(stdout);
        _exit(0);
    }
    control.head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    *(int *)CMSG_DATA(&control.head) = sent;
    sendmsg(pair[0], &message, 0), printf("child %d\n", ended(pid));
    char own[64];
    snprintf(own, sizeof own, "/dev/fd/%d", sent), list("by its number", opendir(own));
    snprintf(own, sizeof own, "/proc/self/fd/%d/deep/three", sent), SAY(access(own, R_OK)), SAY(open(own, O_RDONLY)), SAY(truncate(own, 2));
    snprintf(own, sizeof own, "/proc/self/fd/%d/../text", sent), SAY(access(own, R_OK));
    // What is taken away while it is open.
    dir = opendir("gone"), SAY(unlink("gone/x")), SAY(rmdir("gone")), list("gone", dir), SAY(fstatat(dirfd(dir), "x", &(struct stat){0}, 0)), SAY(openat(dirfd(dir), "x", O_CREAT | O_WRONLY, 0600));
    // Mapped for writing, and seen.
    int file = open("dir/two", O_RDWR);
    char *mapped = mmap(NULL, 4, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    memcpy(mapped, "MAP", 3), munmap(mapped, 4), memset(bytes, 0, sizeof bytes), pread(open("dir/two", O_RDONLY), bytes, 3, 0), printf("%s\n", bytes);
}

static void starts(void) {
    char *words[] = {"tool", "a", NULL}, *plain[] = {"PATH=programs:/bin:/usr/bin", NULL}, *scripts[] = {"bare", "b", NULL};
    setenv("PATH", "programs:/bin:/usr/bin", 1);
    CHILD(execv("programs/tool", words));
    CHILD(execvp("tool", words));
    CHILD(execl("programs/tool", "tool", "c", (char *)NULL));
    CHILD(execlp("tool", "tool", "d", (char *)NULL));
    CHILD(execle("programs/tool", "tool", "e", (char *)NULL, plain));
    CHILD(execvpe("tool", words, plain));
    CHILD(fexecve(open("programs/real", O_RDONLY | O_CLOEXEC), (char *[]){"sh", "-c", "echo opened", NULL}, environ));
    // No program at all, which these two give to a shell, and that one does not.
    CHILD(execvp("bare", scripts));
    CHILD(execv("programs/bare", scripts));
    CHILD(execvp("none", words));
    fflush(stdout);
    pid_t pid;
    // Both print into the same pipe.
    int spawned = 0;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "dir/one", O_RDONLY, 0);
    posix_spawn_file_actions_addchdir_np(&actions, "dir/deep");
    posix_spawn_file_actions_addopen(&actions, 5, "three", O_RDONLY, 0);
    SAY(posix_spawn(&pid, "/bin/sh", &actions, NULL, (char *[]){"sh", "-c", "cat; pwd | sed 's:.*/::'; cat <&5; ls", NULL}, environ) || (spawned = ended(pid), 0)), printf("spawn %d\n", spawned);
    fflush(stdout), posix_spawn_file_actions_init(&actions);
    int folder = open("many", O_RDONLY | O_DIRECTORY);
    posix_spawn_file_actions_addfchdir_np(&actions, folder), posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    SAY(posix_spawnp(&pid, "sh", &actions, NULL, (char *[]){"sh", "-c", "cat 7; ls /proc/self/fd | wc -l", NULL}, environ) || (spawned = ended(pid), 0)), printf("spawn %d\n", spawned);
    fflush(stdout), posix_spawn_file_actions_init(&actions), posix_spawn_file_actions_addopen(&actions, 0, "none/none", O_RDONLY, 0);
    printf("spawn %s\n", strerrorname_np(posix_spawn(&pid, "/bin/true", &actions, NULL, words, environ)));
    SAY(system("tool of a shell; bare of a shell; cat dir/one")), fflush(stdout);
    FILE *pipe = popen("tool in a pipe", "r");
    char line[64] = "";
    TRUTH(pipe && fgets(line, sizeof line, pipe)), printf("%s", line), printf("%d\n", pclose(pipe));
    fflush(stdout);
    if ((pid = vfork()) == 0) {
        if (chdir("dir") == 0) execlp("cat", "cat", "two", (char *)NULL);
        _exit(9);
    }
    printf("\nvfork %d\n", ended(pid)), SAY(access("dir/one", F_OK));
}

static void *works(void *number) {
    char path[64], name[64];
    long wrong = 0;
    for (int round = 0; round < 20; round++) {
        struct stat s;
        int id = (int)(long)number * 100 + round;
        snprintf(path, sizeof path, "many/%d", id % 40), snprintf(name, sizeof name, "many/t%d", id);
        int file = open(path, O_RDONLY);
        char byte;
        if (id % 40 && (file < 0 || read(file, &byte, 1) != 1)) wrong++;
        if (file >= 0) close(file);
        DIR *dir = opendir("many");
        int count = 0;
        while (dir && readdir(dir)) count++;
        if (dir) closedir(dir);
        if (count < 41 || stat("dir/deep/three", &s)) wrong++;
        if (symlink(path, name) || lstat(name, &s) || unlink(name)) wrong++;
    }
    return (void *)wrong;
}

static void threads(void) {
    pthread_t all[8];
    long wrong = 0;
    for (long i = 0; i < 8; i++) pthread_create(&all[i], NULL, works, (void *)i);
    for (int i = 0; i < 8; i++) {
        void *one;
        pthread_join(all[i], &one);
        wrong += (long)one;
    }
    printf("threads went wrong %ld times\n", wrong);
}

int main(int count, char **words) {
    if (count != 2 || chdir(words[1]) || !getcwd(root, sizeof root)) return 2;
    umask(022);
    files();
    streams();
    starts();
    threads();
    return 0;
}
