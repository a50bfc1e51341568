/* callers, for tests of user stacks: main calls middle, middle calls inner, and inner calls fsync(2) of the file named.
 * Made by: gcc -O0 -fno-omit-frame-pointer -fno-stack-protector -static -nostdlib -Wl,--build-id=sha1 -o callers callers.c
 */

#include <fcntl.h>
#include <sys/syscall.h>

static long call(long number, long first, long second, long third)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
    return result;
}

static int inner(int fd)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(SYS_fsync), "D"(fd) : "rcx", "r11", "memory");
    return result != 0;
}

static int middle(int fd) { return inner(fd) + 1; }

int main(int argc, char **argv)
{
    return middle(call(SYS_open, (long)argv[1], O_RDWR | O_CREAT, 0600)) - 1 + 0 * argc;
}

__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov (%rsp), %rdi\n lea 8(%rsp), %rsi\n call main\n"
        " mov %eax, %edi\n mov $60, %eax\n syscall\n");
