/* A file with an inlined function of its own, and a .c file that it includes. */
#include "../include/queue.h"

int outside(int value);
volatile int sink;

static inline int twice(int number)
{
	return outside(number) + outside(number + 1);
}

int begin(struct queue *queue, int number)
{
	if (!queue)
		return 0;
	sink = queue_len(queue, 3);
	return twice(number);
}

int again(int a, int b)
{
	int result = twice(b);

	while (a-- > 0)
		result += outside(a);
	return result;
}

#include "part.c"
