/* shapes.so, for tests of probes in user programs. Made by:
 *   gcc -g -gdwarf-4 -O1 -fno-inline -fcf-protection=none -shared -fPIC -nostdlib -Wl,--build-id -o shapes.so shapes.c
 */
struct point { long x, y; };
struct small { int a; };
struct large { long v[4]; };

static long hidden(long value) { return value + 1; }

long area(struct point *corner, int scale, const char *label)
{
	return hidden(corner->x * corner->y * scale) + (label[0] == 'x');
}

double mix(int first, double weight, int second) { return first * weight + second; }

int many(int a, int b, int c, int d, int e, int f, long g, short h) { return a + b + c + d + e + f + g + h; }

long by_value(struct large big, long n) { return big.v[3] + n; }

long by_register(struct small s, long n) { return s.a + n; }

void nothing(void) { }
