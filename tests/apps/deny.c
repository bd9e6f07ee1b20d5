/* deny NUMBER[&FLAGS] ERRNO PROGRAM ARGUMENT...: runs a program in which one system call fails with this error, as under
 * the filter of a container; with FLAGS only where its first argument has one of them. With 0 it kills who calls, as
 * under the filter of a service. seccomp(2) can't be asked for when it is the call to deny, so prctl(2) installs the
 * filter. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: deny NUMBER[&FLAGS] ERRNO PROGRAM ARGUMENT...\n");
        return 2;
    }
    unsigned error = (unsigned)atoi(argv[2]);
    const char *mask = strchr(argv[1], '&');
    unsigned flags = mask != NULL ? (unsigned)strtoul(mask + 1, NULL, 0) : 0;
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)atoi(argv[1]), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flags, 0, flags != 0),
        BPF_STMT(BPF_RET | BPF_K, error == 0 ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof steps / sizeof *steps, .filter = steps};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0 && errno == EACCES) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
            perror("deny: prctl");
            return 2;
        }
    }
    execvp(argv[3], argv + 3);
    perror("deny: execvp");
    return 2;
}
