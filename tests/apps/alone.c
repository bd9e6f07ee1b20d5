// Copies the start of a file to its output, by a system call beside which nothing can move: with LIBRARY, the library
// that makes it.
//
// usage: alone FILE
#ifdef LIBRARY
__asm__(".text\n"
        ".p2align 4\n"
        ".globl own_open\n"
        ".type own_open, @function\n"
        "own_open: mov $2, %eax\n"
        "1: syscall\n"
        "ret\n"
        ".byte 0x0f, 0x1f, 0x80, 0, 0, 0, 0\n"
        ".p2align 4\n"
        "jmp 1b\n");
#else
#include <fcntl.h>
#include <unistd.h>

long own_open(const char *path, int flags, int mode);

int main(int count, char **words) {
    char bytes[4096];
    int file = count == 2 ? (int)own_open(words[1], O_RDONLY, 0) : -1;
    long length = file < 0 ? -1 : read(file, bytes, sizeof bytes);
    return length < 0 || write(1, bytes, length) != length;
}
#endif
