// A library to be preloaded: it counts what a program opens by name, and adds the number to the file COUNT_TO at the end.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static int opened;

static int next(const char *name, int directory, const char *path, int flags, int mode) {
    opened++;
    void *function = dlsym(RTLD_NEXT, name);
    if (directory == AT_FDCWD) return ((int (*)(const char *, int, ...))function)(path, flags, mode);
    return ((int (*)(int, const char *, int, ...))function)(directory, path, flags, mode);
}

static int mode_of(va_list words) { return va_arg(words, int); }

int open(const char *path, int flags, ...) {
    va_list words;
    va_start(words, flags);
    int result = next("open", AT_FDCWD, path, flags, flags & O_CREAT ? mode_of(words) : 0);
    va_end(words);
    return result;
}

int openat(int directory, const char *path, int flags, ...) {
    va_list words;
    va_start(words, flags);
    int mode = flags & O_CREAT ? mode_of(words) : 0;
    int result = directory == AT_FDCWD ? next("open", directory, path, flags, mode) : next("openat", directory, path, flags, mode);
    va_end(words);
    return result;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("COUNT_TO");
    FILE *counts = path ? fopen(path, "a") : NULL;
    if (!counts) return;
    fprintf(counts, "%d\n", opened);
    fclose(counts);
}
