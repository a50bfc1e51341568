/* Pointers of which prototypes say nothing, or something else: what they point to only variables tell. */
struct part {
	int x, y;
};

struct item {
	int a, b;
	struct item *next;
	struct part part;
	long c;
};

struct holder {
	long count;
	struct part *payload;
};

int outside(int value);
int seldom(int value);

#define keep(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

int by_void(void *data)
{
	struct item *it = data;

	keep(it);
	return it->b;
}

static inline int part_of(void *data)
{
	struct item *inlined = data;

	keep(inlined);
	return inlined->part.y;
}

int by_inlined(void *data)
{
	return part_of(data) + 1;
}

int by_part(struct part *part)
{
	struct item *whole = (struct item *)((char *)part - __builtin_offsetof(struct item, part));

	__asm__ volatile("" : : : "memory");
	return part->x + outside(whole->b) + whole->a;
}

int by_cast(struct holder *holder)
{
	struct item *it = (struct item *)holder->payload;

	keep(it);
	return it->b;
}

int by_slot(void *data, void *other)
{
	struct item *spilled = data;

	__asm__ volatile("" : "+m"(spilled) : : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11",
			 "r12", "r13", "r14", "r15", "memory");
	return *(int *)((char *)spilled + 4);
}

int by_cold(void *data, int value)
{
	struct item *it = data;

	if (__builtin_expect(value != 0, 0)) {
		value = seldom(value);
		keep(it);
		return it->a + value;
	}
	return 0;
}

int by_members(void *data)
{
	return ((struct item *)data)->a; /* no variable of the type */
}

int __attribute__((noinline)) outside(int value)
{
	__asm__ volatile("" : : : "memory");
	return value ^ 5;
}

int __attribute__((noinline, cold)) seldom(int value)
{
	__asm__ volatile("" : : : "memory");
	return value ^ 6;
}

int begin(void)
{
	return 0;
}
