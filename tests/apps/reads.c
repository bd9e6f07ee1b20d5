// Reads each file in a thread of its own, into memory of malloc(3), and says what is in it.
//
// usage: reads FILE...
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct file {
    const char *path;
    char *bytes;
    size_t length;
};

static void *read_one(void *given) {
    struct file *file = given;
    FILE *stream = fopen(file->path, "r");
    if (!stream) return NULL;
    size_t room = 64, read;
    file->bytes = malloc(room);
    while ((read = fread(file->bytes + file->length, 1, room - file->length, stream)) > 0) {
        file->length += read;
        if (file->length == room) file->bytes = realloc(file->bytes, room *= 2);
    }
    fclose(stream);
    return NULL;
}

int main(int count, char **paths) {
    struct file *files = calloc(count, sizeof *files);
    pthread_t *threads = calloc(count, sizeof *threads);
    int missing = 0;
    for (int at = 1; at < count; at++) {
        files[at].path = paths[at];
        if (pthread_create(&threads[at], NULL, read_one, &files[at])) return 2;
    }
    for (int at = 1; at < count; at++) {
        pthread_join(threads[at], NULL);
        int shown = files[at].length < 5 ? (int)files[at].length : 5;
        printf("%s: %zu bytes, %.*s\n", paths[at], files[at].length, shown, files[at].bytes ? files[at].bytes : "none");
        missing |= !files[at].bytes;
        free(files[at].bytes);
    }
    free(threads);
    free(files);
    return missing;
}
