// Looks at a tree and changes it by system calls that are in the program itself: in threads, children and signal handlers,
// with signals blocked, and with a handler for SIGSYS of its own. Says what it found, which is the same wherever it runs.
//
// usage: raw_calls DIRECTORY | raw_calls look DIRECTORY | raw_calls odd DIRECTORY
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static const char *tree;
extern char **environ;

static inline __attribute__((always_inline)) long call(long number, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

static void path_of(char *path, const char *name) { snprintf(path, 4096, "%s/%s", tree, name); }

// What the tree has, as text; no function of the C library that makes calls.
static void look(char *said) {
    char path[4096], bytes[4096];
    struct stat stat;
    char *at = said;
    path_of(path, "a");
    int file = call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY, 0, 0, 0);
    long length = call(SYS_read, file, (long)bytes, sizeof bytes, 0, 0, 0);
    call(SYS_close, file, 0, 0, 0, 0, 0);
    at += sprintf(at, "a: %s %.*s", file >= 0 ? "open" : "closed", length > 0 ? (int)length : 0, bytes);
    long result = call(SYS_newfstatat, AT_FDCWD, (long)path, (long)&stat, 0, 0, 0);
    at += sprintf(at, "stat: %ld %ld %o\n", result, result == 0 ? (long)stat.st_size : 0, result == 0 ? stat.st_mode : 0);
    path_of(path, "none");
    at += sprintf(at, "none: %ld\n", call(SYS_newfstatat, AT_FDCWD, (long)path, (long)&stat, 0, 0, 0));
    path_of(path, "link");
    length = call(SYS_readlink, (long)path, (long)bytes, sizeof bytes, 0, 0, 0);
    at += sprintf(at, "link: %.*s\n", length > 0 ? (int)length : 0, bytes);
    path_of(path, "d");
    file = call(SYS_open, (long)path, O_RDONLY | O_DIRECTORY, 0, 0, 0, 0);
    int count = 0, letters = 0;
    while ((length = call(SYS_getdents64, file, (long)bytes, sizeof bytes, 0, 0, 0)) > 0)
        for (long offset = 0; offset < length; count++) {
            struct dirent64 *entry = (struct dirent64 *)(bytes + offset);
            letters += strlen(entry->d_name);
            offset += entry->d_reclen;
        }
    call(SYS_close, file, 0, 0, 0, 0, 0);
    sprintf(at, "d: %d entries, %d letters\n", count, letters);
}

static char expected[8192];

static int is_same(void) {
    char said[8192];
    look(said);
    return strcmp(said, expected) == 0;
}

static void say(const char *what, int is_good) {
    printf("%s: %s\n", what, is_good ? "as it is" : "OTHERWISE");
    fflush(stdout);
}

static void *in_thread(void *given) {
    long good = 1;
    for (int turn = 0; turn < 50; turn++) good &= is_same();
    (void)given;
    return (void *)good;
}

static int ended(pid_t child) {
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

static volatile sig_atomic_t seen, seen_code;
static void handle(int signal) { (void)signal; seen += is_same(); }
static void handle_info(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    seen_code = info->si_code;
    seen += is_same();
}

static sigjmp_buf away;
static void jump(int signal) { (void)signal; siglongjmp(away, 1); }
static void nothing(int signal) { (void)signal; }

static volatile sig_atomic_t prctls;
static void *in_sandbox(void *given) { return given; }

static void answer(int signal, siginfo_t *info, void *context) {
    (void)signal;
    if (info->si_code != 1 /* SYS_SECCOMP */) return;
    if (info->si_syscall == SYS_prctl) prctls++;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = 77;
}

static void set(int signal, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigfillset(&action.sa_mask);
    sigaction(signal, &action, NULL);
}

static volatile int has_ended = 1;

// Gives its stack back and ends without one; the kernel tells when by `has_ended`.
static int without_stack(void *stack) {
    int good = is_same();
    if (!good) return 1;
    __asm__ volatile("syscall\n\txor %%edi, %%edi\n\tmov $60, %%eax\n\tsyscall" ::"a"(SYS_munmap), "D"(stack), "S"(1 << 16)
                     : "rcx", "r11", "memory");
    return 1;
}

static void threads(void) {
    pthread_t all[4];
    long good = 1;
    for (int at = 0; at < 4; at++) pthread_create(&all[at], NULL, in_thread, NULL);
    for (int at = 0; at < 4; at++) {
        void *result;
        pthread_join(all[at], &result);
        good &= (long)result;
    }
    say("threads", good);
    for (int turn = 0; turn < 8; turn++) {
        char *stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        has_ended = 1;
        int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
        int thread = clone(without_stack, stack + (1 << 16), flags, stack, NULL, NULL, &has_ended);
        for (int waited = 0; has_ended && waited < 5000; waited++) usleep(1000);
        good &= thread > 0 && !has_ended;
        // The memory is nobody's any more.
        good &= msync(stack, 1 << 16, MS_ASYNC) == -1 && errno == ENOMEM;
    }
    say("a thread that takes its stack away", good);
}

static int beside(void *given) {
    (void)given;
    return is_same() ? 7 : 8;
}

static void children(void) {
    int good = 1;
    pid_t child = fork();
    if (child == 0) _exit(is_same() ? 7 : 8);
    say("fork", WEXITSTATUS(ended(child)) == 7);
    child = call(SYS_fork, 0, 0, 0, 0, 0, 0);
    if (child == 0) {
        pid_t grandchild = call(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0);
        if (grandchild == 0) call(SYS_exit_group, is_same() ? 7 : 8, 0, 0, 0, 0, 0);
        call(SYS_exit_group, ended(grandchild) == 7 << 8 && is_same() ? 7 : 8, 0, 0, 0, 0, 0);
    }
    say("raw fork", WEXITSTATUS(ended(child)) == 7);
    static char program[4096], word[4096];
    path_of(program, "raw_calls");
    strcpy(word, tree);
    char *words[] = {program, "look", word, NULL};
    // More of them than anything is kept of.
    for (int turn = 0; turn < 70; turn++) {
        child = call(SYS_vfork, 0, 0, 0, 0, 0, 0);
        if (child == 0) {
            if (turn % 2) call(SYS_exit_group, 7, 0, 0, 0, 0, 0);
            call(SYS_execve, (long)program, (long)words, (long)environ, 0, 0, 0);
            call(SYS_exit_group, 9, 0, 0, 0, 0, 0);
        }
        good &= WEXITSTATUS(ended(child)) == 7;
    }
    say("raw vfork and execve", good && is_same());
    child = 0;
    good = posix_spawn(&child, program, NULL, NULL, words, environ) == 0 && WEXITSTATUS(ended(child)) == 7;
    say("posix_spawn", good && is_same());
    static char stack[1 << 16] __attribute__((aligned(16)));
    child = clone(beside, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    say("a child with a stack of its own", WEXITSTATUS(ended(child)) == 7);
}

static void signals(void) {
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16}, told;
    say("raw sigaltstack", call(SYS_sigaltstack, (long)&stack, 0, 0, 0, 0, 0) == 0
                               && call(SYS_sigaltstack, 0, (long)&told, 0, 0, 0, 0) == 0 && told.ss_sp == stack.ss_sp);
    for (int flags = 0; flags <= SA_ONSTACK; flags += SA_ONSTACK) {
        seen = 0;
        set(SIGUSR1, handle, flags);
        raise(SIGUSR1);
        call(SYS_kill, getpid(), SIGUSR1, 0, 0, 0, 0);
        say(flags ? "a handler on a stack of its own" : "a handler", seen == 2);
    }
    sigset_t all, old, now;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    int good = is_same();
    sigprocmask(SIG_SETMASK, NULL, &now);
    good &= sigismember(&now, SIGTERM) && !sigismember(&now, SIGKILL) && !sigismember(&old, SIGTERM);
    call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, 8, 0, 0);
    say("all signals blocked", good && is_same());
    seen = 0;
    raise(SIGUSR1);
    good = seen == 0;
    sigset_t but_one = all;
    sigdelset(&but_one, SIGUSR1);
    sigsuspend(&but_one);
    good &= seen == 1;
    raise(SIGUSR1);
    struct timespec second = {.tv_sec = 5};
    good &= ppoll(NULL, 0, &second, &but_one) == -1 && errno == EINTR && seen == 2;
    raise(SIGUSR1);
    good &= pselect(0, NULL, NULL, NULL, &second, &but_one) == -1 && errno == EINTR && seen == 3;
    sigprocmask(SIG_SETMASK, &old, NULL);
    say("waiting with others blocked", good && is_same());
    // What waits is interrupted.
    int ends[2];
    char byte;
    good = pipe(ends) == 0;
    struct sigaction plain = {.sa_handler = nothing};
    sigaction(SIGALRM, &plain, NULL);
    alarm(1);
    good &= call(SYS_read, ends[0], (long)&byte, 1, 0, 0, 0) == -EINTR;
    say("a call that waits is interrupted", good);
    set(SIGUSR2, jump, SA_NODEFER);
    char fifo[4096];
    snprintf(fifo, sizeof fifo, "%s.fifo", tree);
    mkfifo(fifo, 0600);
    good = 1;
    // Whoever jumps out of fork(3) leaves its lock taken: nobody is told before all is ready for it.
    sigset_t usr2;
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    for (volatile int turn = 0; turn < 40; turn++) {
        sigprocmask(SIG_BLOCK, &usr2, NULL);
        volatile pid_t child = fork();
        if (child == 0) {
            usleep(3000);
            kill(getppid(), SIGUSR2);
            _exit(0);
        }
        if (sigsetjmp(away, 1) == 0) {
            sigprocmask(SIG_UNBLOCK, &usr2, NULL);
            if (turn % 2) call(SYS_read, ends[0], (long)&byte, 1, 0, 0, 0);
            else call(SYS_open, (long)fifo, O_RDONLY, 0, 0, 0, 0);
            good = 0;
        }
        ended(child);
        good &= is_same();
    }
    sigprocmask(SIG_UNBLOCK, &usr2, NULL);
    unlink(fifo);
    say("jumps out of calls that wait", good);
}

static void own_signal(void) {
    struct sigaction action = {.sa_sigaction = handle_info, .sa_flags = SA_SIGINFO | SA_RESTART}, told;
    sigaddset(&action.sa_mask, SIGTERM);
    int good = sigaction(SIGSYS, &action, NULL) == 0 && sigaction(SIGSYS, NULL, &told) == 0;
    good &= told.sa_sigaction == handle_info && (told.sa_flags & ~0x4000000) == action.sa_flags && sigismember(&told.sa_mask, SIGTERM);
    seen = 0;
    raise(SIGSYS);
    good &= seen == 1 && seen_code == SI_TKILL && is_same();
    kill(getpid(), SIGSYS);
    good &= seen == 2 && seen_code == SI_USER && is_same();
    say("an own handler of SIGSYS", good);
    action.sa_flags |= SA_RESETHAND;
    sigaction(SIGSYS, &action, NULL);
    raise(SIGSYS);
    sigaction(SIGSYS, NULL, &told);
    say("a handler for one time", seen == 3 && told.sa_handler == SIG_DFL && is_same());
    pid_t child = fork();
    if (child == 0) {
        raise(SIGSYS);
        _exit(0);
    }
    int status = ended(child);
    say("dying of SIGSYS", WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    signal(SIGSYS, SIG_IGN);
    raise(SIGSYS);
    good = is_same();
    child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "kill -s SYS $$; exit 7", NULL);
        _exit(9);
    }
    say("ignoring SIGSYS, and what is started then", good && WEXITSTATUS(ended(child)) == 7 && is_same());
    signal(SIGSYS, SIG_DFL);
    child = fork();
    if (child == 0) {
        // As linux/filter.h and linux/seccomp.h have it: getppid(2) and prctl(2) are trapped, all else is allowed.
        struct { unsigned short code; unsigned char yes, no; unsigned value; } steps[] = {
            {0x20, 0, 0, 0},           {0x15, 1, 0, SYS_prctl},   {0x15, 0, 1, SYS_getppid},
            {0x06, 0, 0, 0x00030000}, {0x06, 0, 0, 0x7fff0000},
        };
        struct { unsigned short length; void *steps; } filter = {5, steps};
        struct sigaction answers = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &answers, NULL);
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        prctl(PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, &filter);
        pthread_t thread;
        int begun = pthread_create(&thread, NULL, in_sandbox, NULL) == 0;
        pthread_join(thread, NULL);
        _exit(begun && prctls == 0 && prctl(PR_GET_DUMPABLE) == 77 && getppid() == 77 && call(SYS_getppid, 0, 0, 0, 0, 0, 0) == 77 && is_same() ? 7 : 8);
    }
    say("a sandbox of its own", WEXITSTATUS(ended(child)) == 7);
}

static void changes(void) {
    char path[4096], other[4096];
    struct stat stat;
    path_of(path, "d/new");
    path_of(other, "d/other");
    printf("mkdir: %ld", call(SYS_mkdir, (long)path, 0755, 0, 0, 0, 0));
    printf(", again: %ld", call(SYS_mkdir, (long)path, 0755, 0, 0, 0, 0));
    printf(", rename: %ld", call(SYS_rename, (long)path, (long)other, 0, 0, 0, 0));
    printf(", stat: %ld", call(SYS_stat, (long)other, (long)&stat, 0, 0, 0, 0));
    printf(", rmdir: %ld", call(SYS_rmdir, (long)other, 0, 0, 0, 0, 0));
    path_of(path, "d/b");
    printf(", unlink: %ld", call(SYS_unlink, (long)path, 0, 0, 0, 0, 0));
    printf(", nowhere: %ld %ld\n", call(SYS_open, 0, 0, 0, 0, 0, 0), call(SYS_rt_sigaction, SIGSYS, 1, 0, 8, 0, 0));
    look(expected);
    fputs(expected, stdout);
}

// More instructions than anything is kept of, and one that is for programs of 32 bits.
static void odd(void) {
    long process = getpid(), result, sum = 0;
    __asm__ volatile("xor %%ebx, %%ebx\n\t.rept 700\n\tmov $39, %%eax\n\tsyscall\n\tadd %%rax, %%rbx\n\t.endr\n\tmov %%rbx, %0"
                     : "=r"(sum)::"rax", "rbx", "rcx", "r11", "memory", "cc");
    say("many instructions", sum == 700 * process && is_same());
    __asm__ volatile("xor %%ebx, %%ebx\n\t.rept 100\n\tmov $57, %%eax\n\tsyscall\n\ttest %%eax, %%eax\n\tjnz 1f\n\t"
                     "xor %%edi, %%edi\n\tmov $231, %%eax\n\tsyscall\n\t1: add $1, %%rbx\n\t.endr\n\tmov %%rbx, %0"
                     : "=r"(sum)::"rax", "rbx", "rcx", "rdi", "r11", "memory", "cc");
    for (int at = 0; at < 100; at++) sum -= ended(-1) == 0;
    say("many instructions that fork", sum == 0 && is_same());
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "cc");
    say("a call of another kind", result == process && is_same());
}

int main(int count, char **words) {
    if (count == 3 && strcmp(words[1], "look") == 0) {
        tree = words[2];
        look(expected);
        return strstr(expected, "a: open") != NULL ? 7 : 8;
    }
    if (count < 2) return 2;
    tree = words[count - 1];
    look(expected);
    fputs(expected, stdout);
    if (count == 3) {
        odd();
        return 0;
    }
    threads();
    children();
    signals();
    own_signal();
    changes();
    return 0;
}
