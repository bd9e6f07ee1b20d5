// Asks where a link leads that is not there, and writes into a file how often: as gcc asks for each folder above each header, as often as there
// are headers.
//
// usage: asks_again COUNT LINK FILE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 4) return 2;
    char target[1];
    long asked, wanted = atol(words[1]);
    for (asked = 0; asked < wanted; asked++)
        if (readlink(words[2], target, sizeof target) >= 0 || errno != ENOENT) return 3;
    FILE *file = fopen(words[3], "w");
    return !file || fprintf(file, "%ld\n", asked) < 0 || fclose(file) != 0;
}
