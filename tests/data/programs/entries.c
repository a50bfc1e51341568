/* entries, for tests of who called a function, as its first instruction sees it: each function here begins otherwise.
 * Made by: gcc -O0 -fno-omit-frame-pointer -fno-stack-protector -fcf-protection=none -static -nostdlib
 *     -Wl,--build-id=sha1 -o entries entries.c
 */

int bare(int n);
int marked(int n);

int framed(int n) { return n + 1; }

int deep(int n) { return n ? deep(n - 1) : bare(0); }

int middle(int n) { return framed(n) + marked(n) + bare(n) + deep(2); }

int main(void) { return middle(0) != 1; }

__asm__(".globl bare, marked, _start\n"
        ".type bare, @function\nbare: mov $0, %eax\n ret\n.size bare, . - bare\n"
        ".type marked, @function\nmarked: endbr64\n mov $0, %eax\n ret\n.size marked, . - marked\n"
        ".type _start, @function\n_start: xor %ebp, %ebp\n call main\n mov %eax, %edi\n mov $60, %eax\n syscall\n"
        ".size _start, . - _start\n");
