// Draws a random number. Fails where there is none.

#include <sys/random.h>

int main(void) {
    unsigned char byte;
    return getrandom(&byte, sizeof byte, 0) == sizeof byte ? 0 : 1;
}
