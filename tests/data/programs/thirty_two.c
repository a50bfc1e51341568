/* thirty_two, which calls getpid as programs of 32 bits do, three times; and exit as those of 64 bits. Made by:
 *   gcc -static -nostdlib -s -o thirty_two thirty_two.c
 */

__asm__(".globl _start\n_start:\n"
        ".rept 3\n mov $20, %eax\n int $0x80\n.endr\n"
        " xor %edi, %edi\n mov $60, %eax\n syscall\n");
