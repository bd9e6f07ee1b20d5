// Runs a command in which no memory that was written may become executable.
//
// usage: deny_exec_gain COMMAND...
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SET_MDWE 65
#define REFUSE_EXEC_GAIN 1

int main(int count, char **words) {
    if (count < 2 || prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0) return 125;
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0) return 126;
    execvp(words[1], words + 1);
    return 127;
}
