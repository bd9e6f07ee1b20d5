// Measures what one operation takes, in the process itself.
//
// usage: measure_calls KIND DIR     one of the kinds below; prints how many there were, then the 50th and the 99th
//                                   percentile of nanoseconds: of batches, or of single files where there are only so many
//        measure_calls walk DIR     lists the tree by nftw(3); prints folders, files, others and the files' bytes
//        measure_calls memory DIR   uses the tree a little and prints /proc/self/smaps
//
// DIR holds lib/deep/er/file.txt, lib/deep/opened.txt, many/ with twenty files, and packed/FOLDER/FILE. `make` makes the
// last ones, the other kinds change nothing. Each result is looked at: a wrong one ends the program.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 2000, EACH = 200, LISTED = 22, FOLDERS = 40, FILES = 100, FILE_BYTES = 4096, READ_BYTES = 64 };

static double took[BATCHES > FOLDERS * FILES ? BATCHES : FOLDERS * FILES];
static char path[PATH_MAX];
static const char *root;

static void fail(const char *what) {
    fprintf(stderr, "measure_calls: %s in %s: %s\n", what, root, strerror(errno));
    exit(1);
}
#define MUST(holds) ((holds) ? (void)0 : fail(#holds))

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e9 + at.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void report(int samples, int each) {
    qsort(took, samples, sizeof *took, by_size);
    printf("%d %.2f %.2f\n", samples * each, took[samples / 2], took[samples * 99 / 100]);
}

static const char *in(const char *name) {
    MUST((size_t)snprintf(path, sizeof path, "%s/%s", root, name) < sizeof path);
    return path;
}

// Measures batches of an operation; `before` is done before each, unmeasured.
#define BATCHED(before, operation)                     \
    do {                                               \
        for (int batch = 0; batch < BATCHES; batch++) { \
            before;                                    \
            double start = now();                      \
            for (int at = 0; at < EACH; at++) operation; \
            took[batch] = (now() - start) / EACH;      \
        }                                              \
        report(BATCHES, EACH);                         \
    } while (0)

static int opened(const char *name) {
    int file = open(name, O_RDONLY);
    MUST(file >= 0);
    return file;
}

static void list(DIR *directory) {
    rewinddir(directory);
    for (int at = 0; at < LISTED; at++) MUST(readdir(directory));
}

// Lists as `list` does, of which the first call fetches all; returns what the others take, as if all were such.
static double list_fetched(DIR *directory, double tick) {
    rewinddir(directory);
    MUST(readdir(directory));
    double start = now();
    for (int at = 1; at < LISTED; at++) MUST(readdir(directory));
    return (now() - start - tick) * LISTED / (LISTED - 1);
}

static void measure_fetched(DIR *directory) {
    double tick = 1e9;
    for (int at = 0; at < 1000; at++) {
        double start = now(), took_now = now() - start;
        if (took_now < tick) tick = took_now;
    }
    for (int batch = 0; batch < BATCHES; batch++) {
        took[batch] = 0;
        for (int at = 0; at < EACH; at++) took[batch] += list_fetched(directory, tick) / EACH;
    }
    report(BATCHES, EACH);
}

static void open_and_close(const char *name) { MUST(close(opened(name)) == 0); }

static void open_and_close_directory(const char *name) {
    DIR *directory = opendir(name);
    MUST(directory && closedir(directory) == 0);
}

// Files that are opened for the first time; where they are to be made, the folders are made with their first file.
static void first_open(int is_to_be_made) {
    static char content[FILE_BYTES];
    const struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
    char folder[PATH_MAX];
    memset(content, 'x', sizeof content);
    if (is_to_be_made) MUST(mkdir(in("packed"), 0755) == 0);
    for (int number = 0; number < FOLDERS * FILES; number++) {
        snprintf(folder, sizeof folder, "%s/packed/%d", root, number / FILES);
        snprintf(path, sizeof path, "%s/packed/%d/%d", root, number / FILES, number % FILES);
        double start = now();
        if (is_to_be_made) {
            if (number % FILES == 0) MUST(mkdir(folder, 0755) == 0);
            int file = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
            MUST(file >= 0);
            MUST(write(file, content, sizeof content) == sizeof content);
            MUST(futimens(file, times) == 0);
            MUST(close(file) == 0);
        }
        int file = opened(path);
        took[number] = now() - start;
        struct stat found;
        MUST(fstat(file, &found) == 0 && found.st_size == FILE_BYTES);
        close(file);
    }
    report(FOLDERS * FILES, 1);
}

static long folders, files, others, bytes;

static int met(const char *name, const struct stat *found, int kind, struct FTW *where) {
    (void)name, (void)where;
    MUST(kind != FTW_NS && kind != FTW_DNR);
    if (S_ISDIR(found->st_mode)) folders++;
    else if (S_ISREG(found->st_mode)) files++, bytes += found->st_size;
    else others++;
    return 0;
}

static void print_memory(void) {
    char some[4096];
    struct stat found;
    MUST(stat(in("lib/deep/er/file.txt"), &found) == 0);
    MUST(stat(in("lib/deep/er/none.txt"), &found) < 0 && errno == ENOENT);
    open_and_close_directory(in("many"));
    open_and_close(in("lib/deep/opened.txt"));
    int maps = opened("/proc/self/smaps");
    for (ssize_t length; (length = read(maps, some, sizeof some)) > 0;)
        MUST(write(STDOUT_FILENO, some, length) == length);
}

int main(int count, char **words) {
    if (count != 3) return 2;
    const char *kind = words[1];
    struct stat found;
    char some[READ_BYTES];
    root = words[2];
    if (strcmp(kind, "stat") == 0) {
        in("lib/deep/er/file.txt");
        BATCHED(, MUST(stat(path, &found) == 0));
    } else if (strcmp(kind, "missing") == 0) {
        in("lib/deep/er/none.txt");
        BATCHED(, MUST(stat(path, &found) < 0 && errno == ENOENT));
    } else if (strcmp(kind, "list") == 0) {
        DIR *directory = opendir(in("many"));
        MUST(directory);
        BATCHED(, list(directory));
    } else if (strcmp(kind, "list-fetched") == 0) {
        DIR *directory = opendir(in("many"));
        MUST(directory);
        measure_fetched(directory);
    } else if (strcmp(kind, "opendir") == 0) {
        in("many");
        BATCHED(, open_and_close_directory(path));
    } else if (strcmp(kind, "open") == 0) {
        // What only the shim shows is real from here on.
        open_and_close(in("lib/deep/opened.txt"));
        BATCHED(, open_and_close(path));
    } else if (strcmp(kind, "stat-opened") == 0) {
        open_and_close(in("lib/deep/opened.txt"));
        BATCHED(, MUST(stat(path, &found) == 0));
    } else if (strcmp(kind, "fstat") == 0) {
        int file = opened(in("lib/deep/opened.txt"));
        BATCHED(, MUST(fstat(file, &found) == 0));
    } else if (strcmp(kind, "read") == 0) {
        int file = opened(in("lib/deep/opened.txt"));
        BATCHED(MUST(lseek(file, 0, SEEK_SET) == 0), MUST(read(file, some, READ_BYTES) == READ_BYTES));
    } else if (strcmp(kind, "first-open") == 0 || strcmp(kind, "make") == 0) {
        first_open(strcmp(kind, "make") == 0);
    } else if (strcmp(kind, "walk") == 0) {
        MUST(nftw(root, met, 64, FTW_PHYS) == 0);
        printf("%ld %ld %ld %ld\n", folders, files, others, bytes);
    } else if (strcmp(kind, "memory") == 0) {
        print_memory();
    } else {
        return 2;
    }
    return 0;
}
