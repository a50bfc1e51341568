/* items.so and items.dwz, for tests of debug information that is shortened: what two libraries have in common lies in
 * items.dwz, what the files of one have in common in a unit of its own. Made by:
 *   for n in 1 2 3 4; do gcc -g -O1 -fPIC -ffile-prefix-map=$PWD=. -DNAME=get$n -c -o $n.o items.c; done
 *   gcc -shared -nostdlib -o items.so 1.o 2.o; gcc -shared -nostdlib -o other.so 3.o 4.o
 *   dwz -m items.dwz -M items.dwz items.so other.so; rm ?.o other.so
 */
enum state { FRESH, STALE = 3 };
struct place { unsigned short row, column; const char *name; };
struct item {
	struct item *next;
	struct place place;
	enum state state;
	long long counts[4];
};

long NAME(struct item *item, enum state wanted)
{
	return item->state == wanted ? item->counts[3] : item->next->place.row;
}
